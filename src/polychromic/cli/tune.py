"""Searches settings on validation prompts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polychromic.cli.run import ExperimentFile, Out, Overrides, begin

if TYPE_CHECKING:
    from polychromic.experiment.cluster.tuning import Trial


def tune(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    arm: Annotated[str, typer.Option(help="The arm whose settings are searched.")] = "",
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of earlier starts counted.")] = 20,
    weight: Annotated[str, typer.Option(metavar="LOW,HIGH", help="Range of λ; `off` leaves it as it is.")] = "0.1,10",
    set_size: Annotated[str | None, typer.Option(metavar="K,K…", help="Sizes of sets to choose from.")] = None,
    learning_rate: Annotated[str | None, typer.Option(metavar="LOW,HIGH", help="Range of the learning rate.")] = None,
    metric: Annotated[
        str, typer.Option(help="What a trial should reach most of, or least where less is better.")
    ] = "distinct_correct",
    quality: Annotated[str, typer.Option(help="What the floor holds.")] = "pass@1",
    margin: Annotated[float, typer.Option(min=0.0, help="How far below the baseline's quality is kept.")] = 0.05,
    out: Out = Path("runs"),
) -> None:
    """Search λ, K and the learning rate of an arm on validation prompts, never on the test split. A trial whose quality
    falls below the floor ends early. Run again to continue, or for more trials."""
    begin(f"tune {experiment.name}")
    from polychromic.errors import ConfigError
    from polychromic.experiment.cluster.tuning import Search, overrides_of
    from polychromic.experiment.cluster.tuning import tune as search_settings
    from polychromic.experiment.run import as_experiment

    chosen = as_experiment(experiment, overrides or ())
    active = [name for name in chosen.arms if chosen.arm(name).diversity.is_active]
    search = Search(
        arm=arm or (active[0] if len(active) == 1 else ""),
        weight=None if weight == "off" else _range("--weight", weight),
        set_sizes=None if set_size is None else _sizes(set_size),
        learning_rate=None if learning_rate is None else _range("--learning-rate", learning_rate),
        metric=metric,
        quality=quality,
        margin=margin,
    )
    ranked = search_settings(chosen, search, out, n_trials=trials, on_trial=_show)
    best = ranked[0]
    if best.state != "kept":
        raise ConfigError(
            f"none of {len(ranked)} trials keeps {quality} within {margin:g} of the baseline's; widen --margin, or "
            "search smaller λ and learning rates"
        )
    typer.echo(f"best: {metric} {best.value:.4g} with {quality} {best.quality:.4g} on validation prompts; judge it by")
    words = [str(experiment), *(overrides or ()), *overrides_of(best, search.arm)]
    typer.echo(f"  polychromic run {shlex.join(words)}")


def _show(trial: Trial) -> None:
    settings = ", ".join(f"{key} {value:.4g}" for key, value in trial.settings.items())
    values = "" if trial.value is None else f": {trial.value:.4g} at quality {trial.quality:.4g}"
    typer.echo(f"trial {trial.number}: {settings}{values}, {trial.state}")


def _range(option: str, text: str) -> tuple[float, float]:
    from polychromic.errors import ConfigError

    numbers = _numbers(option, text)
    if len(numbers) != 2 or not 0 < numbers[0] < numbers[1]:
        raise ConfigError(f"{option} {text}: expected LOW,HIGH with 0 < LOW < HIGH, such as 0.1,10")
    return numbers[0], numbers[1]


def _sizes(text: str) -> tuple[int, ...]:
    from polychromic.errors import ConfigError

    numbers = _numbers("--set-size", text)
    if not all(number.is_integer() for number in numbers):
        raise ConfigError(f"--set-size {text}: expected whole numbers with commas between them, such as 2,4")
    return tuple(dict.fromkeys(map(int, numbers)))


def _numbers(option: str, text: str) -> list[float]:
    from polychromic.errors import ConfigError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text}: expected numbers with commas between them") from None
