"""Unbiased pass@k and its kin: chances over k generations drawn, without replacement, from the n that were sampled."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that at least one of k generations passes, where c of n did: 1 − C(n−c, k) / C(n, k).

    Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n: more generations than were sampled cannot be drawn.
    Source: Chen et al. 2021, Evaluating Large Language Models Trained on Code, equation 1.
    """
    _require_counts(n, c, k)
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def all_pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that all of k generations pass (pass^k), where c of n did: C(c, k) / C(n, k).

    Raises ValueError as `pass_at_k` does. Source: Yao et al. 2024, τ-bench, section 3.3.
    """
    _require_counts(n, c, k)
    return math.comb(c, k) / math.comb(n, k)


def most_pass_at_k(n: int, c: int, k: int, share: float = 0.5) -> float:
    """Chance that at least ⌈share · k⌉ of k generations pass (G-Pass@k), where c of n did.

    Raises ValueError as `pass_at_k` does, or for a share outside (0, 1].
    Source: Liu et al. 2024, Are Your LLMs Capable of Stable Reasoning?, equation 4.
    """
    from scipy.stats import hypergeom

    _require_counts(n, c, k)
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share={share}: expected a share of the k generations in (0, 1]")
    return float(hypergeom.sf(math.ceil(share * k) - 1, n, c, k))


def pass_at_k_curve(n: ArrayLike, c: ArrayLike, k_max: int) -> Floats:
    """[..., k_max] pass@k for k = 1..k_max, of counts n and c [...] that broadcast; nan where k > n.

    The chance to miss is the product over j < k of (n − c − j) / (n − j), so nothing overflows.
    Raises ValueError where c < 0, c > n, or k_max < 1.
    """
    n_all, c_all = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64))
    if k_max < 1:
        raise ValueError(f"k_max={k_max}: expected at least 1")
    if (c_all < 0).any() or (c_all > n_all).any():
        raise ValueError(f"c={c}, n={n}: expected passing counts between 0 and the number of generations")
    drawn_K = np.arange(k_max)
    left = n_all[..., None] - drawn_K
    # Past the failures nothing is left to miss with; past n the factor is set to nan below.
    misses = np.maximum(left - c_all[..., None], 0.0) / np.maximum(left, 1.0)
    return np.where(left >= 1.0, 1.0 - np.cumprod(misses, axis=-1), np.nan)


def _require_counts(n: int, c: int, k: int) -> None:
    if not 0 <= c <= n:
        raise ValueError(f"c={c}: expected between 0 and n={n} generations that pass")
    if not 1 <= k <= n:
        raise ValueError(f"k={k}: expected between 1 and n={n}; sample at least k generations a prompt")
