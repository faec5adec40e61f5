"""Gives groups the advantages of both terms of J = J_quality + λ J_diversity, whoever samples and trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from polychromic.models.logprobs import TokenSequence
from polychromic.numerics import BoolArray, FloatArray
from polychromic.objective import FittedBaseline, find_objective, set_advantages
from polychromic.records import Group
from polychromic.training.rollouts import (
    GroupSignals,
    diversity_advantages,
    diversity_signal,
    gate_part,
    has_gate_part,
    learn_from,
)
from polychromic.training.settings import BaselineName, DiversitySettings


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """Holds advantages [P, N] of both terms; diversity is not weighed by λ yet, and 0 where there is none."""

    quality_PN: FloatArray
    diversity_PN: FloatArray
    signal_P: BoolArray
    """True where the diversity term prefers some generation of a group to another."""
    score: float
    """The mean set score over groups; 0 where there is no diversity term."""
    gate_PN: FloatArray | None
    """The part of `diversity_PN` that the quality gate is paid, where pairs are weighed by their rewards."""


@dataclass(frozen=True, slots=True)
class SampledGroups:
    """Holds P groups with what the objective is computed from, their sequences [P·N], and their advantages."""

    groups: list[Group]
    signals: GroupSignals
    sequences: list[TokenSequence]
    advantages: GroupAdvantages
    division_metrics: Mapping[str, float] = field(default_factory=dict)
    """The cost of the partition."""


def reads(settings: DiversitySettings, part: str) -> bool:
    """Tells whether the diversity term reads `clusters` or `distances`, which cost more than all else."""
    return settings.is_active and part in find_objective(settings.objective).reads


def reads_rewards(settings: DiversitySettings) -> bool:
    """Tells whether the diversity term reads what the checker says."""
    return settings.is_active and find_objective(settings.objective).reads_rewards(settings.gate)


def group_advantages(
    groups: Sequence[Group],
    signals: GroupSignals,
    settings: DiversitySettings,
    quality_baseline: BaselineName,
    fitted: FittedBaseline,
    generator: np.random.Generator,
) -> tuple[GroupAdvantages, FittedBaseline]:
    """Returns the advantages, and the fitted baseline for the next step: it learns from groups after they have had
    theirs.

    `generator` draws subsets where a score without a closed form has too many to rate all; nothing else draws from it.
    """
    quality_PN = set_advantages("reward", 1, rewards=signals.rewards_PN, baseline=quality_baseline)
    if not settings.is_active:
        silent_P = np.zeros(len(groups), dtype=bool)
        return GroupAdvantages(quality_PN, np.zeros_like(quality_PN), silent_P, 0.0, None), fitted
    is_fitted = settings.baseline == "fitted"
    coefficients = fitted.coefficients if is_fitted else None
    diversity_PN, score_P = diversity_advantages(signals, settings, coefficients, generator)
    signal_P = diversity_signal(signals, settings, generator)
    gate_PN = gate_part(signals, settings, coefficients) if has_gate_part(settings) else None
    if is_fitted:
        fitted = learn_from(fitted, groups, signals, settings, generator)
    score = float(np.nanmean(score_P))
    return GroupAdvantages(quality_PN, diversity_PN, signal_P, score, gate_PN), fitted
