"""Defines typed arrays, label codes, and probabilities of what a uniformly drawn subset hits."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Float32Array = NDArray[np.float32]
"""Embeddings."""


def label_codes(labels: Iterable[Hashable]) -> IntArray:
    """Returns [N] codes 0, 1, … in order of first appearance; equal labels get equal codes."""
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(label, len(codes)) for label in labels], dtype=np.int64)


@lru_cache(maxsize=512)
def miss_probabilities(n: int, k: int) -> FloatArray:
    """Returns entry c, for c = 0..n: probability C(n−c, k) / C(n, k) that a random k-subset of n misses c given
    elements.

    A running product of (n−c−k)/(n−c): every factor lies in [0, 1], so nothing overflows, the zeros for
    c > n−k are exact, and the relative error is at most c roundings. Needs 0 ≤ k ≤ n; the array is read-only.
    """
    c = np.arange(n)
    table = np.concatenate([[1.0], np.cumprod(np.maximum(n - c - k, 0) / (n - c))])
    table.setflags(write=False)
    return table


@lru_cache(maxsize=512)
def at_least_two_probabilities(n: int, k: int) -> FloatArray:
    """Returns entry c, for c = 0..n: probability that a random k-subset of n holds two or more of c given elements."""
    c = np.arange(n + 1)
    exactly_one = np.zeros(n + 1)
    if k >= 1:
        exactly_one[1:] = c[1:] * (k / n) * miss_probabilities(n - 1, k - 1)
    table = np.maximum(1.0 - miss_probabilities(n, k) - exactly_one, 0.0)
    # Two of fewer than two elements, or two in a set of one, is impossible, whatever the rounding says.
    table[: 2 if k >= 2 else None] = 0.0
    table.setflags(write=False)
    return table
