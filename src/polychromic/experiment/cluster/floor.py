"""Ends a trial of a search early where its quality has fallen below what the search allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_LEAST_STEPS = 5
_WINDOW = 0.2
"""Share of all steps that is looked back on."""


class BelowFloorError(Exception):
    """Ends training from within a step; never seen by people, who read it in the trial's state."""


@dataclass(frozen=True, slots=True)
class TrialFloor:
    """The baseline's quality by step (mean training reward), and how far below it a trial may lie.

    Trial and baseline see the same prompts at each step, so that their difference is compared: a trial is below where
    the mean difference of the last fifth of the steps lies under −margin by two standard errors. One that is only
    unlucky goes on; where it really is below, validation says so in the end.
    """

    baseline: tuple[float, ...]
    margin: float

    def is_below(self, qualities: Sequence[float], n_steps: int) -> bool:
        """Tells whether a trial with these qualities at its steps so far is below the floor."""
        window = max(_LEAST_STEPS, math.ceil(_WINDOW * n_steps))
        pairs = list(zip(qualities, self.baseline, strict=False))[-window:]
        if len(qualities) > len(self.baseline) or len(pairs) < window:
            return False
        differences = [one - other for one, other in pairs]
        mean = sum(differences) / window
        variance = sum((one - mean) ** 2 for one in differences) / (window - 1)
        return mean + 2 * math.sqrt(variance / window) < -self.margin
