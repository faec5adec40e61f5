"""Curves over k with a band that holds for all k at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polychromic.evaluation.intervals import Resampling
from polychromic.evaluation.resampling import LEAST_SPREAD, bootstrap_means

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

    The whole curve lies inside the band with the stated confidence. Clipped to [0, `highest`].
    """
    defined_K = (~np.isnan(x_PK)).mean(axis=0) >= _DEFINED_SHARE
    n_k = int(defined_K.argmin()) if not defined_K.all() else len(defined_K)
    x_PK = x_PK[:, :n_k]
    x_PK = x_PK[~np.isnan(x_PK).any(axis=1)]
    if not x_PK.size:
        return None
    mean_K, half_K = x_PK.mean(axis=0), _half_widths(x_PK, resampling)
    low_K, high_K = mean_K - half_K, mean_K + half_K
    return Curve(
        tuple(range(1, n_k + 1)),
        tuple(mean_K.tolist()),
        tuple(np.clip(low_K, 0.0, highest).tolist()),
        tuple(np.clip(high_K, 0.0, highest).tolist()),
        len(x_PK),
    )


def _half_widths(x_PK: Floats, resampling: Resampling) -> Floats:
    """[K] q standard errors, q the quantile of the largest t statistic over all k in the bootstrap.

    Each draw is divided by its own standard error, as in the bootstrap-t: divided by the sample's, bands over 50
    prompts held the curve 90 % of the time where 95 % was promised. Source: the sup-t band of Montiel Olea and
    Plagborg-Møller 2019, Simultaneous Confidence Bands, section 2, its critical value from a bootstrap of means.
    """
    n_prompts, n_k = x_PK.shape
    mean_K, error_K = x_PK.mean(axis=0), x_PK.std(axis=0) / np.sqrt(n_prompts)
    moved_K = error_K > 1e-12  # less is rounding
    if not moved_K.any():
        return np.zeros(n_k)
    centred_PK = x_PK[:, moved_K] - mean_K[moved_K]
    both = np.concatenate([centred_PK, centred_PK**2], axis=-1)
    drawn = bootstrap_means(both, n_resamples=resampling.bootstraps, seed=resampling.seed)
    deviation_BK, square_BK = np.split(drawn, 2, axis=-1)
    spread_BK = np.sqrt(np.maximum(square_BK - deviation_BK**2, 0.0) / n_prompts)
    t_BK = np.abs(deviation_BK) / np.maximum(spread_BK, LEAST_SPREAD * error_K[moved_K])
    return float(np.quantile(t_BK.max(axis=1), resampling.confidence)) * error_K
