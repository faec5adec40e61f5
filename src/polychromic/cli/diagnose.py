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
    from polychromic.experiment.diagnose import diagnose_run, open_finished_or_running

    for run in runs:
        experiment, folder = open_finished_or_running(run)
        show_diagnosis(str(run), diagnose_run(experiment, folder))
        typer.echo(f"\nwritten to {folder.diagnosis}")
