"""Confidence intervals of means over prompts, and over prompts and training seeds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from polychromic.evaluation.resampling import studentised_means
from polychromic.evaluation.rounding import has_spread
from polychromic.evaluation.seeds import widen_for_seeds

Floats = NDArray[np.float64]
Interval = tuple[float, float]
Method = Literal["percentile", "BCa"]


@dataclass(frozen=True, slots=True)
class Resampling:
    """How much is drawn: bootstrap resamples, sign patterns, the seed of both, and the intervals' confidence."""

    bootstraps: int = 9999
    sign_patterns: int = 100_000
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.bootstraps < 1000:
            raise ValueError(f"bootstraps={self.bootstraps}: expected at least 1000 for 95 % intervals")
        if not 0.0 < self.confidence < 1.0:
            raise ValueError(f"confidence={self.confidence}: expected a share such as 0.95")


def bootstrap_interval(x_P: Floats, draws_B: Floats, method: Method, confidence: float) -> Interval:
    """Interval of the mean of x from its bootstrap draws, computed by scipy.

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


def expanded_confidence(n: int, confidence: float) -> float:
    """The nominal confidence at which a bootstrap over n prompts really has `confidence`.

    A bootstrap of a mean is too narrow by √((n−1)/n) and has normal, not Student's, tails.
    Source: Hesterberg 2015, What Teachers Should Know About the Bootstrap, section 5.4.
    """
    from scipy.stats import norm, t

    quantile = math.sqrt(n / (n - 1)) * float(t.ppf(0.5 + confidence / 2, n - 1))
    return float(1.0 - 2.0 * norm.sf(quantile))


def mean_intervals(cells: Sequence[Floats], resampling: Resampling) -> list[Interval]:
    """Interval of the mean of each [seeds, prompts] array over prompts and, with two seeds or more, over seeds.

    That of `interval_over_seeds`; arrays of one number of prompts share the draws.
    """
    found: dict[int, Interval] = {}
    for members in indices_by_key([x_SP.shape[1] for x_SP in cells]).values():
        x_PM = np.stack([cells[index].mean(axis=0) for index in members], axis=-1)
        drawn = studentised_means(x_PM, n_resamples=resampling.bootstraps, seed=resampling.seed)
        for index, draws_B, t_B in zip(members, drawn.means_BM.T, drawn.t_BM.T, strict=True):
            found[index] = interval_over_seeds(cells[index], draws_B, t_B, resampling.confidence)
    return [found[index] for index in range(len(cells))]


def indices_by_key(keys: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    """Positions of equal keys, in order of first appearance."""
    positions: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        positions.setdefault(key, []).append(position)
    return positions


def interval_over_seeds(x_SP: Floats, draws_B: Floats, t_B: Floats, confidence: float) -> Interval:
    """Interval of a mean over new prompts and seeds, given bootstrap draws of its mean over prompts and their t.

    On each side the wider of two: percentiles at the expanded confidence, which hold where tails are heavy, and the
    bootstrap-t, which holds where differences are skewed. Either alone covers too little in the other's case, and BCa
    in both (docs/results/evaluation.md).
    """
    x_P = x_SP.mean(axis=0)
    if len(x_P) < 2:
        return math.nan, math.nan
    low, high = bootstrap_interval(x_P, draws_B, "percentile", expanded_confidence(len(x_P), confidence))
    mean = float(x_P.mean())
    if has_spread(draws_B):
        of_t = _student_interval(x_P, t_B, confidence)
        low, high = min(low, of_t[0]), max(high, of_t[1])
    return widen_for_seeds(mean, low, high, x_SP, confidence)


def _student_interval(x_P: Floats, t_B: Floats, confidence: float) -> Interval:
    """The bootstrap-t interval; no end lies beyond the values that were seen.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, equation 12.22.
    """
    from scipy.stats import quantile

    tails = [(1.0 - confidence) / 2, (1.0 + confidence) / 2]
    below, above = quantile(t_B, tails, nan_policy="omit").tolist()
    mean, error = float(x_P.mean()), float(x_P.std(ddof=1)) / math.sqrt(len(x_P))
    return max(mean - above * error, float(x_P.min())), min(mean - below * error, float(x_P.max()))
