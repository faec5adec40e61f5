"""Computes confidence intervals and effect sizes of paired differences."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from polychromic.evaluation.statistics.resampling import (
    LEAST_SEEDS,
    ROUNDING,
    SeedSpread,
    differences,
    has_spread,
    studentised_means,
)
from polychromic.numerics import FloatArray


@dataclass(frozen=True, slots=True)
class EffectSizes:
    """Holds standardised differences (a − b positive) and the two rank measures; nan where there is no spread.

    `hedges_gz` is the one to quote: mean over standard deviation of the paired differences, corrected for few
    prompts. `cohen_d_av` divides by the arms' own spread instead and compares with unpaired studies.
    """

    cohen_dz: float
    hedges_gz: float
    cohen_d_av: float
    cliffs_delta: float
    rank_biserial: float


def hedges_gz(x_P: FloatArray) -> float:
    """Mean over standard deviation of paired differences times 1 − 3 / (4 (P − 1) − 1); nan without spread.

    Source: Hedges 1981, Distribution Theory for Glass's Estimator of Effect Size, equation 6e.
    """
    return _ratio(x_P.mean(), _sd(x_P)) * (1.0 - 3.0 / (4.0 * (len(x_P) - 1) - 1.0)) if len(x_P) > 1 else math.nan


def effect_sizes(a_P: FloatArray, b_P: FloatArray) -> EffectSizes:
    """Returns all effect sizes of a against b, paired by prompt."""
    from scipy.stats import mannwhitneyu, rankdata

    difference_P = differences(a_P, b_P)
    dominance = 2.0 * mannwhitneyu(b_P + difference_P, b_P).statistic / (len(a_P) * len(b_P)) - 1.0
    moved = difference_P[difference_P != 0]
    ranks = rankdata(np.abs(moved))
    return EffectSizes(
        cohen_dz=_ratio(difference_P.mean(), _sd(difference_P)),
        hedges_gz=hedges_gz(difference_P),
        cohen_d_av=_ratio(difference_P.mean(), math.sqrt((_sd(a_P) ** 2 + _sd(b_P) ** 2) / 2)),
        cliffs_delta=float(dominance),
        rank_biserial=_ratio(float(np.sign(moved) @ ranks), float(ranks.sum())),
    )


def _sd(x: FloatArray) -> float:
    return float(x.std(ddof=1)) if has_spread(x) else 0.0


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else math.nan


Interval = tuple[float, float]
Method = Literal["percentile", "BCa"]

PROMPTS_ALONE = SeedSpread(1, 0.0, 1.0)
"""Nothing is asked of other training seeds."""

_LEAST_LOG_ALPHA = math.log(1e-12)
_UNBOUNDED = 1e6


@dataclass(frozen=True, slots=True)
class Resampling:
    """Holds how much is drawn: bootstrap resamples, sign patterns, the seed of both, and the intervals' confidence."""

    bootstraps: int = 9999
    sign_patterns: int = 100_000
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.bootstraps < 1000:
            raise ValueError(f"bootstraps={self.bootstraps}: expected at least 1000 for 95 % intervals")
        if not 0.0 < self.confidence < 1.0:
            raise ValueError(f"confidence={self.confidence}: expected a share such as 0.95")

    @property
    def alpha(self) -> float:
        """Returns the level at which an interval of this confidence tests."""
        return 1.0 - self.confidence


