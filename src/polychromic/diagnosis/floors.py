"""Whether an arm whose λ had to keep a quality floor ended above it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from polychromic.diagnosis.traces import ArmTrace, measured

_MOST_MEASUREMENTS = 100


@dataclass(frozen=True, slots=True)
class Floor:
    """The lowest quality that λ may lead to or, `of_baseline`, the lowest difference to the baseline's.

    key: the metric of a step whose negative is the quality.
    """

    lowest: float
    of_baseline: bool
    key: str


@dataclass(frozen=True, slots=True)
class EndQuality:
    """Mean quality (or difference) of a seed's last measurements, and its standard error: sd / √n."""

    mean: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class FloorRecord:
    """Where each seed ended beside its floor, over the last third of the steps that measured it, 100 at most."""

    lowest: float
    of_baseline: bool
    measurements: int
    seeds: Mapping[int, EndQuality]
    """Without those that have no measurement to compare."""

    @property
    def broken(self) -> list[EndQuality]:
        """The seeds that ended below the floor."""
        return [seed for seed in self.seeds.values() if seed.mean < self.lowest]

    @property
    def sentence(self) -> str:
        """What was held against what was asked."""
        asked = f"floor {self.lowest:+.3f}" if self.of_baseline else f"floor {self.lowest:.3f}"
        what = "quality beside the baseline's" if self.of_baseline else "quality"
        if not self.seeds:
            return f"{what}: not known, no step of both arms to compare ({asked})"
        form = "+.3f" if self.of_baseline else ".3f"
        means = ", ".join(format(seed.mean, form) for seed in self.seeds.values())
        error = max(seed.standard_error for seed in self.seeds.values())
        noise = "" if math.isnan(error) else f", standard error {error:.2g}"
        return f"{what} over the last {self.measurements} measurements {means} ({asked}{noise})"


def floor_record(floor: Floor, trace: ArmTrace, baseline: ArmTrace) -> FloorRecord:
    """What an arm held of its floor; beside the baseline, steps of one seed are paired: they saw the same prompts."""
    seeds, longest = {}, 0
    for seed, rows in trace.seeds.items():
        losses = measured(rows, floor.key)
        if floor.of_baseline:
            other = measured(baseline.seeds.get(seed, ()), floor.key)
            losses = {step: loss - other[step] for step, loss in losses.items() if step in other}
        n = min(_MOST_MEASUREMENTS, math.ceil(len(losses) / 3))
        if n:
            last = -np.array(list(losses.values()))[-n:]
            error = float(last.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
            seeds[seed] = EndQuality(float(last.mean()), error)
            longest = max(longest, n)
    return FloorRecord(floor.lowest, floor.of_baseline, longest, seeds)
