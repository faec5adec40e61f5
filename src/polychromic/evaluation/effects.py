"""Sizes of a paired difference that need no unit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polychromic.evaluation.rounding import has_spread

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EffectSizes:
    """Standardised differences (a − b positive) and the two rank measures; nan where there is no spread.

    `hedges_gz` is the one to quote: mean over standard deviation of the paired differences, corrected for few
    prompts. `cohen_d_av` divides by the arms' own spread instead and compares with unpaired studies.
    """

    cohen_dz: float
    hedges_gz: float
    cohen_d_av: float
    cliffs_delta: float
    rank_biserial: float


def hedges_gz(x_P: Floats) -> float:
    """Mean over standard deviation of paired differences times 1 − 3 / (4 (P − 1) − 1); nan without spread.

    Source: Hedges 1981, Distribution Theory for Glass's Estimator of Effect Size, equation 6e.
    """
    return (
        _ratio(x_P.mean(), _sd(x_P)) * (1.0 - 3.0 / (4.0 * (len(x_P) - 1) - 1.0))
        if len(x_P) > 1
        else math.nan
    )


def effect_sizes(a_P: Floats, b_P: Floats) -> EffectSizes:
    """All effect sizes of a against b, paired by prompt."""
    from scipy.stats import mannwhitneyu, rankdata

    difference_P = a_P - b_P
    dominance = 2.0 * mannwhitneyu(a_P, b_P).statistic / (len(a_P) * len(b_P)) - 1.0
    moved = difference_P[difference_P != 0]
    ranks = rankdata(np.abs(moved))
    return EffectSizes(
        cohen_dz=_ratio(difference_P.mean(), _sd(difference_P)),
        hedges_gz=hedges_gz(difference_P),
        cohen_d_av=_ratio(difference_P.mean(), math.sqrt((_sd(a_P) ** 2 + _sd(b_P) ** 2) / 2)),
        cliffs_delta=float(dominance),
        rank_biserial=_ratio(float(np.sign(moved) @ ranks), float(ranks.sum())),
    )


def _sd(x: Floats) -> float:
    return float(x.std(ddof=1)) if has_spread(x) else 0.0


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else math.nan
