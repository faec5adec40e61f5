"""`polychromic evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polychromic.cli.options import ExperimentFile, Out, Overrides, show_result

Generations = Annotated[
    list[str] | None,
    typer.Option(
        "--generations",
        metavar="NAME=FILE",
        help="Compare generations made anywhere instead (repeatable): JSON lines with prompt id and text.",
    ),
]


def evaluate(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    generations: Generations = None,
    out: Out = Path("runs"),
) -> None:
    """Sample the trained arms, measure and compare them; or compare files of generations."""
    if generations:
        _compare_files(experiment, generations, overrides or [], out)
        return
    from polychromic.experiment.run import (
        RunResult,
        as_experiment,
        compare_and_report,
        do_jobs,
        working_folder,
    )

    chosen = as_experiment(experiment, overrides or ())
    with working_folder(chosen, out) as folder:
        do_jobs(chosen, folder, ("evaluate",))
        show_result(RunResult(folder, compare_and_report(chosen, folder)))


def _compare_files(experiment: Path, generations: list[str], others: list[str], out: Path) -> None:
    from polychromic.experiment.folder import RunFolder
    from polychromic.experiment.given import GivenExperiment, evaluate_given, split_arguments

    files, overrides = split_arguments(generations, others)
    chosen = GivenExperiment.from_file(experiment, files, overrides)
    show_result(evaluate_given(chosen, RunFolder(out / chosen.name)))
