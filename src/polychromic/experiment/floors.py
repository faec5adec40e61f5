"""The quality floor that an arm takes from the baseline arm: the baseline is trained first, and its trace is read."""

from __future__ import annotations

from collections.abc import Sequence

from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment
from polychromic.experiment.folder import RunFolder
from polychromic.files import read_jsonl


def in_order_of_need(experiment: Experiment, arms: Sequence[str]) -> list[list[str]]:
    """The arms in one or two waves: those whose floor follows the baseline come after it."""
    followers = [arm for arm in arms if experiment.arm(arm).diversity.follows_baseline]
    first = [arm for arm in arms if arm not in followers]
    return [wave for wave in (first, followers) if wave]


def baseline_quality(experiment: Experiment, arm: str, seed: int, folder: RunFolder) -> tuple[float, ...]:
    """The baseline's quality at each step of this seed, empty for an arm that does not follow it.

    Raises ConfigError where the baseline has not been trained yet.
    """
    if not experiment.arm(arm).diversity.follows_baseline:
        return ()
    baseline = experiment.comparison.baseline
    job = folder.job(baseline, seed)
    if not (job / "adapter").is_dir():
        raise ConfigError(
            f"arms.{arm}: diversity.floor_margin is measured from the trained arm {baseline!r}, and {job / 'adapter'} "
            f"does not exist; train it first: --arm {baseline} --seed {seed}"
        )
    return tuple(-row["train/quality_loss"] for row in read_jsonl(job / "metrics.jsonl"))
