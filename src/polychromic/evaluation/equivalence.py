"""Proof that something was *not* lost: non-inferiority and equivalence within a stated margin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polychromic.evaluation.rounding import has_spread
from polychromic.evaluation.seeds import p_over_seeds

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MarginTest:
    """One-sided p-values that a is no more than the margin worse than b, over prompts and over new seeds too (nan
    with one seed), and the p-value of equivalence (two one-sided tests)."""

    p_value: float
    p_over_seeds: float
    p_equivalent: float


def margin_test(a_SP: Floats, b_SP: Floats, margin: float, sign: float = 1.0) -> MarginTest:
    """Test a against b [seeds, prompts] with an absolute margin; `sign` is −1 where lower values are better.

    Raises ValueError for a margin that is not positive. Source: Schuirmann 1987, A Comparison of the Two
    One-Sided Tests Procedure; statsmodels `ttost_paired`.
    """
    from statsmodels.stats.weightstats import ttost_paired

    if not margin > 0:
        raise ValueError(f"margin={margin}: expected the largest loss that still counts as no worse")
    a_P, b_P = sign * a_SP.mean(axis=0), sign * b_SP.mean(axis=0)
    x_SP = sign * (a_SP - b_SP)
    difference = float(x_SP.mean())
    if len(a_P) < 2:
        return MarginTest(1.0, float("nan"), 1.0)
    if not has_spread(a_P - b_P):
        # No t statistic; flipping the signs of equal distances from the margin has one most extreme pattern of 2^P.
        least = 2.0 ** -len(a_P)
        p_value = least if difference > -margin else 1.0
        p_above = least if difference < margin else 1.0
    else:
        _, (_, p_value, _), (_, p_above, _) = ttost_paired(a_P, b_P, -margin, margin)
    two_sided = p_over_seeds(x_SP, null=-margin)
    over_seeds = two_sided / 2 if difference > -margin else 1.0 - two_sided / 2
    return MarginTest(float(p_value), over_seeds, max(float(p_value), float(p_above)))
