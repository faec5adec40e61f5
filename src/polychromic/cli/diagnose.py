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
    from polychromic.experiment.diagnose import diagnosis_of, open_finished_or_running
    from polychromic.files import write_json
    from polychromic.system_errors import in_words

    failures = []
    for run in runs:
        try:
            with in_words(run):
                experiment, folder = open_finished_or_running(run)
                diagnosis = diagnosis_of(experiment, folder)
                show_diagnosis(str(run), diagnosis)
                write_json(folder.diagnosis, diagnosis.to_json())
        except PolychromicError as error:
            failures.append(str(error))
            continue
        typer.echo(f"\nwritten to {folder.diagnosis}\n")
    if failures:
        # The runs that can be read have had their say, also where it cannot be written down.
        raise PolychromicError("\n".join(failures))