def bootstrap_interval(x_P: FloatArray, draws_B: FloatArray, method: Method, confidence: float) -> Interval:
    """Returns the interval of the mean of x from its bootstrap draws, computed by scipy.

    Where all values are equal both ends are that value; where BCa is undefined the percentile interval stands in.
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    if len(x_P) < 2 or not has_spread(draws_B):
        mean = float(x_P.mean()) if len(x_P) > 1 else math.nan
        return mean, mean
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        drawn = SimpleNamespace(bootstrap_distribution=draws_B)
        result = bootstrap(
            (x_P,), np.mean, n_resamples=0, bootstrap_result=drawn, method=method, confidence_level=confidence
        )
    low, high = map(float, result.confidence_interval)
    if math.isnan(low) and method == "BCa":
        return bootstrap_interval(x_P, draws_B, "percentile", confidence)
    return low, high


@dataclass(frozen=True, slots=True)
class Reach:
    """Holds how far from its mean an interval over prompts reaches at any level alpha, from bootstrap draws of the
    mean.

    On each side the farther of two: percentiles at an expanded confidence, which hold where tails are heavy, and the
    bootstrap-t, which holds where values are skewed. Either alone covers too little in the other's case, and BCa in
    both (docs/results/evaluation.md). No end lies beyond the values that were seen.
    """

    mean: float
    error: float
    """Standard error of the mean."""
    lowest: float
    highest: float
    n_prompts: int
    means_B: FloatArray
    t_B: FloatArray
    """Draws of the mean and their Student's t, both sorted; empty where the values do not differ."""

    @classmethod
    def of(cls, x_P: FloatArray, means_B: FloatArray, t_B: FloatArray) -> Reach:
        """Builds it from values of prompts and what `studentised_means` drew of them."""
        n_prompts = len(x_P)
        moved = n_prompts > 1 and has_spread(means_B)
        return cls(
            float(x_P.mean()),
            float(x_P.std(ddof=1)) / math.sqrt(n_prompts) if moved else 0.0,
            float(x_P.min()),
            float(x_P.max()),
            n_prompts,
            np.sort(means_B) if moved else np.empty(0),
            np.sort(t_B[~np.isnan(t_B)]) if moved else np.empty(0),
        )

    def side(self, alpha: float, above: bool) -> float:
        """Returns the distance from the mean to the interval's upper (`above`) or lower end at level alpha."""
        if not len(self.means_B):
            return 0.0
        tail = self._expanded_tail(alpha)
        # The upper end of a bootstrap-t comes from the draws that lie low.
        of_t = -_quantile(self.t_B, alpha / 2) if above else _quantile(self.t_B, 1.0 - alpha / 2)
        if above:
            of_mean, farthest = _quantile(self.means_B, 1.0 - tail) - self.mean, self.highest - self.mean
        else:
            of_mean, farthest = self.mean - _quantile(self.means_B, tail), self.mean - self.lowest
        return max(of_mean, min(of_t * self.error, farthest), 0.0)

    def in_errors(self, alpha: float, above: bool) -> float:
        """Returns `side` in standard errors of the mean, Student's where the values do not differ."""
        if self.error:
            return self.side(alpha, above) / self.error
        return -_student(self.n_prompts - 1, alpha / 2)

    def interval(self, alpha: float, spread: SeedSpread) -> Interval:
        """Returns the interval of the mean, over training seeds too where their spread is known; nan with one
        prompt."""
        if self.n_prompts < 2:
            return math.nan, math.nan
        below, above = (spread.widen(self.side(alpha, above), alpha) for above in (False, True))
        return self.mean - below, self.mean + above

    def p_value(self, null: float, spread: SeedSpread) -> float:
        """Returns the level at which `interval` just reaches `null`: 0 where it never does, 1 with one prompt."""
        from scipy.optimize import root_scalar

        distance, above = abs(self.mean - null), null > self.mean
        if self.n_prompts < 2:
            return 1.0

        def excess(log_alpha: float) -> float:
            alpha = math.exp(log_alpha)
            return spread.widen(self.side(alpha, above), alpha) - distance

        if distance == 0.0 or excess(0.0) >= 0.0:
            return 1.0
        if excess(_LEAST_LOG_ALPHA) <= 0.0:
            return 0.0
        return math.exp(root_scalar(excess, bracket=(_LEAST_LOG_ALPHA, 0.0), xtol=1e-9).root)

    def _expanded_tail(self, alpha: float) -> float:
        """Returns the share of draws beyond either end at which a bootstrap over n prompts really has level alpha.

        A bootstrap of a mean is too narrow by √((n−1)/n) and has normal, not Student's, tails.
        Source: Hesterberg 2015, What Teachers Should Know About the Bootstrap, section 5.4.
        """
        from scipy.special import ndtr

        n = self.n_prompts
        return float(ndtr(math.sqrt(n / (n - 1)) * _student(n - 1, alpha / 2)))


_RTOL = 1e-9
_FINE = 10.0
"""In e-folds: how much nearer than the first step an end is looked for."""


def relative_interval(a_SP: FloatArray, b_SP: FloatArray, reach: Reach, over_seeds: bool, alpha: float) -> Interval:
    """Returns the interval of mean(a) / mean(b) − 1: the changes ρ for which the interval of mean(a − (1 + ρ) b) holds
    0.

    `reach` is that of a − b, so that this interval holds 0 where that of the difference does. An end is infinite where
    the baseline's own mean cannot be told from 0, and nan where that mean is not above 0.
    Source: Fieller 1954, Some Problems in Interval Estimation.
    """
    mean_b = float(b_SP.mean())
    if not mean_b > 0.0 or a_SP.shape[1] < 2:
        return math.nan, math.nan
    x_SP = differences(a_SP, b_SP)
    low, high = (_relative_end(x_SP, b_SP, reach, over_seeds, alpha, above) for above in (False, True))
    return low, high


