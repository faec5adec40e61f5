"""Arguments that several verbs share, and how a result is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polychromic.files import user_path

if TYPE_CHECKING:
    from polychromic.experiment.run import RunResult

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="The experiment file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, such as training.steps=20."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where run folders live.", parser=user_path)]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew; what the run folder holds is moved aside.")]
Yes = Annotated[bool, typer.Option("--yes", help="With --fresh: do not ask where training has finished.")]
RunFolderPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]


def show_result(result: RunResult) -> None:
    """Print the comparison and where the page is."""
    from polychromic.report.terminal import show_comparison

    show_comparison(result.comparison)
    typer.echo(f"\nreport: {result.folder.report}")
