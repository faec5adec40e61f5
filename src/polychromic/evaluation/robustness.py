"""Second opinions on a paired difference: what other customary tests and standard errors say of the same values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polychromic.evaluation.effects import EffectSizes, effect_sizes
from polychromic.evaluation.rounding import has_spread

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Robustness:
    """p-values and standard errors beside the main test; nan where one does not apply.

    `mcnemar_p_value` (exact) needs one seed and values that are all 0 or 1. `unpaired_p_value` (Welch) is what
    throwing the pairing away would give. `seed_correlation` is the share of variance that the seeds of one prompt
    have in common (ICC1); `naive_error` takes every seed of every prompt for a fresh one, `error_by_prompt` does
    not, and `two_way_error` clusters by prompt and by seed (too small with few seeds).
    """

    t_p_value: float
    t_interval: tuple[float, float]
    wilcoxon_p_value: float
    mcnemar_p_value: float
    unpaired_p_value: float
    effects: EffectSizes
    seed_correlation: float
    naive_error: float
    error_by_prompt: float
    two_way_error: float


def robustness(a_SP: Floats, b_SP: Floats, confidence: float = 0.95) -> Robustness:
    """Second opinions on a − b, arrays [seeds, prompts] without nan."""
    from scipy.stats import ttest_1samp, ttest_ind, wilcoxon

    x_SP = a_SP - b_SP
    a_P, b_P, x_P = a_SP.mean(axis=0), b_SP.mean(axis=0), x_SP.mean(axis=0)
    spread = has_spread(x_P)
    t_test: Any = ttest_1samp(x_P, 0.0) if spread else None
    interval = t_test.confidence_interval(confidence) if t_test else (math.nan, math.nan)
    arms_spread = has_spread(a_P) and has_spread(b_P)
    return Robustness(
        t_p_value=float(t_test.pvalue) if t_test else math.nan,
        t_interval=(float(interval[0]), float(interval[1])),
        wilcoxon_p_value=_p_value(wilcoxon(x_P)) if spread else math.nan,
        mcnemar_p_value=mcnemar_exact(a_SP, b_SP),
        unpaired_p_value=_p_value(ttest_ind(a_P, b_P, equal_var=False)) if arms_spread else math.nan,
        effects=effect_sizes(a_P, b_P),
        seed_correlation=seed_correlation(x_SP),
        naive_error=float(x_SP.std(ddof=1)) / math.sqrt(x_SP.size) if x_SP.size > 1 else math.nan,
        error_by_prompt=float(x_P.std(ddof=1)) / math.sqrt(len(x_P)) if len(x_P) > 1 else math.nan,
        two_way_error=two_way_error(x_SP),
    )


def mcnemar_exact(a_SP: Floats, b_SP: Floats) -> float:
    """Exact McNemar p-value of two sets of 0/1 values on the same prompts; nan for any other values."""
    from statsmodels.stats.contingency_tables import mcnemar

    if len(a_SP) != 1 or not np.isin(np.stack([a_SP, b_SP]), (0.0, 1.0)).all():
        return math.nan
    only_a, only_b = int((a_SP > b_SP).sum()), int((b_SP > a_SP).sum())
    # Prompts on which both agree do not enter the exact test.
    return _p_value(mcnemar([[0, only_a], [only_b, 0]], exact=True))


def seed_correlation(x_SP: Floats) -> float:
    """ICC(1): correlation of two seeds of one prompt, from a one-way analysis of variance; nan with one seed.

    Source: Shrout and Fleiss 1979, Intraclass Correlations, equation for ICC(1,1).
    """
    n_seeds, n_prompts = x_SP.shape
    if n_seeds < 2 or n_prompts < 2:
        return math.nan
    between = n_seeds * float(x_SP.mean(axis=0).var(ddof=1))
    within = float(x_SP.var(axis=0, ddof=1).mean())
    total = between + (n_seeds - 1) * within
    return (between - within) / total if total else math.nan


def two_way_error(x_SP: Floats) -> float:
    """Standard error of the mean clustered by prompt and by seed, uncorrected for few clusters; nan with one seed.

    Source: Cameron, Gelbach and Miller 2011, Robust Inference With Multiway Clustering, equation 2.8.
    """
    if len(x_SP) < 2:
        return math.nan
    residual = x_SP - x_SP.mean()
    by_prompt = float((residual.sum(axis=0) ** 2).sum())
    by_seed = float((residual.sum(axis=1) ** 2).sum())
    return math.sqrt(max(by_prompt + by_seed - float((residual**2).sum()), 0.0)) / x_SP.size


def _p_value(result: Any) -> float:
    """The p-value of a result whose type scipy and statsmodels leave open."""
    return float(result.pvalue)
