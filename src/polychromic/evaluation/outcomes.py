"""Decides one criterion from its evidence and says what would settle it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from polychromic.evaluation.criteria import (
    Criterion,
    criterion_possible,
    number,
    p_text,
    plural,
    signed,
    signed_percent,
)
from polychromic.evaluation.metrics import find_metric
from polychromic.evaluation.statistics.paired import ALPHA, POWER, Change, PairedComparison
from polychromic.evaluation.statistics.resampling import LEAST_SEEDS
from polychromic.evaluation.statistics.sensitivity import MarginTest

_ROUNDING = 1e-9  # from 0.4 to 0.5 is a quarter more, and less than that in floats
_SEEDS_DOMINATE = 1.5
_IMPRACTICAL = 1_000_000

PER_PROMPT = "the values of each prompt: means alone carry no test"


def for_precision(comparison: PairedComparison, distance: float, interval: tuple[float, float]) -> str:
    """Returns what would tell `distance` from 0, given the interval that has it now and shrinks with the root of
    prompts."""
    of_prompts = comparison.bca[1] - comparison.bca[0]
    if comparison.n_seeds > 1 and comparison.ci_high - comparison.ci_low > _SEEDS_DOMINATE * of_prompts:
        return f"more training seeds than {comparison.n_seeds}: their spread, not the prompts, makes the interval wide"
    from scipy.stats import norm

    standard_error = (interval[1] - interval[0]) / 2 / float(norm.ppf(0.5 + comparison.confidence / 2))
    reach = float(norm.isf(ALPHA / 2) + norm.ppf(POWER)) * standard_error
    if not distance or not math.isfinite(reach):
        return "more prompts"
    needed = max(comparison.n_prompts + 1, math.ceil(comparison.n_prompts * (reach / distance) ** 2))
    if needed > _IMPRACTICAL:
        return "more prompts than is practical: it lies on the line"
    return f"about {plural(_rounded(needed), 'prompt')} if it stays as it is (now {comparison.n_prompts:,})"


def for_seeds(comparison: PairedComparison) -> str:
    """Returns what a claim over seeds is short of."""
    if comparison.n_seeds < LEAST_SEEDS:
        return (
            f"at least {LEAST_SEEDS} training seeds: {plural(comparison.n_seeds, 'seed')} cannot show that it holds "
            "over seeds"
        )
    return f"more training seeds than {comparison.n_seeds}: they differ too much to say that it holds over seeds"


def for_unseen(n_prompts: int, p_unseen: float, alpha: float) -> str:
    """Returns what it takes to rule out a loss that no prompt showed, at level `alpha`."""
    needed = max(n_prompts + 1, math.ceil(n_prompts * math.log(alpha) / math.log(p_unseen)))
    return (
        f"about {plural(_rounded(needed), 'prompt')}: none of {n_prompts:,} got worse, and so few may miss a loss of "
        f"the margin by chance (p cannot fall below {p_unseen:.2g})"
    )


def for_missing(criterion: Criterion, arm: float, baseline: float) -> str:
    """Returns what a criterion needs that rests on the answers that have a reward, and on none of the others."""
    return (
        f"a reward for every answer: with the missing ones counted as failed {find_metric(criterion.metric).name} is "
        f"about {number(arm, 3)} against {number(baseline, 3)}"
    )


def for_saturation(metric_key: str, share_at_bound: float) -> str:
    """Returns what a metric needs that has no room left."""
    return (
        f"harder prompts: {find_metric(metric_key).name} cannot distinguish the arms, "
        f"{100 * share_at_bound:.0f} % of prompts are at its bound in both"
    )


def _rounded(count: int) -> int:
    """Returns two leading digits, upwards: more would promise precision that is not there."""
    step = 10 ** max(len(str(count)) - 2, 0)
    return math.ceil(count / step) * step


Status = Literal["met", "not met", "undecided", "impossible"]
Ruling = tuple[Status, str]
"""A status, and for an undecided one what could decide it."""

SATURATED_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Evidence:
    """Holds what is known of one metric in one arm against the baseline; no comparison where only means are known.

    `share_at_bound` is the share of prompts at the metric's best value in both arms, `n_compared` the number of prompts
    that the baseline and every judged arm answered (0: not known). `if_failed` are the means of arm and baseline with
    answers that have no reward counted as failed; None where none is missing, or that is not known.
    """

    mean_arm: float
    mean_baseline: float
    comparison: PairedComparison | None = None
    margin: MarginTest | None = None
    share_at_bound: float = 0.0
    n_compared: int = 0
    if_failed: tuple[float, float] | None = None

    @property
    def on_prompts(self) -> str:
        """Returns " on 6 of 200 prompts" where the metric has no value on the others that are compared; else ""."""
        n = self.comparison.n_prompts if self.comparison else self.n_compared
        return f" on {n:,} of {plural(self.n_compared, 'prompt')}" if n < self.n_compared else ""

    @property
    def difference(self) -> float:
        """Returns arm minus baseline; that of the comparison, which is 0 where the two are equal up to rounding."""
        return self.comparison.difference if self.comparison else self.mean_arm - self.mean_baseline

    @property
    def relative(self) -> float:
        """Returns the relative change of the mean; nan from a baseline that is not above 0."""
        return self.difference / self.mean_baseline if self.mean_baseline > 0.0 else math.nan


@dataclass(frozen=True, slots=True)
class CriterionOutcome:
    """Holds the word on one criterion. `change` is the word on the metric's change, None where there is no test of it.
    `p_value` is the test's own, `p_adjusted` corrected over the level's family; `needed` is the value that meets the
    criterion, and `would_take` what could decide an undecided one. `evidence` answers the criterion's question (these
    models, or this way of training); None where the metric was not measured."""

    arm: str
    level: str
    criterion: Criterion
    status: Status
    change: Change | None
    sentence: str
    p_value: float
    p_adjusted: float
    needed: float
    would_take: str
    evidence: Evidence | None

    @property
    def worse(self) -> bool:
        """Tells whether the metric moved the wrong way: significantly, or by means of which no test is known."""
        if self.change is not None or self.evidence is None:
            return self.change == "worse"
        return self.criterion.sign * self.evidence.difference < 0

    @property
    def label(self) -> str:
        """Returns the status, with the word on the change where the status does not imply it."""
        if self.status == "not met" and self.worse:
            return "not met (worse)"
        asks_of_change = self.criterion.direction != "not_worse"  # else p asks about a margin
        if self.change == "no clear change" and self.status in ("not met", "undecided") and asks_of_change:
            return f"{self.status} (no clear change)"
        return self.status


def test_p_value(criterion: Criterion, evidence: Evidence | None) -> float:
    """Returns the p-value that the criterion is judged by, before correction; nan where there is none.

    It answers the question that the criterion states, or the one that stands for so many seeds.
    """
    if evidence is None or evidence.comparison is None:
        return math.nan
    comparison = evidence.comparison.asking(criterion.over_seeds)
    if criterion.direction != "not_worse":
        return comparison.p_value
    if evidence.margin is None:
        return math.nan
    return evidence.margin.p_over_seeds if comparison.asks_over_seeds else evidence.margin.p_value


def decide(
    arm: str, level: str, criterion: Criterion, evidence: Evidence | None, p_adjusted: float
) -> CriterionOutcome:
    """Judges one criterion on its evidence (None where the metric was not measured in both arms)."""
    status, would_take, needed, change = "undecided", "", math.nan, None
    if evidence is None:
        metric = find_metric(criterion.metric)
        would_take = f"measuring {criterion.metric} in both arms (it needs {metric.needs})"
        sentence = f"{criterion.text}: {metric.name} was not measured"
    else:
        possibility = criterion_possible(criterion, evidence.mean_baseline)
        needed = possibility.needed
        if evidence.comparison is not None:
            comparison = evidence.comparison.asking(criterion.over_seeds)
            evidence = replace(evidence, comparison=comparison)
            if math.isnan(comparison.p_value):  # one seed: interval and word are of these models
                change = comparison.asking(False).change(criterion.sign, criterion.alpha)
            else:
                # A margin's p says nothing of the change itself.
                corrected = None if criterion.direction == "not_worse" else p_adjusted
                change = comparison.change(criterion.sign, criterion.alpha, corrected)
        if possibility.possible:
            rule = _rule_no_worse if criterion.direction == "not_worse" else _rule_change
            status, would_take = rule(criterion, evidence, p_adjusted)
            if status == "met" and evidence.if_failed and not _is_reached(criterion, *evidence.if_failed):
                status, would_take = "undecided", for_missing(criterion, *evidence.if_failed)
            sentence = _finding(criterion, evidence, status, change, p_adjusted)
        else:
            status, sentence = "impossible", possibility.sentence
    p_value = test_p_value(criterion, evidence)
    return CriterionOutcome(
        arm, level, criterion, status, change, sentence, p_value, p_adjusted, needed, would_take, evidence
    )


def _rule_change(criterion: Criterion, evidence: Evidence, p_adjusted: float) -> Ruling:
    """Rules on a change. Met: changed by what was asked, and significantly. Not met: less, and the interval excludes
    what was asked."""
    relative = criterion.sign * evidence.relative
    if criterion.asked and math.isnan(relative):
        word = number(evidence.mean_baseline)
        return "undecided", f"a baseline above 0 (a change relative to {word} has no meaning), or relative_change: 0"
    gained = criterion.sign * evidence.difference > 0
    reached = gained and (relative >= criterion.asked - _ROUNDING or not criterion.asked)
    if evidence.comparison is None:
        return ("undecided", PER_PROMPT) if reached else ("not met", "")
    if not reached:
        return _rule_short(criterion, evidence, evidence.comparison)
    if p_adjusted < criterion.alpha:
        return "met", ""
    return "undecided", _for_significance(criterion, evidence, evidence.comparison)


def _rule_short(criterion: Criterion, evidence: Evidence, comparison: PairedComparison) -> Ruling:
    """Rules on a change that falls short of what was asked: is that certain?"""
    if evidence.share_at_bound >= SATURATED_SHARE and not comparison.p_value < criterion.alpha:
        return "undecided", for_saturation(criterion.metric, evidence.share_at_bound)
    if not criterion.asked:
        interval = (comparison.ci_low, comparison.ci_high)
        if max(criterion.sign * end for end in interval) < 0:
            return "not met", ""
        return "undecided", _for_significance(criterion, evidence, comparison)
    interval = (comparison.relative_ci_low, comparison.relative_ci_high)
    if max(criterion.sign * end for end in interval) < criterion.asked:
        return "not met", ""
    short_by = criterion.asked - criterion.sign * evidence.relative
    return "undecided", for_precision(comparison, short_by, interval)


def _rule_no_worse(criterion: Criterion, evidence: Evidence, p_adjusted: float) -> Ruling:
    """Rules on a loss within a margin. Met: the test rejects a loss beyond the margin. Not met: the whole interval lies
    beyond it."""
    within = criterion.sign * evidence.difference + (criterion.margin or 0.0)
    comparison = evidence.comparison
    if comparison is None:
        return ("not met", "") if within < 0 else ("undecided", PER_PROMPT)
    if p_adjusted < criterion.alpha:
        return "met", ""
    interval = (comparison.ci_low, comparison.ci_high)
    if max(criterion.sign * end for end in interval) + (criterion.margin or 0.0) < 0:
        return "not met", ""
    if comparison.asks_over_seeds and comparison.n_seeds < 2:
        return "undecided", for_seeds(comparison)
    p_value = test_p_value(criterion, evidence)
    if evidence.margin and 0.0 < p_value <= evidence.margin.p_unseen:
        return "undecided", for_unseen(comparison.n_prompts, p_value, criterion.alpha * p_value / p_adjusted)
    return "undecided", for_precision(comparison, within, interval)


def _is_reached(criterion: Criterion, arm: float, baseline: float) -> bool:
    """Tells whether means are what was asked, tests aside."""
    gained = criterion.sign * (arm - baseline)
    if criterion.direction == "not_worse":
        return gained + (criterion.margin or 0.0) > 0.0
    return gained > 0.0 and gained >= (criterion.asked - _ROUNDING) * baseline


def _for_significance(criterion: Criterion, evidence: Evidence, comparison: PairedComparison) -> str:
    if comparison.p_floor >= criterion.alpha:
        return (
            f"more prompts: only {comparison.n_informative} differ between the arms, "
            f"and p cannot fall below {comparison.p_floor:.2g}"
        )
    if evidence.share_at_bound >= SATURATED_SHARE:
        return for_saturation(criterion.metric, evidence.share_at_bound)
    if comparison.asks_over_seeds and not comparison.p_over_seeds < criterion.alpha:
        return for_seeds(comparison)
    return for_precision(comparison, comparison.difference, (comparison.ci_low, comparison.ci_high))


def _finding(criterion: Criterion, evidence: Evidence, status: Status, change: Change | None, p_adjusted: float) -> str:
    """Returns what was seen, beside what was asked where that is not met."""
    metric = find_metric(criterion.metric)
    if criterion.direction == "not_worse":
        word = "no worse" if status == "met" else "worse" if status == "not met" else "not shown to be no worse"
        return f"{metric.name} {word}{evidence.on_prompts} ({signed(evidence.difference)}, margin {criterion.margin:g})"
    seen = signed(evidence.difference) if math.isnan(evidence.relative) else signed_percent(evidence.relative)
    seen += evidence.on_prompts
    tested = "" if math.isnan(p_adjusted) else f" ({p_text(p_adjusted)})"
    if status == "met":
        return f"{metric.name} {seen}{tested}"
    wanted = signed_percent(criterion.sign * criterion.asked) if criterion.asked else criterion.direction
    if change == "no clear change":
        return f"{metric.name}: no clear change, {seen} where {wanted} was asked{tested}"
    lost = change == "worse" or (change is None and criterion.sign * evidence.difference < 0)
    verb = "got worse: " if lost and status == "not met" else ""
    return f"{metric.name} {verb}{seen} where {wanted} was asked{tested}"
