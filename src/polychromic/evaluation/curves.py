"""Curves over k with a band that holds for all k at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polychromic.evaluation.intervals import Resampling
from polychromic.evaluation.resampling import bootstrap_means

Floats = NDArray[np.float64]

_DEFINED_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean over prompts at each k with a simultaneous band over prompts (seeds averaged)."""

    k: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n_prompts: int


def simultaneous_curve(x_PK: Floats, resampling: Resampling, highest: float = np.inf) -> Curve | None:
    """Curve of [prompts, k] values up to the largest k that 95 % of the prompts have; None where there is no such k.

    The band is the mean ± q standard errors, q the quantile of the largest standardised deviation over all k in
    the bootstrap, so that the whole curve lies inside with the stated confidence. Clipped to [0, `highest`].
    Source: Montiel Olea and Plagborg-Møller 2019, Simultaneous Confidence Bands, algorithm 2.
    """
    defined_K = (~np.isnan(x_PK)).mean(axis=0) >= _DEFINED_SHARE
    n_k = int(defined_K.argmin()) if not defined_K.all() else len(defined_K)
    x_PK = x_PK[:, :n_k]
    x_PK = x_PK[~np.isnan(x_PK).any(axis=1)]
    if not x_PK.size:
        return None
    mean_K = x_PK.mean(axis=0)
    draws_BK = bootstrap_means(x_PK, n_resamples=resampling.bootstraps, seed=resampling.seed)
    error_K = draws_BK.std(axis=0, ddof=1)
    moved_K = error_K > 0
    deviations = np.abs(draws_BK[:, moved_K] - mean_K[moved_K]) / error_K[moved_K]
    reach = float(np.quantile(deviations.max(axis=1), resampling.confidence)) if moved_K.any() else 0.0
    low_K, high_K = mean_K - reach * error_K, mean_K + reach * error_K
    return Curve(
        tuple(range(1, n_k + 1)),
        tuple(mean_K.tolist()),
        tuple(np.clip(low_K, 0.0, highest).tolist()),
        tuple(np.clip(high_K, 0.0, highest).tolist()),
        len(x_PK),
    )
