"""What arithmetic rules out: criteria beyond a metric's bound, and metrics with no room left to differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polychromic.evaluation.criteria import Criterion
from polychromic.evaluation.metrics import find_metric
from polychromic.evaluation.wording import number

Floats = NDArray[np.float64]

_DIGITS = 5  # "0.998 needs 1.2475": rounded further, what is impossible could look possible


@dataclass(frozen=True, slots=True)
class Possibility:
    """Whether a criterion can be met at all from a baseline; `needed` is the value it takes (nan for no worse)."""

    possible: bool
    needed: float
    sentence: str


def criterion_possible(criterion: Criterion, baseline_value: float) -> Possibility:
    """Whether the metric's bounds leave room for the criterion above the baseline's mean.

    Usable before a run with a probe of the base model. An unknown (nan) baseline rules nothing out.
    """
    if criterion.direction == "not_worse":
        return Possibility(True, math.nan, f"{criterion.text} can always be met")
    metric = find_metric(criterion.metric)
    bound = metric.highest if criterion.sign > 0 else metric.lowest
    needed = baseline_value * (1.0 + criterion.sign * criterion.asked)
    beyond = criterion.sign * (needed - bound) > 1e-12 * max(1.0, abs(needed))
    full = criterion.sign * (baseline_value - bound) >= 0
    start = f"{criterion.text} from {number(baseline_value, _DIGITS)}"
    if full and not beyond:
        return Possibility(False, needed, f"{start} cannot be met: the baseline is at the bound already")
    reach = f"{start} needs {number(needed, _DIGITS)}"
    if not beyond:
        return Possibility(True, needed, reach)
    word = "exceed" if criterion.sign > 0 else "fall below"
    return Possibility(False, needed, f"{reach}, and it cannot {word} {number(bound)}")


def impossible_criteria(criteria: Iterable[Criterion], baseline_means: Mapping[str, float]) -> list[str]:
    """A sentence for each criterion that arithmetic rules out from the baseline's means, by metric key.

    Metrics whose baseline is not known rule nothing out. Usable before a run: with a probe of the base model, or as
    soon as the baseline arm has been sampled.
    """
    known = (one for one in criteria if one.metric in baseline_means)
    judged = [criterion_possible(one, baseline_means[one.metric]) for one in known]
    return list(dict.fromkeys(one.sentence for one in judged if not one.possible))


def contradictions(criteria: Sequence[Criterion]) -> list[str]:
    """A sentence for each pair of criteria of one level of which one can never be met or says nothing new, and for each
    margin that cannot be missed."""
    found = []
    for i, one in enumerate(criteria):
        metric = find_metric(one.metric)
        for other in criteria[:i]:
            if one.metric == other.metric and one.direction == other.direction:
                found.append(f"{one.metric} {one.direction} is stated twice; keep one of them")
            elif one.metric == other.metric and {one.direction, other.direction} == {"higher", "lower"}:
                found.append(f"{one.metric} is to be both higher and lower; keep one of them")
        if one.direction == "not_worse" and (one.margin or 0.0) >= metric.highest - metric.lowest:
            found.append(
                f"{one.text} can never be missed: its values lie between {number(metric.lowest)} and "
                f"{number(metric.highest)}; state a smaller margin"
            )
    return found


def share_at_bound(a_P: Floats, b_P: Floats, metric_key: str) -> float:
    """Share of prompts at the metric's best value in both arms (nan without prompts; 0 for an unbounded metric)."""
    best = find_metric(metric_key).best
    if not len(a_P):
        return math.nan
    # A mean over seeds of exact bounds is exact up to rounding.
    return float((np.isclose(a_P, best, atol=1e-9, rtol=0) & np.isclose(b_P, best, atol=1e-9, rtol=0)).mean())
