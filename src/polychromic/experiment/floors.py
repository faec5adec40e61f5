"""The quality floor that an arm takes from the baseline arm: the baseline is trained first, and its trace is read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from polychromic.errors import ConfigError
from polychromic.experiment.config import Arm, Experiment
from polychromic.experiment.folder import RunFolder
from polychromic.files import read_jsonl


def in_order_of_need(experiment: Experiment, arms: Sequence[str]) -> list[list[str]]:
    """The arms in one or two waves: those whose floor follows the baseline come after it."""
    followers = [arm for arm in arms if experiment.arm(arm).diversity.follows_baseline]
    first = [arm for arm in arms if arm not in followers]
    return [wave for wave in (first, followers) if wave]


def is_measured_from(experiment: Experiment, arm: str) -> bool:
    """Whether the floor of another arm follows this one."""
    others = [experiment.arm(name).diversity for name in experiment.arms if name != arm]
    return arm == experiment.comparison.baseline and any(other.follows_baseline for other in others)


def quality_key(arm: Arm) -> str:
    """The metric whose negative a floor speaks of."""
    return "validation/cross_entropy" if arm.training.signal == "references" else "train/quality_loss"


def baseline_quality(experiment: Experiment, arm: str, seed: int, folder: RunFolder) -> tuple[float, ...]:
    """The baseline's quality at each step of this seed, empty for an arm that does not follow it.

    Mean reward, or minus the cross-entropy of validation references: nan at steps that did not measure it.
    Raises ConfigError where the baseline has not been trained yet, or not with a look at validation references.
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
    key = quality_key(experiment.arm(arm))
    quality = tuple(-row.get(key, math.nan) for row in read_jsonl(job / "metrics.jsonl"))
    if all(map(math.isnan, quality)):
        raise ConfigError(
            f"arms.{arm}: diversity.floor_margin is measured from {key} of {job / 'metrics.jsonl'}, which has none: "
            f"the arm {baseline!r} was trained without another arm that follows it; start anew with --fresh"
        )
    return quality
