"""Weighs diversity: its share of the gradient, and three rules that set λ in J = J_quality + λ J_diversity.

A controller is an immutable value: `update` returns the next one, and `dataclasses.asdict` gives its state as plain
numbers, from which the class builds it again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, Self

_VARIANCE_SMOOTHING = 0.95


@dataclass(frozen=True, slots=True)
class Observation:
    """Holds what a training step showed; nan for what it did not measure.

    quality: mean reward, or minus the cross-entropy per token of validation references, which a floor limits.
    quality_norm, diversity_norm: norms of the gradients of J_quality and of *λ* J_diversity.
    """

    quality: float = math.nan
    quality_norm: float = math.nan
    diversity_norm: float = math.nan


class WeightController(Protocol):
    """Chooses λ, `weight`, while training."""

    @property
    def weight(self) -> float:
        """Returns λ for the next step."""
        ...

    def update(self, observation: Observation) -> Self:
        """Returns the controller after a step."""
        ...


def gradient_share(quality_norm: float, diversity_norm: float) -> float:
    """Diversity's share of the summed gradient norms, in [0, 1]; nan where both gradients are zero.

    `diversity_norm` is that of the weighted term. A share of the *loss* says nothing: a detached score has any loss
    share that λ gives it, and a gradient share of 0.
    """
    for name, norm in (("quality_norm", quality_norm), ("diversity_norm", diversity_norm)):
        if norm < 0:
            raise ValueError(f"{name} is {norm}, expected a norm, at least 0")
    total = quality_norm + diversity_norm
    return diversity_norm / total if total > 0 else math.nan


def gradient_cosine(product: float, quality_norm: float, diversity_norm: float) -> float:
    """Returns the gradients' cosine from their inner product and norms; nan where either is zero or not finite.

    Below 0 the two terms pull against each other: diversity is then bought with quality.
    """
    scale = quality_norm * diversity_norm
    # min and max would make a number of nan.
    is_defined = 0.0 < scale < math.inf and math.isfinite(product)
    return max(-1.0, min(1.0, product / scale)) if is_defined else math.nan


@dataclass(frozen=True, slots=True)
class FixedWeight:
    """λ as it was given."""

    weight: float

    def update(self, observation: Observation) -> Self:
        """Keeps λ as it is."""
        return self


@dataclass(frozen=True, slots=True)
class ShareController:
    """Holds diversity's share of the gradient norm at `target_share`.

    The share is λd / (q + λd) for norms q, d of the unweighted gradients, so λ = odds(target) · q / d would hit it
    at once. Each step moves log λ by `rate` of the way, and by `largest_step` at most: one noisy gradient must not
    throw λ. λ stays within `lowest` and `highest`.
    """

    weight: float
    target_share: float
    rate: float = 0.3
    largest_step: float = 0.7
    lowest: float = 1e-4
    highest: float = 1e4

    def __post_init__(self) -> None:
        _check_bounds(self.weight, self.lowest, self.highest)
        if not 0.0 < self.target_share < 1.0:
            raise ValueError(f"target_share is {self.target_share}, expected a share between 0 and 1")

    def update(self, observation: Observation) -> Self:
        """Follows one measurement; one without a gradient on either side says nothing of the share."""
        quality_norm, diversity_norm = observation.quality_norm, observation.diversity_norm
        if not (0.0 < quality_norm < math.inf and 0.0 < diversity_norm < math.inf):
            return self
        wanted = self.target_share / (1.0 - self.target_share) * quality_norm / diversity_norm
        step = _clamp(self.rate * math.log(wanted), -self.largest_step, self.largest_step)
        return replace(self, weight=_clamp(self.weight * math.exp(step), self.lowest, self.highest))


@dataclass(frozen=True, slots=True)
class FloorController:
    """The most diversity whose quality stays above `floor`: dual ascent on max J_diversity s.t. J_quality ≥ floor.

    The multiplier of the constraint is 1/λ. Its exponentiated-gradient ascent moves log λ by `rate` · (quality −
    floor); `damping` times the change of that slack is added, which keeps λ from swinging while the policy lags
    behind it (proportional-integral Lagrangian, Stooke et al., arXiv:2007.03964). Quality is smoothed over about
    1 / (1 − smoothing) steps, and a step moves log λ by `largest_step` at most. `scale` is the size of a quality
    difference that matters: 1 for rewards in [0, 1].

    Who holds a mean at the floor itself finds it below the floor half of the time. So the aim lies `standard_errors`
    standard errors of a mean over `measurements` measurements above it, about as many as it takes to tell where the
    quality is while it moves. Their noise is read off successive differences, which a drift of it hardly touches.
    Quality without noise is held at the floor.
    """

    weight: float
    floor: float
    rate: float = 0.5
    damping: float = 5.0
    smoothing: float = 0.8
    largest_step: float = 0.2
    scale: float = 1.0
    lowest: float = 1e-4
    highest: float = 1e4
    standard_errors: float = 2.0
    measurements: float = 25.0
    slack: float | None = None
    last: float | None = None
    variance: float | None = None

    def __post_init__(self) -> None:
        _check_bounds(self.weight, self.lowest, self.highest)
        if not math.isfinite(self.floor):
            raise ValueError(f"floor is {self.floor}, expected the quality that must be kept, a finite number")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing is {self.smoothing}, expected at least 0 and below 1")

    def update(self, observation: Observation) -> Self:
        """Follows one quality; nan (no step measured it) leaves λ alone."""
        if not math.isfinite(observation.quality):
            return self
        measured = (observation.quality - self.floor) / self.scale
        before = measured if self.slack is None else self.slack
        slack = self.smoothing * before + (1.0 - self.smoothing) * measured
        variance = self._variance_with(measured)
        aim = self.standard_errors * math.sqrt((variance or 0.0) / self.measurements)
        step = self.rate * (slack - aim) + self.damping * (slack - before)
        step = _clamp(step, -self.largest_step, self.largest_step)
        weight = _clamp(self.weight * math.exp(step), self.lowest, self.highest)
        return replace(self, weight=weight, slack=slack, last=measured, variance=variance)

    def _variance_with(self, measured: float) -> float | None:
        """Averages the variance of a measurement over about 1 / (1 − `_VARIANCE_SMOOTHING`); None before the second."""
        if self.last is None:
            return None
        half_square = (measured - self.last) ** 2 / 2.0  # half the mean squared difference, after von Neumann
        if self.variance is None:
            return half_square
        return _VARIANCE_SMOOTHING * self.variance + (1.0 - _VARIANCE_SMOOTHING) * half_square


def _clamp(value: float, lowest: float, highest: float) -> float:
    return max(lowest, min(highest, value))


def _check_bounds(weight: float, lowest: float, highest: float) -> None:
    """Refuses a λ of 0, which could never rise: controllers multiply."""
    if not 0.0 < lowest <= weight <= highest < math.inf:
        raise ValueError(
            f"weight is {weight}, expected 0 < lowest ≤ weight ≤ highest with lowest={lowest} and highest={highest}"
        )
