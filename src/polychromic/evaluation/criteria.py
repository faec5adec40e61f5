"""Puts numbers into words, states success criteria, and finds those that arithmetic puts out of reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from polychromic.evaluation.metrics import Metric, find_metric
from polychromic.numerics import FloatArray

WarningKind = Literal[
    "reward hacking", "temperature", "length", "number of answers", "saturated", "underpowered", "few seeds", "seeds",
    "missing rewards", "truncated", "left out", "missing answers", "undefined", "checker", "partition",
    "partition gaming", "threshold", "sampling not stated", "added after results", "recorded again", "units of text",
    "sandbox", "thinking", "leakage", "duplicates", "long texts", "untrained model",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ResultWarning:
    """Holds one warning, about one arm (empty: all of them)."""

    kind: WarningKind
    arm: str
    text: str


def signed_percent(change: float) -> str:
    """Writes a change in percent: 0.123 becomes "+12.3 %", -0.1 "−10 %"; nan "undefined", a missing end "+∞"."""
    if not math.isfinite(change):
        return signed(change)
    percent = 100 * change
    digits = f"{abs(percent):.0f}" if abs(percent) >= 100 else f"{abs(percent):.3g}"
    return f"{_sign(percent)}{digits} %"


def signed(value: float) -> str:
    """Returns a difference with its sign and three digits; nan "undefined", a missing end "+∞"."""
    if math.isinf(value):
        return f"{_sign(value)}∞"
    return "undefined" if math.isnan(value) else f"{_sign(value)}{abs(value):.3g}"


def number(value: float, digits: int = 4) -> str:
    """Returns a value with up to that many digits and a true minus; nan "–", a missing end "∞"."""
    return "–" if math.isnan(value) else f"{value:.{digits}g}".replace("-", "−").replace("inf", "∞")


def estimate(mean: float, low: float, high: float) -> str:
    """Returns a mean with its interval, both to two digits of the interval's half-width: "0.103 [0.082, 0.124]"."""
    places = decimal_places(low, high)
    if places is None:
        return f"{number(mean)} [{number(low)}, {number(high)}]"
    return f"{_fixed(mean, places)} [{_fixed(low, places)}, {_fixed(high, places)}]"


def decimal_places(low: float, high: float) -> int | None:
    """Decimals that show two digits of an interval's half-width; None for an empty or unknown one."""
    width = (high - low) / 2
    if not (math.isfinite(width) and width > 0):
        return None
    return min(max(1 - math.floor(math.log10(width)), 0), 9)


def short_p(p_value: float) -> str:
    """Returns a p-value for a table's cell: two digits, small ones bounded, "–" where there is none."""
    if math.isnan(p_value):
        return "–"
    if p_value < 0.0001:
        return "< 0.0001"
    return f"{p_value:.{1 - math.floor(math.log10(p_value))}f}" if p_value < 1 else "1"


def p_text(p_value: float) -> str:
    """Writes "p = 0.012", with small ones bounded and an unknown one said."""
    if math.isnan(p_value):
        return "p unknown"
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.2g}"


def listed(items: list[str]) -> str:
    """Joins items: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def plural(count: int, noun: str) -> str:
    """Counts a noun: "1 seed", "3 seeds"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _fixed(value: float, places: int) -> str:
    return f"{round(value, places) + 0.0:,.{places}f}".replace("-", "−")


def _sign(value: float) -> str:
    return "−" if value < 0 else "+"


CriterionDirection = Literal["higher", "lower", "not_worse"]


@dataclass(frozen=True, slots=True)
class Criterion:
    """Holds one demand on one metric.

    "higher" and "lower" ask for a relative change of at least `relative_change` that way (0.12 is 12 %, 0 asks for
    any change) at significance `alpha`; "not_worse" asks for proof that no more than `margin`, in the metric's own
    unit, was lost. `over_seeds` says which question p and interval answer: True, whether this way of training would
    do it with new seeds too; False, whether these trained models do it on new prompts; None, the first where there are
    `LEAST_SEEDS` training seeds or more, else the second.
    Raises ValueError for an unknown metric, or parts that do not fit together.
    """

    metric: str
    direction: CriterionDirection = "higher"
    relative_change: float | None = None
    margin: float | None = None
    alpha: float = 0.05
    over_seeds: bool | None = None

    def __post_init__(self) -> None:
        metric = find_metric(self.metric)
        if self.direction not in ("higher", "lower", "not_worse"):
            raise ValueError(f"{self._place}: direction {self.direction!r}; expected higher, lower or not_worse")
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"{self._place}: alpha={self.alpha}; expected a significance level such as 0.05")
        if self.direction == "not_worse":
            self._check_margin()
        else:
            self._check_change(metric)

    @property
    def asked(self) -> float:
        """Returns the least relative change in the stated direction, as a positive number."""
        return self.relative_change or 0.0

    @property
    def sign(self) -> float:
        """Returns +1 where a rise is an improvement, −1 where a fall is."""
        if self.direction == "not_worse":
            return find_metric(self.metric).sign
        return 1.0 if self.direction == "higher" else -1.0

    @property
    def text(self) -> str:
        """Returns the demand in words, such as "Distinct-2 +12 %" or "Pass@1 no worse (margin 0.02)"."""
        name = find_metric(self.metric).name
        if self.direction == "not_worse":
            return f"{name} no worse (margin {self.margin:g})"
        return f"{name} {signed_percent(self.sign * self.asked)}" if self.asked else f"{name} {self.direction}"

    @property
    def _place(self) -> str:
        return f"criterion on {self.metric}"

    def _check_margin(self) -> None:
        if self.margin is None or not self.margin > 0 or self.relative_change is not None:
            raise ValueError(
                f"{self._place}: not_worse with margin={self.margin} and relative_change={self.relative_change}; "
                "expected the largest absolute loss that counts as no worse, such as margin=0.02, and no change"
            )

    def _check_change(self, metric: Metric) -> None:
        if self.margin is not None:
            raise ValueError(f"{self._place}: margin={self.margin} with {self.direction}; only not_worse takes one")
        if not self.asked >= 0:
            raise ValueError(
                f"{self._place}: relative_change={self.relative_change}; expected 0 or more "
                "(the direction says which way)"
            )
        if self.direction == "lower" and self.asked > 1:
            raise ValueError(
                f"{self._place}: relative_change={self.relative_change} with lower asks for a fall of more than 100 %, "
                "and nothing here falls below 0; expected a share such as 0.1"
            )
        if metric.kind != "length" and self.direction != metric.better:
            raise ValueError(f"{self._place}: direction {self.direction}, but {metric.better} is better here")


