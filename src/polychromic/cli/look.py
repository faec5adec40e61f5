"""Verbs that look and change nothing: audit, check, cost, diagnose."""

from __future__ import annotations

from math import comb, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from polychromic.cli.run import Overrides, RunFolderPath, stated_options

if TYPE_CHECKING:
    from polychromic.experiment.config import Arm
    from polychromic.objective.audit import Audit


def audit(
    context: typer.Context,
    experiment: Annotated[
        Path | None, typer.Argument(metavar="[EXPERIMENT.yaml]", help="Audit every arm's objective and λ instead.")
    ] = None,
    overrides: Overrides = None,
    objective: Annotated[str, typer.Option(help="An objective, such as coverage or polychromic.")] = "coverage",
    set_size: Annotated[int, typer.Option(help="K, generations in a set.")] = 4,
    wrong_clusters: Annotated[str, typer.Option(help="Numbers of wrong answers to try, such as 1,3,6.")] = "1,3,6",
    correct_modes: Annotated[int, typer.Option(help="How many different answers are right.")] = 1,
    diversity_weight: Annotated[
        float | None, typer.Option(help="λ of reward + λ objective; the objective alone if left out.")
    ] = None,
    gate: Annotated[str, typer.Option(help="Of distance, vendi and logdet: product, passing or none.")] = "product",
) -> None:
    """Say where an objective's optimum puts its probability: on right answers, or where being wrong pays."""
    if experiment is not None:
        _refuse_own_objective(context, experiment)
        _audit_experiment(experiment, overrides or [], wrong_clusters, correct_modes)
        return
    for wrong in _numbers(wrong_clusters):
        _show(_audited(objective, set_size, wrong, correct_modes, diversity_weight, gate))


def _refuse_own_objective(context: typer.Context, path: Path) -> None:
    """Raises ConfigError where options describe an objective beside a file, whose arms have theirs."""
    from polychromic.errors import ConfigError

    for option in stated_options(context, "objective", "set_size", "diversity_weight", "gate"):
        key = "diversity." + option.removeprefix("--").removeprefix("diversity-").replace("-", "_")
        raise ConfigError(
            f"{option}: the arms of {path} state their own objective; leave the option out, or change the file's by an "
            f"override ({key}=…, arms.NAME.{key}=… where an arm states it)"
        )


def _audit_experiment(path: Path, overrides: list[str], wrong_clusters: str, correct_modes: int) -> None:
    from polychromic.experiment.run import as_experiment

    chosen = as_experiment(path, overrides)
    for arm in map(chosen.arm, chosen.arms):
        settings = arm.diversity
        if arm.untrained or not settings.is_active:
            typer.echo(f"{arm.name}: no diversity term")
            continue
        weight = 1.0 if settings.weight == "auto" else settings.weight
        tuned = " (tuned while training; audited at 1)" if settings.weight == "auto" else ""
        typer.echo(
            f"{arm.name}: {arm.loss.quality} + {weight:g}{tuned} × {settings.objective}, K = {settings.set_size}, "
            f"gate: {settings.gate}"
        )
        _say_what_is_sampled(arm)
        for wrong in _numbers(wrong_clusters):
            _show(_audited(settings.objective, settings.set_size, wrong, correct_modes, weight, settings.gate), "  ")


def _say_what_is_sampled(arm: Arm) -> None:
    """Notes where training scores sampled subsets, since there are too many; the audit sums over all kinds of set."""
    from polychromic.objective import sampled_subsets

    settings = arm.diversity
    n = arm.loss.num_samples
    drawn = sampled_subsets(settings.objective, settings.set_size, n)
    if drawn:
        typer.echo(
            f"  note: training scores {drawn} sampled subsets of the {comb(n, settings.set_size)} that {n} generations "
            "have: unbiased, with more variance"
        )


def _audited(objective: str, set_size: int, wrong: int, correct_modes: int, weight: float | None, gate: str) -> Audit:
    from polychromic.errors import ConfigError
    from polychromic.objective.audit import audit as audit_objective

    try:
        return audit_objective(
            objective,  # type: ignore[arg-type]  # an unknown name is refused with the known ones
            set_size,
            wrong,
            correct_modes=correct_modes,
            diversity_weight=weight,
            gate=gate,  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise ConfigError(f"audit: {error}") from error


def _numbers(text: str) -> list[int]:
    from polychromic.errors import ConfigError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--wrong-clusters {text!r}: expected whole numbers such as 1,3,6") from error


def _show(audit: Audit, indent: str = "") -> None:
    from polychromic.objective.audit import count

    used = "none" if isnan(audit.effective_modes) else f"{audit.effective_modes:.2f}"
    noun = "answer" if audit.correct_modes == 1 else "answers"
    typer.echo(
        f"{indent}{count(audit.wrong_clusters)}: P(correct) = {audit.p_correct:.3f}, "
        f"{used} of {audit.correct_modes} correct {noun} in use"
    )
    if audit.warning:
        typer.echo(f"{indent}  warning: {audit.warning}")


_MARKS = {"right": "[green]✓[/]", "note": "[yellow]·[/]", "wrong": "[red]✗[/]"}


def check(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Hub id, folder, or another name that model.source takes.")
    ],
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A saved PEFT adapter; without it a fresh LoRA adapter.")
    ] = None,
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], typer.Option(help="As model.dtype.")] = "float32",
    length: Annotated[int, typer.Option(min=16, help="Tokens of the longest prompt with its answer.")] = 256,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the model.")] = False,
) -> None:
    """Check that sampling, training and a plain forward pass agree on a model: run it before anything else."""
    from rich.console import Console
    from rich.markup import escape

    from polychromic.models.loading import load_language_model
    from polychromic.models.model_report import describe_model
    from polychromic.models.settings import ModelSettings

    settings = ModelSettings(source=model, dtype=dtype, trust_remote_code=trust_remote_code)
    language_model = load_language_model(settings, seed=0, adapter=adapter)
    console = Console()
    wrong = []
    for row in describe_model(language_model, length, trains=adapter is None):
        if row.status == "wrong":
            wrong.append(row.name)
        console.print(f"{_MARKS[row.status]} {row.name:<13} {escape(row.answer)}", highlight=False, soft_wrap=True)
    if wrong:
        console.print(f"[red]wrong: {', '.join(wrong)}[/]")
        raise typer.Exit(1)


def cost(run_folder: RunFolderPath) -> None:
    """Say what a run has cost, what is left to do, and what a percent of gain costs."""
    from polychromic.experiment.costs import cost_lines, run_cost
    from polychromic.experiment.progress.watch import open_finished_or_running

    experiment, folder = open_finished_or_running(run_folder)
    for line in cost_lines(run_cost(experiment, folder)):
        typer.echo(line)


def diagnose(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, finished or running.")],
) -> None:
    """Say in plain words what a run's training did, what looks wrong and what to change, in order."""
    from polychromic.diagnosis.run import show_diagnosis
    from polychromic.errors import PolychromicError, in_words
    from polychromic.experiment.progress.watch import diagnosis_of, open_finished_or_running
    from polychromic.files import write_json

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