def _relative_end(
    x_SP: FloatArray, b_SP: FloatArray, reach: Reach, over_seeds: bool, alpha: float, above: bool
) -> float:
    """Returns one end from the differences x = a − b and from b."""
    from scipy.optimize import root_scalar

    errors, sign = reach.in_errors(alpha, above), 1.0 if above else -1.0
    scale = float(b_SP.mean())
    change = float(x_SP.mean()) / scale

    def excess(distance: float) -> float:
        """Returns how far the interval of a − (1 + ρ) b still reaches beyond 0, ρ so far from what was found."""
        moved_SP = x_SP - (change + sign * distance) * b_SP
        moved_P = moved_SP.mean(axis=0)
        half = errors * float(moved_P.std(ddof=1)) / math.sqrt(len(moved_P))
        half = SeedSpread.of(moved_SP).widen(half, alpha) if over_seeds else half
        return half + sign * float(moved_P.mean())

    if excess(0.0) <= ROUNDING * scale:
        return change
    farthest = _beyond(excess, excess(0.0) / scale, abs(change) if sign * change < 0.0 else math.inf)
    if math.isinf(farthest):
        return sign * math.inf
    distance = root_scalar(excess, bracket=(0.0, farthest), rtol=_RTOL).root
    end = change + sign * distance
    return end if abs(end) > _RTOL * distance else 0.0  # an interval that ends at 0 ends there in percent too


def _beyond(excess: Callable[[float], float], first: float, of_zero: float) -> float:
    """Returns a distance at which the interval ends already (an excess of 0 or less); infinite where it has no end.

    `of_zero` is the distance of no change at all. Where the baseline's mean cannot be told from 0 the excess falls
    below 0 and rises again: steps that double may pass over that, so that its minimum is looked for.
    """
    from scipy.optimize import minimize_scalar

    farthest = first
    while farthest <= _UNBOUNDED:
        if excess(farthest) <= 0.0:
            return farthest
        farthest *= 2.0
    if of_zero <= _UNBOUNDED and excess(of_zero) <= 0.0:
        return of_zero
    bounds = (min(math.log(first), math.log(_UNBOUNDED)) - _FINE, math.log(_UNBOUNDED))
    lowest: Any = minimize_scalar(lambda log_distance: excess(math.exp(log_distance)), bounds=bounds, method="bounded")
    return math.exp(lowest.x) if lowest.fun <= 0.0 else math.inf


def mean_intervals(cells: Sequence[FloatArray], resampling: Resampling) -> list[Interval]:
    """Returns the interval of the mean of each [seeds, prompts] array over prompts and, with `LEAST_SEEDS` or more,
    over seeds.

    Arrays of one number of prompts share the draws.
    """
    intervals: dict[int, Interval] = {}
    for members in indices_by_key([x_SP.shape[1] for x_SP in cells]).values():
        x_PM = np.stack([cells[index].mean(axis=0) for index in members], axis=-1)
        for index, reach in zip(members, reaches(x_PM, resampling), strict=True):
            x_SP = cells[index]
            spread = SeedSpread.of(x_SP) if len(x_SP) >= LEAST_SEEDS else PROMPTS_ALONE
            intervals[index] = reach.interval(resampling.alpha, spread)
    return [intervals[index] for index in range(len(cells))]


def reaches(x_PM: FloatArray, resampling: Resampling) -> list[Reach]:
    """Returns the reach of each column's mean over prompts; all columns share the draws."""
    means_BM, t_BM = studentised_means(x_PM, n_resamples=resampling.bootstraps, seed=resampling.seed)
    return [Reach.of(x_P, means_B, t_B) for x_P, means_B, t_B in zip(x_PM.T, means_BM.T, t_BM.T, strict=True)]


def indices_by_key(keys: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """Returns the positions of equal keys, in order of first appearance."""
    positions: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        positions.setdefault(key, []).append(position)
    return positions


def _quantile(sorted_B: FloatArray, share: float) -> float:
    position = share * (len(sorted_B) - 1)
    below = min(int(position), len(sorted_B) - 2)
    low, high = float(sorted_B[below]), float(sorted_B[below + 1])
    return low + (position - below) * (high - low)


def _student(df: int, share: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, share))
