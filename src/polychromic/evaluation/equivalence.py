"""Proof that something was *not* lost: non-inferiority and equivalence within a stated margin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polychromic.evaluation.intervals import PROMPTS_ALONE, Reach, Resampling, reaches
from polychromic.evaluation.seeds import SeedSpread

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MarginTest:
    """One-sided p-values that a is no more than the margin worse than b, over prompts and over new seeds too (nan
    with one seed), and the p-value of equivalence over prompts (two one-sided tests)."""

    p_value: float
    p_over_seeds: float
    p_equivalent: float


def margin_test(
    a_SP: Floats, b_SP: Floats, margin: float, sign: float = 1.0, *, resampling: Resampling | None = None
) -> MarginTest:
    """Test a against b [seeds, prompts] with an absolute margin; `sign` is −1 where lower values are better.

    Each p is half the level at which the interval of the difference just reaches the margin, and over prompts no less
    than 2^−P, the least that flipping the signs of P distances from the margin could give.
    Raises ValueError for a margin that is not positive. Source: Schuirmann 1987, A Comparison of the Two
    One-Sided Tests Procedure.
    """
    if not margin > 0:
        raise ValueError(f"margin={margin}: expected the largest loss that still counts as no worse")
    x_SP = sign * (a_SP - b_SP)
    n_seeds, n_prompts = x_SP.shape
    if n_prompts < 2:
        return MarginTest(1.0, math.nan, 1.0)
    [reach] = reaches(x_SP.mean(axis=0)[:, None], resampling or Resampling())
    least = 2.0**-n_prompts
    p_value = max(_above(reach, -margin, PROMPTS_ALONE), least)
    p_below = max(1.0 - _above(reach, margin, PROMPTS_ALONE), least)
    over_seeds = max(_above(reach, -margin, SeedSpread.of(x_SP)), p_value) if n_seeds > 1 else math.nan
    return MarginTest(p_value, over_seeds, max(p_value, p_below))


def _above(reach: Reach, null: float, spread: SeedSpread) -> float:
    """One-sided p-value that the mean lies above `null`."""
    half = reach.p_value(null, spread) / 2
    return half if reach.mean > null else 1.0 - half
