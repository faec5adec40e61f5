"""What is compared with what: the arms, the baseline, the criteria and the way of sampling that they are judged at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polychromic.evaluation.criteria import Criterion, Levels
from polychromic.evaluation.intervals import Resampling
from polychromic.evaluation.statistics import ALPHA
from polychromic.evaluation.study import Study
from polychromic.evaluation.tables import PromptTable

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared with what, and how."""

    study: Study
    baseline: str
    others: tuple[str, ...]
    headline: str
    levels: Levels
    resampling: Resampling
    untrained: str | None

    @classmethod
    def of(
        cls,
        tables: Mapping[tuple[str, int], PromptTable],
        baseline: str,
        levels: Levels,
        headline: str | None,
        resampling: Resampling,
        untrained: str | None,
    ) -> Plan:
        """Raises ValueError where the baseline or the headline is missing, or the tables cannot be lined up."""
        study = Study.of(tables)
        if baseline not in study.arms:
            raise ValueError(f"baseline {baseline!r}: expected one of the arms {list(study.arms)}")
        others = tuple(arm for arm in study.arms if arm != baseline)
        headline = headline or study.labels(baseline)[0]
        for arm in study.arms:
            if headline not in study.labels(arm):
                raise ValueError(
                    f"arm {arm!r} was not sampled at {headline}, where the criteria are judged; it has "
                    f"{study.labels(arm)}"
                )
        return cls(study, baseline, others, headline, levels, resampling, untrained)

    @property
    def judged(self) -> tuple[str, ...]:
        """Arms that get a verdict: all but the baseline and the untrained model."""
        return tuple(arm for arm in self.others if arm != self.untrained)

    @property
    def criteria(self) -> list[Criterion]:
        """Those of all levels."""
        return [criterion for level in self.levels.values() for criterion in level]

    @property
    def alpha(self) -> float:
        """The level of what is said beside the criteria."""
        return self.criteria[0].alpha if self.criteria else ALPHA

    @property
    def asked(self) -> list[str]:
        """Metric keys of all criteria, each once."""
        return list(dict.fromkeys(criterion.metric for criterion in self.criteria))

    def pair(self, arm: str, label: str, metric: str) -> tuple[Floats, Floats] | None:
        """Cells of an arm and the baseline that share at least one defined prompt, else None."""
        pair = self.study.pair(arm, self.baseline, label, metric)
        if pair is None or np.isnan(pair[0] + pair[1]).any(axis=0).all():
            return None
        return pair
