"""Verbs that work on an experiment: preflight, train, evaluate, run."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polychromic import __version__
from polychromic.files import user_path

if TYPE_CHECKING:
    from polychromic.experiment.run import RunResult

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="The experiment file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, such as training.steps=20.")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where run folders live.", parser=user_path)]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew; what the run folder holds is moved aside.")]
Yes = Annotated[bool, typer.Option("--yes", help="With --fresh: do not ask where training has finished.")]
RunFolderPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more of what is done, and show all tables.")]


def begin(what: str, *, verbose: bool = False) -> None:
    """Says what begins, before libraries that take seconds are loaded; with `verbose` log lines are shown too."""
    if verbose:
        logging.getLogger().setLevel(logging.INFO)
    typer.echo(f"{what} (polychromic {__version__})")
    sys.stdout.flush()


def stated_options(context: typer.Context, *names: str) -> list[str]:
    """Lists those of the parameters `names` that the command line states, as options are written there."""
    stated = [name for name in names if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"]
    return [f"--{name.replace('_', '-')}" for name in stated]


def show_result(result: RunResult, *, verbose: bool = False) -> None:
    """Print the verdict, last of all, and where the page is; with `verbose` all tables before it."""
    from polychromic.report.terminal import show_comparison

    details = verbose or logging.getLogger().isEnabledFor(logging.INFO)
    show_comparison(result.comparison, details=details)
    typer.echo(f"  page: {result.folder.report}")


def run(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    fresh: Fresh = False,
    yes: Yes = False,
    verbose: Verbose = False,
) -> None:
    """Train every arm and seed, evaluate, compare and report. Continues where an earlier start stopped; adds seeds,
    arms, prompts or samples to a finished run."""
    begin(f"run {experiment.name}", verbose=verbose)
    from polychromic.experiment.run import run as run_experiment

    result = run_experiment(experiment, overrides or (), out=out, fresh=fresh, yes=yes)
    show_result(result, verbose=verbose)


def train(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm (repeatable).")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed (repeatable).")] = None,
    out: Out = Path("runs"),
    fresh: Fresh = False,
    yes: Yes = False,
    verbose: Verbose = False,
) -> None:
    """Train arms without evaluating them."""
    begin(f"train {experiment.name}", verbose=verbose)
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
    """Check in minutes what a run would find out in hours: model, data, checker, gradients, memory, time, cost."""
    if not as_json:
        begin(f"preflight {experiment.name}")
    from polychromic.experiment.preflight import preflight as check
    from polychromic.experiment.preflight.results import ShownChecks
    from polychromic.experiment.run import as_experiment
    from polychromic.files import strict_json

    chosen = as_experiment(experiment, overrides or ())
    if as_json:
        report = check(chosen, out / chosen.name)
        typer.echo(json.dumps(json.loads(strict_json(report.to_json())), indent=2))
    else:
        with ShownChecks(every=True) as shown:
            report = check(chosen, out / chosen.name, shown.ended, shown.started)
    if report.failed:
        raise typer.Exit(1)


def evaluate(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    generations: Annotated[
        list[str] | None,
        typer.Option(
            "--generations",
            metavar="NAME=FILE",
            help="Compare generations made anywhere instead (repeatable): JSON lines with prompt id and text.",
        ),
    ] = None,
    out: Out = Path("runs"),
    verbose: Verbose = False,
) -> None:
    """Sample the trained arms, measure and compare them; or compare files of generations."""
    begin(f"evaluate {experiment.name}", verbose=verbose)
    if generations:
        _compare_files(experiment, generations, overrides or [], out, verbose=verbose)
        return
    from polychromic.experiment.resuming.continuing import working_folder
    from polychromic.experiment.run import RunResult, as_experiment, compare_and_report, do_jobs

    chosen = as_experiment(experiment, overrides or ())
    with working_folder(chosen, out) as folder:
        do_jobs(chosen, folder, ("evaluate",))
        show_result(RunResult(folder, compare_and_report(chosen, folder)), verbose=verbose)


def _compare_files(experiment: Path, generations: list[str], others: list[str], out: Path, *, verbose: bool) -> None:
    from polychromic.experiment.external import ExternalExperiment, evaluate_external, split_arguments
    from polychromic.run_folder import RunFolder

    files, overrides = split_arguments(generations, others)
    chosen = ExternalExperiment.from_file(experiment, files, overrides)
    show_result(evaluate_external(chosen, RunFolder(out / chosen.name)), verbose=verbose)
