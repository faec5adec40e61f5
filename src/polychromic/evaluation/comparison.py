"""What a comparison is made of and what it found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from polychromic.evaluation.audits import CheckerAudit
from polychromic.evaluation.criteria import Criterion, Levels, ResultWarning
from polychromic.evaluation.statistics.frontier import Curve, MatchedGain
from polychromic.evaluation.statistics.intervals import Resampling
from polychromic.evaluation.statistics.paired import ALPHA, PairedComparison
from polychromic.evaluation.statistics.sensitivity import Overtaking, Robustness
from polychromic.evaluation.tables import PromptTable, Study
from polychromic.evaluation.verdict import Verdict
from polychromic.files import strict_json
from polychromic.numerics import FloatArray


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared with what, and how."""

    study: Study
    baseline: str
    others: tuple[str, ...]
    primary_sampling: str
    levels: Levels
    resampling: Resampling
    untrained: str | None

    @classmethod
    def of(
        cls,
        tables: Mapping[tuple[str, int], PromptTable],
        baseline: str,
        levels: Levels,
        primary_sampling: str | None,
        resampling: Resampling,
        untrained: str | None,
    ) -> Plan:
        """Raises ValueError where the baseline or the primary sampling is missing, or the tables cannot be lined up."""
        study = Study.of(tables)
        if baseline not in study.arms:
            raise ValueError(f"baseline {baseline!r}: expected one of the arms {list(study.arms)}")
        others = tuple(arm for arm in study.arms if arm != baseline)
        primary_sampling = primary_sampling or study.labels(baseline)[0]
        for arm in study.arms:
            if primary_sampling not in study.labels(arm):
                raise ValueError(
                    f"arm {arm!r} was not sampled at {primary_sampling}, where the criteria are judged; it has "
                    f"{study.labels(arm)}"
                )
        return cls(study, baseline, others, primary_sampling, levels, resampling, untrained)

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

    def pair(self, arm: str, label: str, metric: str) -> tuple[FloatArray, FloatArray] | None:
        """FloatArray of an arm and the baseline that share at least one defined prompt, else None."""
        pair = self.study.pair(arm, self.baseline, label, metric)
        if pair is None or np.isnan(pair[0] + pair[1]).any(axis=0).all():
            return None
        return pair


SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class ArmMean:
    """One metric's mean over prompts and seeds with its interval, and the mean of each seed."""

    arm: str
    sampling: str
    metric: str
    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]
    n_prompts: int


@dataclass(frozen=True, slots=True)
class Contrast:
    """One arm against the baseline on one metric under one sampling setting (differences are arm − baseline)."""

    arm: str
    sampling: str
    metric: str
    comparison: PairedComparison


@dataclass(frozen=True, slots=True)
class ArmCurve:
    """Pass@k or distinct correct answers of k, of one arm under one sampling setting."""

    arm: str
    sampling: str
    name: str
    curve: Curve


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One arm against the baseline on a metric that a criterion names, looked at prompt by prompt: the differences
    (arm − baseline, seeds averaged, nan where undefined) in the order of the comparison's prompts, and what other
    customary tests say of them."""

    arm: str
    metric: str
    differences: tuple[float, ...]
    robustness: Robustness


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that is known of an experiment's arms; `to_json` is the content of comparison.json."""

    baseline: str
    arms: tuple[str, ...]
    seeds: Mapping[str, tuple[int, ...]]
    primary_sampling: str
    prompts: tuple[str, ...]
    means: tuple[ArmMean, ...]
    contrasts: tuple[Contrast, ...]
    sensitivity: tuple[Sensitivity, ...]
    frontier: tuple[MatchedGain, ...]
    curves: tuple[ArmCurve, ...]
    warnings: tuple[ResultWarning, ...]
    verdict: Verdict
    clusters: str
    signatures: Mapping[str, str]
    resampling: Resampling
    checker: CheckerAudit | None = None
    """What the training checker says of texts known to be good or bad; None where it was not asked."""
    untrained: str | None = None
    """The arm that is the model before training: shown, never judged. None where it was not sampled."""
    against_untrained: tuple[Contrast, ...] = ()
    """Every trained arm against the untrained model (differences are arm − untrained), on the criteria's metrics."""
    overtakings: tuple[Overtaking, ...] = ()
    """From which k on the untrained model's pass@k is above each arm's."""
    equal_length: tuple[Contrast, ...] = ()
    """Contrasts with texts cut to equal lengths, of arms whose lengths differ from the baseline's."""

    def to_json(self) -> dict[str, Any]:
        """Plain mapping with its schema version; what is undefined (nan) is null."""
        return json.loads(strict_json({"schema_version": SCHEMA_VERSION, **asdict(self)}))

    @property
    def n_prompts(self) -> int:
        """Prompts that every arm and seed has."""
        return len(self.prompts)

    def mean(self, arm: str, metric: str, sampling: str | None = None) -> ArmMean | None:
        """An arm's mean of a metric, at the primary sampling unless another is named."""
        wanted = (arm, sampling or self.primary_sampling, metric)
        return next((one for one in self.means if (one.arm, one.sampling, one.metric) == wanted), None)

    def contrast(self, arm: str, metric: str, sampling: str | None = None) -> PairedComparison | None:
        """An arm's comparison with the baseline on a metric, at the primary sampling unless another way is named."""
        wanted = (arm, sampling or self.primary_sampling, metric)
        return next(
            (one.comparison for one in self.contrasts if (one.arm, one.sampling, one.metric) == wanted), None
        )
