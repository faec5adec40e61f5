"""How many kinds a fixed number of draws is expected to show: what makes groups of different size comparable."""

from __future__ import annotations

import math

import numpy as np

from polychromic.diversity.ngrams import Integers


def expected_kinds(totals: Integers, budget: int) -> float:
    """Expected number of kinds among `budget` draws without replacement; nan where there are fewer to draw from.

    `totals` [U] counts the items of each kind. With n_i of kind i, N = Σ n_i and m = budget it is
    Σ_i 1 − C(N−n_i, m) / C(N, m). Source: Hurlbert 1971, The Nonconcept of Species Diversity, equation 14.
    Raises ValueError for a budget below 1.
    """
    if budget < 1:
        raise ValueError(f"budget={budget}: expected at least 1")
    n_items = int(np.sum(totals))
    if n_items < budget:
        return math.nan
    sizes, n_kinds = np.unique(totals, return_counts=True)
    # C(N−n, m) / C(N, m) is the product over j < n of (N−m−j) / (N−j): no factorial, so nothing overflows.
    j = np.arange(sizes[-1])
    missed = np.cumprod(np.maximum(n_items - budget - j, 0) / (n_items - j))
    return float(n_kinds @ (1.0 - missed[sizes - 1]))
