"""The command line. Heavy libraries are imported inside the verbs, so that `--help` answers at once."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polychromic import __version__
from polychromic.errors import PolychromicError

if TYPE_CHECKING:
    from polychromic.experiment.run import RunResult

app = typer.Typer(
    name="polychromic",
    help="Fine-tune language models that give many different good answers, and prove that they do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="The experiment file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, such as training.steps=20."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where run folders live.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Delete the run folder and start anew.")]


@app.command()
def run(
    experiment: ExperimentFile, overrides: Overrides = None, out: Out = Path("runs"), fresh: Fresh = False
) -> None:
    """Train every arm and seed, evaluate, compare and report. Continues where an earlier start stopped."""
    from polychromic.experiment.run import run as run_experiment

    _show_result(run_experiment(experiment, overrides or (), out=out, fresh=fresh))


@app.command()
def train(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm (repeatable).")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed (repeatable).")] = None,
    out: Out = Path("runs"),
    fresh: Fresh = False,
) -> None:
    """Train arms without evaluating them."""
    from polychromic.errors import ConfigError
    from polychromic.experiment.folder import open_run_folder
    from polychromic.experiment.run import as_experiment, do_jobs

    chosen = as_experiment(experiment, overrides or ())
    unknown = set(arm or ()) - set(chosen.arms)
    if unknown:
        raise ConfigError(f"--arm {sorted(unknown)[0]}: no such arm; the file has {', '.join(chosen.arms)}")
    folder = open_run_folder(chosen, out, fresh=fresh)
    do_jobs(chosen, folder, ("train",), arms=arm, seeds=seed)
    typer.echo(f"adapters are in {folder.root}")


@app.command()
def evaluate(experiment: ExperimentFile, overrides: Overrides = None, out: Out = Path("runs")) -> None:
    """Sample the trained arms, measure and compare them."""
    from polychromic.experiment.folder import open_run_folder
    from polychromic.experiment.run import RunResult, as_experiment, compare_and_report, do_jobs

    chosen = as_experiment(experiment, overrides or ())
    folder = open_run_folder(chosen, out)
    do_jobs(chosen, folder, ("evaluate",))
    _show_result(RunResult(folder, compare_and_report(chosen, folder)))


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")],
) -> None:
    """Build the comparison and the page anew from a run's generations."""
    from polychromic.errors import ConfigError
    from polychromic.experiment.config import Experiment
    from polychromic.experiment.folder import RunFolder, read_resolved
    from polychromic.experiment.run import RunResult, compare_and_report

    folder = RunFolder(run_folder)
    if not folder.experiment.is_file():
        raise ConfigError(f"{run_folder}: not a run folder (experiment.yaml is missing)")
    chosen = Experiment.from_mapping(read_resolved(folder.experiment), source=str(folder.experiment))
    _show_result(RunResult(folder, compare_and_report(chosen, folder)))


@app.command()
def audit(
    objective: Annotated[
        str, typer.Option(help="An objective, such as coverage or polychromic.")
    ] = "coverage",
    set_size: Annotated[int, typer.Option(help="K, generations in a set.")] = 4,
    wrong_clusters: Annotated[
        str, typer.Option(help="Numbers of wrong answers to try, such as 1,3,6.")
    ] = "1,3,6",
    correct_modes: Annotated[int, typer.Option(help="How many different answers are right.")] = 1,
    diversity_weight: Annotated[
        float | None, typer.Option(help="λ of reward + λ objective; the objective alone if left out.")
    ] = None,
) -> None:
    """Say where an objective's optimum puts its probability: on right answers, or where being wrong pays."""
    from polychromic.errors import ConfigError
    from polychromic.objective.audit import audit as audit_objective

    try:
        found = [
            audit_objective(
                objective,  # type: ignore[arg-type]  # an unknown name is refused with the known ones
                set_size,
                int(wrong),
                correct_modes=correct_modes,
                diversity_weight=diversity_weight,
            )
            for wrong in wrong_clusters.split(",")
        ]
    except ValueError as error:
        raise ConfigError(f"audit: {error}") from error
    for one in found:
        typer.echo(
            f"{one.wrong_clusters} wrong clusters: P(correct) = {one.p_correct:.3f}, "
            f"{one.effective_modes:.2f} of {one.correct_modes} correct answers in use"
        )
        if one.warning:
            typer.echo(f"  warning: {one.warning}")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path(
        "experiment.yaml"
    ),
) -> None:
    """Write a commented experiment file to start from."""
    from polychromic.errors import ConfigError
    from polychromic.experiment.template import experiment_template

    if path.exists():
        raise ConfigError(f"{path} exists already; name another file")
    path.write_text(experiment_template(path.stem), encoding="utf-8")
    typer.echo(f"wrote {path}; edit it, then: polychromic run {path}")


def _show_result(result: RunResult) -> None:
    from polychromic.report.terminal import show_comparison

    show_comparison(result.comparison)
    typer.echo(f"\nreport: {result.folder.report}")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more of what is done.")] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(message)s", stream=sys.stderr
    )


def main() -> None:
    """Entry point: errors for people are one message and exit code 1; a second start continues after Ctrl-C."""
    # Progress bars of loading libraries would tear ours, and the tokenizer's threads cannot survive a fork.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except PolychromicError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to continue", err=True)
        sys.exit(130)
