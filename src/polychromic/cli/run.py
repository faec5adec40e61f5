"""Verbs that work on an experiment: preflight, train, evaluate, run."""

from __future__ import annotations

import json
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
    from polychromic.report.text import show_comparison

    show_comparison(result.comparison)
    typer.echo(f"\nreport: {result.folder.report}")


def run(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    fresh: Fresh = False,
    yes: Yes = False,
) -> None:
    """Train every arm and seed, evaluate, compare and report. Continues where an earlier start stopped; adds seeds,
    arms, prompts or samples to a finished run."""
    from polychromic.experiment.run import run as run_experiment

    show_result(run_experiment(experiment, overrides or (), out=out, fresh=fresh, yes=yes))


def train(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm (repeatable).")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed (repeatable).")] = None,
    out: Out = Path("runs"),
    fresh: Fresh = False,
    yes: Yes = False,
) -> None:
    """Train arms without evaluating them."""
    from polychromic.errors import ConfigError
    from polychromic.experiment.resuming.continuing import working_folder
    from polychromic.experiment.run import as_experiment, do_jobs

    chosen = as_experiment(experiment, overrides or ())
    unknown = set(arm or ()) - set(chosen.arms)
    if unknown:
        raise ConfigError(f"--arm {sorted(unknown)[0]}: no such arm; the file has {', '.join(chosen.arms)}")
    others = set(seed or ()) - set(chosen.seeds)
    if others:
        listed = ", ".join(map(str, chosen.seeds))
        raise ConfigError(
            f"--seed {min(others)}: no such seed; the file has {listed} (the override seeds=[...] changes them)"
        )
    with working_folder(chosen, out, fresh=fresh, yes=yes) as folder:
        do_jobs(chosen, folder, ("train",), arms=arm, seeds=seed)
    typer.echo(f"adapters are in {folder.root}")


def preflight(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Check in a minute what a run would find out in hours: model, data, checker, gradients, memory, time, cost."""
    from polychromic.experiment.preflight import preflight as check
    from polychromic.experiment.preflight.runner import show_check
    from polychromic.experiment.run import as_experiment
    from polychromic.files import strict_json

    chosen = as_experiment(experiment, overrides or ())
    report = check(chosen, out / chosen.name, (lambda _: None) if as_json else show_check)
    if as_json:
        typer.echo(json.dumps(json.loads(strict_json(report.to_json())), indent=2))
    if report.failed:
        raise typer.Exit(1)


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
    from polychromic.experiment.resuming.continuing import working_folder
    from polychromic.experiment.run import RunResult, as_experiment, compare_and_report, do_jobs

    chosen = as_experiment(experiment, overrides or ())
    with working_folder(chosen, out) as folder:
        do_jobs(chosen, folder, ("evaluate",))
        show_result(RunResult(folder, compare_and_report(chosen, folder)))


def _compare_files(experiment: Path, generations: list[str], others: list[str], out: Path) -> None:
    from polychromic.experiment.external import ExternalExperiment, evaluate_external, split_arguments
    from polychromic.run_folder import RunFolder

    files, overrides = split_arguments(generations, others)
    chosen = ExternalExperiment.from_file(experiment, files, overrides)
    show_result(evaluate_external(chosen, RunFolder(out / chosen.name)))
