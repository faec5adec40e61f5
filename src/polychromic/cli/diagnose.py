"""`polychromic diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def diagnose(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, finished or running.")],
) -> None:
    """Say in plain words what a run's training did, what looks wrong and what to change, in order."""
    from polychromic.diagnosis.show import show_diagnosis
    from polychromic.errors import PolychromicError
    from polychromic.experiment.diagnose import diagnose_run, open_finished_or_running

    failures = []
    for run in runs:
        try:
            experiment, folder = open_finished_or_running(run)
            diagnosis = diagnose_run(experiment, folder)
        except PolychromicError as error:
            failures.append(str(error))
            continue
        show_diagnosis(str(run), diagnosis)
        typer.echo(f"\nwritten to {folder.diagnosis}\n")
    if failures:
        # The runs that can be read have had their say.
        raise PolychromicError("\n".join(failures))