Levels = Mapping[str, Sequence[Criterion]]
"""Criteria by level, the one that decides first: {"minimum": …, "strong": …}."""

MINIMUM: tuple[Criterion, ...] = (
    Criterion("distinct_2", "higher", 0.12),
    Criterion("pass@10", "higher", 0.25),
    Criterion("self_bleu", "lower", 0.10),
    Criterion("pass@1", "not_worse", margin=0.01),
)
STRONG: tuple[Criterion, ...] = (
    Criterion("distinct_2", "higher", 0.25, over_seeds=True),
    Criterion("pass@10", "higher", 0.50, over_seeds=True),
    Criterion("self_bleu", "lower", 0.30, over_seeds=True),
    Criterion("pass@1", "not_worse", margin=0.01, over_seeds=True),
)
DEFAULT_LEVELS: Levels = {"minimum": MINIMUM, "strong": STRONG}


_DIGITS = 5  # "0.998 needs 1.2475": rounded further, what is impossible could look possible


@dataclass(frozen=True, slots=True)
class Possibility:
    """Tells whether a criterion can be met at all from a baseline; `needed` is the value it takes (nan for no
    worse)."""

    possible: bool
    needed: float
    sentence: str


def criterion_possible(criterion: Criterion, baseline_value: float) -> Possibility:
    """Tells whether the metric's bounds leave room for the criterion above the baseline's mean.

    Usable before a run with a probe of the base model. An unknown (nan) baseline rules nothing out.
    """
    if criterion.direction == "not_worse":
        return Possibility(True, math.nan, f"{criterion.text} can always be met")
    metric = find_metric(criterion.metric)
    bound = metric.highest if criterion.sign > 0 else metric.lowest
    if criterion.asked and baseline_value < 0.0:
        sentence = f"{criterion.text} has no meaning from {number(baseline_value, _DIGITS)}, which is below 0"
        return Possibility(True, math.nan, sentence)
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
    """Returns a sentence for each criterion that arithmetic rules out from the baseline's means, by metric key.

    Metrics whose baseline is not known rule nothing out. Usable before a run: with a probe of the base model, or as
    soon as the baseline arm has been sampled.
    """
    measured = [criterion for criterion in criteria if criterion.metric in baseline_means]
    judged = [criterion_possible(criterion, baseline_means[criterion.metric]) for criterion in measured]
    return list(dict.fromkeys(possibility.sentence for possibility in judged if not possibility.possible))


def contradictions(criteria: Sequence[Criterion]) -> list[str]:
    """Returns a sentence for each pair of criteria of one level of which one can never be met or says nothing new, and
    for each margin that cannot be missed."""
    sentences = []
    for i, criterion in enumerate(criteria):
        metric = find_metric(criterion.metric)
        for other in criteria[:i]:
            if criterion.metric == other.metric and criterion.direction == other.direction:
                sentences.append(f"{criterion.metric} {criterion.direction} is stated twice; keep one of them")
            elif criterion.metric == other.metric and {criterion.direction, other.direction} == {"higher", "lower"}:
                sentences.append(f"{criterion.metric} is to be both higher and lower; keep one of them")
        if criterion.direction == "not_worse" and (criterion.margin or 0.0) >= metric.highest - metric.lowest:
            sentences.append(
                f"{criterion.text} can never be missed: its values lie between {number(metric.lowest)} and "
                f"{number(metric.highest)}; state a smaller margin"
            )
    return sentences


def share_at_bound(a_P: FloatArray, b_P: FloatArray, metric_key: str) -> float:
    """Returns the share of prompts at the metric's best value in both arms (nan without prompts; 0 for an unbounded
    metric)."""
    best = find_metric(metric_key).best
    if not len(a_P):
        return math.nan
    # A mean over seeds of exact bounds is exact up to rounding.
    return float((np.isclose(a_P, best, atol=1e-9, rtol=0) & np.isclose(b_P, best, atol=1e-9, rtol=0)).mean())
