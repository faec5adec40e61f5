"""Training metrics of an arm over its steps, all seeds together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_EDGE = 0.2  # share of an arm's steps that counts as its beginning, and as its end


@dataclass(frozen=True, slots=True)
class ArmTrace:
    """Rows of metrics.jsonl by seed. Means are over the steps that hold the metric, then over seeds; nan without."""

    arm: str
    seeds: Mapping[int, Sequence[Mapping[str, Any]]]

    @property
    def steps(self) -> int:
        """Most steps that any seed has done."""
        return max((rows[-1]["step"] for rows in self.seeds.values() if rows), default=0)

    def mean(self, key: str) -> float:
        """Over all steps."""
        return self._mean(key, 0.0, 1.0)

    def early(self, key: str) -> float:
        """Over the first fifth of the measured steps."""
        return self._mean(key, 0.0, _EDGE)

    def late(self, key: str) -> float:
        """Over the last fifth of the measured steps."""
        return self._mean(key, 1.0 - _EDGE, 1.0)

    def largest(self, key: str) -> float:
        """The largest value of any step and seed."""
        values = [value for rows in self.seeds.values() for value in measured(rows, key).values()]
        return max(values, default=math.nan)

    def _mean(self, key: str, start: float, end: float) -> float:
        means = []
        for rows in self.seeds.values():
            values = list(measured(rows, key).values())
            n = len(values)
            # At least one value at either edge, however short the run.
            first, last = (math.floor(start * n), max(math.floor(start * n) + 1, math.ceil(end * n)))
            if n:
                means.append(float(np.mean(values[min(first, n - 1) : last])))
        return float(np.mean(means)) if means else math.nan


def measured(rows: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    """The metric by step, without the steps that did not measure it."""
    return {row["step"]: row[key] for row in rows if row.get(key) is not None and not math.isnan(row[key])}
