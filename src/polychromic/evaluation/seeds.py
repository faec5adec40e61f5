"""What few training seeds leave uncertain: their share in the variance of a mean, and what follows for claims.

The model is crossed: x_sp = μ + seed_s + prompt_p + noise_sp, with new seeds and new prompts in mind.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def seed_variance(x_SP: Floats) -> float:
    """Variance that training seeds give to the mean of x [seeds, prompts]; 0 with one seed (nothing is known).

    From the two-way mean squares: (MS_seeds − m · MS_noise)⁺ / (S P). With m the median of their F ratio it is
    median-unbiased; the usual m = 1 is 0 too often, and intervals over three seeds then cover too little.
    """
    from scipy.stats import f

    n_seeds, n_prompts = x_SP.shape
    if n_seeds < 2 or n_prompts < 2:
        return 0.0
    mean_S, mean_P, mean = x_SP.mean(axis=1), x_SP.mean(axis=0), x_SP.mean()
    df_noise = (n_seeds - 1) * (n_prompts - 1)
    noise = float(((x_SP - mean_S[:, None] - mean_P + mean) ** 2).sum()) / df_noise
    between = n_prompts * float(mean_S.var(ddof=1))
    median_ratio = float(f.median(n_seeds - 1, df_noise))
    return max(between - median_ratio * noise, 0.0) / (n_seeds * n_prompts)


def widen_for_seeds(
    mean: float, low: float, high: float, x_SP: Floats, confidence: float
) -> tuple[float, float]:
    """An interval over prompts and training seeds, from one over prompts alone.

    Each side's distance from the mean and Student's half-width of the seeds (S − 1 degrees of freedom) add as
    squares. Source: Zou and Donner 2008, Construction of Confidence Limits about Effect Measures, equation 6.
    """
    return _join(mean, low, high, math.sqrt(seed_variance(x_SP)), len(x_SP), confidence)


def add_seed_spread(
    mean: float, low: float, high: float, means_S: Floats, confidence: float
) -> tuple[float, float]:
    """`widen_for_seeds` for a statistic that is no mean, from its value for each seed alone.

    The seeds' spread includes the noise within prompts, so the interval errs on the wide side.
    """
    n_seeds = len(means_S)
    spread = math.sqrt(float(means_S.var(ddof=1)) / n_seeds) if n_seeds > 1 else 0.0
    return _join(mean, low, high, spread, n_seeds, confidence)


def _join(
    mean: float, low: float, high: float, seed_error: float, n_seeds: int, confidence: float
) -> tuple[float, float]:
    from scipy.stats import t

    if n_seeds < 2:
        return low, high
    of_seeds = float(t.ppf(0.5 + confidence / 2, n_seeds - 1)) * seed_error
    # A skewed bootstrap can leave the mean outside its own interval; the seeds then widen, never shift, it.
    below, above = max(mean - low, 0.0), max(high - mean, 0.0)
    return mean - math.hypot(below, of_seeds), mean + math.hypot(above, of_seeds)


def p_over_seeds(x_SP: Floats, null: float = 0.0) -> float:
    """Two-sided p-value that the mean over new prompts *and* new seeds is `null`; nan with one seed.

    The level at which the interval that joins Student's intervals over prompts and over seeds (as in
    `widen_for_seeds`) just reaches `null`.
    """
    from scipy.optimize import root_scalar
    from scipy.stats import t

    n_seeds, n_prompts = x_SP.shape
    if n_seeds < 2 or n_prompts < 2:
        return math.nan
    distance = abs(float(x_SP.mean()) - null)
    of_prompts = float(x_SP.mean(axis=0).var(ddof=1)) / n_prompts
    of_seeds = seed_variance(x_SP)
    if of_prompts + of_seeds == 0.0:
        return 1.0 if distance == 0.0 else 0.0

    def excess(log_p: float) -> float:
        half = math.exp(log_p) / 2
        reach = t.isf(half, n_prompts - 1) ** 2 * of_prompts + t.isf(half, n_seeds - 1) ** 2 * of_seeds
        return math.sqrt(reach) - distance

    smallest = math.log(1e-12)
    if distance == 0.0 or excess(smallest) <= 0.0:
        return 1.0 if distance == 0.0 else 1e-12
    return math.exp(root_scalar(excess, bracket=(smallest, 0.0), xtol=1e-10).root)
