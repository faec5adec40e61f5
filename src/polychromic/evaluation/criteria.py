"""What an arm has to show against the baseline: stated before the run, judged after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from polychromic.evaluation.metrics import Metric, find_metric
from polychromic.evaluation.wording import signed_percent

CriterionDirection = Literal["higher", "lower", "not_worse"]


@dataclass(frozen=True, slots=True)
class Criterion:
    """One demand on one metric.

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
            raise ValueError(
                f"{self._place}: direction {self.direction!r}; expected higher, lower or not_worse"
            )
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"{self._place}: alpha={self.alpha}; expected a significance level such as 0.05")
        if self.direction == "not_worse":
            self._check_margin()
        else:
            self._check_change(metric)

    @property
    def asked(self) -> float:
        """Least relative change in the stated direction, as a positive number."""
        return self.relative_change or 0.0

    @property
    def sign(self) -> float:
        """+1 where a rise is an improvement, −1 where a fall is."""
        if self.direction == "not_worse":
            return find_metric(self.metric).sign
        return 1.0 if self.direction == "higher" else -1.0

    @property
    def text(self) -> str:
        """The demand in words, such as "Distinct-2 +12 %" or "Pass@1 no worse (margin 0.02)"."""
        name = find_metric(self.metric).name
        if self.direction == "not_worse":
            return f"{name} no worse (margin {self.margin:g})"
        return (
            f"{name} {signed_percent(self.sign * self.asked)}" if self.asked else f"{name} {self.direction}"
        )

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
            raise ValueError(
                f"{self._place}: margin={self.margin} with {self.direction}; only not_worse takes one"
            )
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
