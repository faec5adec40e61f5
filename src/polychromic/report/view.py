"""Tells every outcome once, for page, terminal, Markdown and LaTeX, and the verdict in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from polychromic.evaluation import Comparison, find_metric
from polychromic.evaluation.counting.curves import split_at_k
from polychromic.evaluation.criteria import (
    Criterion,
    decimal_places,
    estimate,
    listed,
    number,
    p_text,
    plural,
    short_p,
    signed,
    signed_percent,
)
from polychromic.evaluation.outcomes import CriterionOutcome, Evidence, Status
from polychromic.evaluation.statistics.paired import PairedComparison
from polychromic.evaluation.statistics.resampling import LEAST_SEEDS
from polychromic.evaluation.verdict import LevelVerdict

_ANSWERS: dict[Status, str] = {
    "met": "Yes: {arm} does what was asked of it.",
    "not met": "No: {arm} falls short of what was asked.",
    "undecided": "Not decided: this run cannot tell whether {arm} does what was asked.",
    "impossible": "It cannot be: what was asked of {arm} lies beyond what there is to reach.",
}
_AMONG_MANY: dict[Status, str] = {
    **_ANSWERS,
    "not met": "No: no arm does what was asked; {arm} came furthest.",
    "undecided": "Not decided: this run cannot tell whether any arm does what was asked; {arm} came furthest.",
    "impossible": "It cannot be: what was asked lies beyond what there is to reach; {arm} came furthest.",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """Holds a cell's text, what is told of it on request ("" for nothing), and whether it is good news."""

    text: str
    detail: str = ""
    tone: Literal["", "better", "worse", "unclear"] = ""


@dataclass(frozen=True, slots=True)
class OutcomeView:
    """Holds everything that reports say of one criterion in one arm; they choose, and write none of it themselves.

    `row` is a row of the plain tables, `cells` are those of the page with what stands behind each number, `clause` is
    the finding in plain words, its number apart, and `method` tells how the change was measured ("" without a test).
    """

    level: str
    row: list[str]
    cells: list[Cell]
    clause: list[Cell]
    method: str


def outcome_columns(comparison: Comparison) -> list[str]:
    """Returns the columns of `OutcomeView.row`; the page leaves out the level and has the criterion before the arm."""
    interval = f"{100 * comparison.resampling.confidence:g} % interval"
    return [
        "level", "arm", "criterion", "baseline", "arm's value", "lengths", "change", interval, "p (Holm)", "status",
    ]  # fmt: skip


def outcome_views(comparison: Comparison) -> list[OutcomeView]:
    """Returns the view of every outcome of the verdict, level by level."""
    return [view_outcome(comparison, outcome) for level in comparison.verdict.levels for outcome in level.outcomes]


def view_outcome(comparison: Comparison, outcome: CriterionOutcome) -> OutcomeView:
    """Tells one outcome in all the forms that reports need."""
    evidence, criterion = outcome.evidence, outcome.criterion
    method = comparison_detail(evidence.comparison) if evidence and evidence.comparison else ""
    lengths, p_value = lengths_text(comparison, outcome.arm), short_p(outcome.p_adjusted)
    means = (evidence.mean_baseline, evidence.mean_arm) if evidence else (math.nan, math.nan)
    row = [
        outcome.level, outcome.arm, criterion.text, *map(number, means), lengths,
        *_changes(criterion, evidence, fitted=False), p_value, outcome.label,
    ]  # fmt: skip
    detail = method
    if evidence and evidence.margin is not None:
        detail += (
            " In the table p asks whether it is worse by more than the margin: "
            f"{p_text(outcome.p_value)} before correction."
        )
    reasons = [outcome.sentence, outcome.would_take and f"What it would take: {outcome.would_take}"]
    cells = [
        Cell(criterion.text, metric_detail(comparison, criterion.metric)),
        Cell(outcome.arm),
        *(
            Cell(_mean_text(comparison, arm, criterion.metric, mean), mean_detail(comparison, arm, criterion.metric))
            for arm, mean in zip((comparison.baseline, outcome.arm), means, strict=True)
        ),
        Cell(lengths, "Mean lengths in tokens of the baseline's texts and the arm's"),
        *(Cell(text, detail) for text in (*_changes(criterion, evidence, fitted=True), p_value)),
        Cell(outcome.label, ". ".join(reason for reason in reasons if reason)),
    ]
    return OutcomeView(outcome.level, row, cells, _clause(outcome, method), method)


def _changes(criterion: Criterion, evidence: Evidence | None, *, fitted: bool) -> tuple[str, str]:
    """Returns the change and its interval: relative, or in the metric's unit for a margin and from a baseline that is
    not above 0.

    `fitted` numbers have the decimals that the interval's width allows, others three digits.
    """
    if evidence is None:
        return "–", "–"
    absolute = criterion.direction == "not_worse" or math.isnan(evidence.relative)
    values = [evidence.difference if absolute else evidence.relative]
    if comparison := evidence.comparison:
        ends = (
            (comparison.ci_low, comparison.ci_high)
            if absolute
            else (comparison.relative_ci_low, comparison.relative_ci_high)
        )
        values += ends
    if fitted:
        scale, unit = (1, "") if absolute else (100, " %")
        values = [scale * value for value in values]
        places = decimal_places(*values[1:]) if comparison else None
        texts = [f"{_signed(value, places)}{unit if math.isfinite(value) else ''}" for value in values]
    else:
        texts = [(signed if absolute else signed_percent)(value) for value in values]
    # One prompt has no interval.
    return texts[0], f"{texts[1]} to {texts[2]}" if comparison and not math.isnan(values[1]) else "–"


def _mean_text(comparison: Comparison, arm: str, key: str, value: float) -> str:
    """Returns the mean over the prompts that were paired, to the digits that the interval of all prompts has."""
    mean = comparison.mean(arm, key)
    if mean is None:
        return number(value)
    return estimate(mean.mean if math.isnan(value) else value, mean.low, mean.high).split(" [")[0]


def _signed(value: float, places: int | None) -> str:
    if places is None or not math.isfinite(value):
        return signed(value)
    return f"{round(value, places) + 0.0:+,.{places}f}".replace("-", "−")


def lengths_text(comparison: Comparison, arm: str) -> str:
    """Returns mean lengths of the baseline's texts and the arm's, "12.1 → 14.5": no diversity is to be read without
    them."""
    lengths = [comparison.mean(name, "tokens") for name in (comparison.baseline, arm)]
    return " → ".join("–" if length is None else f"{length.mean:.3g}" for length in lengths)


def comparison_detail(comparison: PairedComparison) -> str:
    """Returns all that stands behind a difference: interval, prompts, seeds, tests, power and method."""
    seeds = ", ".join(signed(difference) for difference in comparison.seed_differences)
    sentences = [
        f"Arm {number(comparison.mean_a)}, baseline {number(comparison.mean_b)}: {signed(comparison.difference)} "
        f"({signed_percent(comparison.relative_difference)}), {100 * comparison.confidence:g} % interval "
        f"{signed(comparison.ci_low)} to {signed(comparison.ci_high)}",
        f"{plural(comparison.n_prompts, 'prompt')}, {comparison.n_informative:,} of them different"
        + (f", {comparison.n_dropped:,} undefined and left out" if comparison.n_dropped else ""),
        f"{plural(comparison.n_seeds, 'training seed')}" + (f" ({seeds})" if comparison.n_seeds > 1 else ""),
        _p_sentence(comparison),
        f"Effect g_z = {number(comparison.effect_size)}; this many prompts show a difference of "
        f"{number(comparison.minimum_detectable_effect)} with 80 % power",
        capital(comparison.method),
    ]
    return ". ".join(sentences) + "."


def _p_sentence(comparison: PairedComparison) -> str:
    """Returns the p-value that stands and what it is of; beside it the one over prompts alone, where seeds count."""
    if not comparison.asks_over_seeds:
        return f"{capital(p_text(comparison.p_value))} before correction, over prompts: it is of these trained models"
    return (
        f"{capital(p_text(comparison.p_value))} before correction, over prompts and training seeds: it is of the way "
        f"of training. Over prompts alone, of these trained models, {p_text(comparison.over_prompts.p_value)}"
    )


def metric_detail(comparison: Comparison, key: str) -> str:
    """Returns what a metric says, which way is better, and how it was made."""
    metric = find_metric(key)
    better = "" if metric.kind == "length" else f"{capital(metric.better)} is better"
    unit = f"In {metric.unit}" if metric.unit else ""
    parts = [metric.meaning, unit, better, how_made(comparison, key)]
    return ". ".join(part for part in parts if part) + "."


def mean_detail(comparison: Comparison, arm: str, key: str) -> str:
    """Tells of an arm's mean its seeds, prompts, interval and its difference to the baseline; "" without a mean."""
    mean = comparison.mean(arm, key)
    if mean is None:
        return ""
    seeds = f" (each: {', '.join(number(value) for value in mean.seeds)})" if len(mean.seeds) > 1 else ""
    sentences = [
        f"Mean over {plural(mean.n_prompts, 'prompt')} and {plural(len(mean.seeds), 'training seed')}{seeds}, "
        f"sampled at {mean.sampling}",
        f"{100 * comparison.resampling.confidence:g} % interval {number(mean.low)} to {number(mean.high)}: bootstrap "
        f"over prompts, {comparison.resampling.bootstraps:,} resamples"
        + (", widened for seeds" if len(mean.seeds) >= LEAST_SEEDS else ""),
    ]
    contrast = comparison.contrast(arm, key) if arm != comparison.baseline else None
    if contrast is not None:
        change = f"{signed(contrast.difference)} ({signed_percent(contrast.relative_difference)})"
        interval = f"{signed(contrast.ci_low)} to {signed(contrast.ci_high)}"
        word = contrast.change(find_metric(key).sign)
        sentences.append(
            f"Against {comparison.baseline}: {word}, {change}, {interval}, {p_text(contrast.p_value)} uncorrected"
        )
    return ". ".join(sentences) + "."


def how_made(comparison: Comparison, key: str) -> str:
    """Returns the signature with which somebody else gets the same number; empty where its meaning says all."""
    stated = find_metric(key).signature.format(same=comparison.clusters)
    return stated if split_at_k(key) else comparison.signatures.get(key, stated)


_BY = {
    "normalised": "wording alone, case, spaces and punctuation aside",
    "exact": "every character",
    "same text": "every character",
}


def sameness_in_words(comparison: Comparison) -> str:
    """Returns what tells answers apart, to stand behind "by"."""
    return _BY.get(comparison.clusters, comparison.clusters)


def plain_verdict(comparison: Comparison) -> list[Cell]:
    """Returns pieces that read as sentences without jargon or a p-value; behind each number stands how it was found."""
    verdict = comparison.verdict
    if not verdict.levels:
        return [*_of_only_arm(comparison), Cell(verdict.sentence)]
    first = verdict.levels[0]
    answers = _AMONG_MANY if len(first.arms) > 1 else _ANSWERS
    unsound = Cell("Which answers count as the same is decided badly here. ", f"{verdict.unsound}.")
    pieces = [
        *([unsound] if verdict.unsound else []),
        Cell(answers[first.status].format(arm=first.best_arm)),
        Cell(f" Against {comparison.baseline}, "),
    ]
    findings = [view_outcome(comparison, outcome).clause for outcome in first.of_arm(first.best_arm)]
    # A finding that falls short has clauses of its own.
    between, last = (", ", " and ") if first.status == "met" else ("; ", "; and ")
    for index, finding in enumerate(findings):
        joint = "" if index == 0 else last if index == len(findings) - 1 else between
        pieces += [Cell(joint), *finding]
    pieces.append(Cell("."))
    also = "also " if first.status == "met" else ""
    pieces += [Cell(_further(level, first.best_arm, also)) for level in verdict.levels[1:]]
    if verdict.hacked:
        pieces.append(Cell(f" But the judge does not confirm the reward of {listed(list(verdict.hacked))}."))
    if verdict.gamed:
        arms = listed(list(verdict.gamed))
        pieces.append(Cell(f" But the second partition does not confirm the different answers of {arms}."))
    if verdict.chosen_late:
        late = f"Changed then: {listed(list(verdict.chosen_late))}."
        pieces.append(Cell(" What decides this was changed after results had been seen.", late))
    for fault in filter(None, (verdict.leaked, verdict.unjudged)):
        pieces.append(Cell(f" But {fault.partition(':')[0].partition(' (')[0]}.", f"{fault}."))
    return [piece for piece in pieces if piece.text]


def _of_only_arm(comparison: Comparison) -> list[Cell]:
    """Says how often an arm that stands alone is right, and in how many ways; nothing of several or unchecked ones."""
    at_k = [split_at_k(mean.metric) for mean in comparison.means]
    n = max((k for curve, k in filter(None, at_k) if curve == "pass"), default=0)
    if len(comparison.arms) != 1 or n == 0:
        return []
    [arm] = comparison.arms

    def mean_of(key: str) -> Cell:
        mean = comparison.mean(arm, key)
        return Cell(number(mean.mean, 3) if mean else "–", mean_detail(comparison, arm, key))

    pieces = [Cell(f"At {comparison.primary_sampling} an answer of {arm} passes with a chance of "), mean_of("pass@1")]
    if n > 1:
        pieces += [Cell(f", at least one of {n:,} with "), mean_of(f"pass@{n}")]
    if comparison.mean(arm, f"distinct_correct@{n}") and n > 1:
        pieces += [Cell("; different ones that pass: "), mean_of(f"distinct_correct@{n}"), Cell(f" of {n:,}")]
    return [*pieces, Cell(". ")]


def as_text(cells: Sequence[Cell], joint: str = "") -> str:
    """Returns cells without what is behind them."""
    return joint.join(cell.text for cell in cells)


def _further(level: LevelVerdict, arm: str, also: str) -> str:
    status = level.arms.get(arm, "undecided")
    return (
        f" It {also}meets the {level.name} criteria." if status == "met" else f" The {level.name} criteria: {status}."
    )


def _clause(outcome: CriterionOutcome, method: str) -> list[Cell]:
    """Returns one criterion's finding as a clause, its number apart."""
    evidence, criterion = outcome.evidence, outcome.criterion
    metric = find_metric(criterion.metric)
    subject = metric.subject or metric.name
    if evidence is None:
        return [Cell(f"{subject} {'were' if metric.plural else 'was'} not measured")]
    if outcome.status == "impossible":
        return [Cell(outcome.sentence)]
    if criterion.direction == "not_worse":
        verb = "are" if metric.plural else "is"
        words = {"met": f"{verb} no worse", "not met": f"{verb} worse"}
        result = words.get(outcome.status, f"{verb} not shown to be no worse")
        allowed = Cell(f"; a loss of {criterion.margin:g} was allowed)")
        return [Cell(f"{subject} {result}{evidence.on_prompts} ("), Cell(signed(evidence.difference), method), allowed]
    if not evidence.difference:
        return [Cell(f"{subject} did not change{evidence.on_prompts}")]
    if outcome.change == "no clear change":
        verb = "show" if metric.plural else "shows"
        amount = Cell(("+" if evidence.difference > 0 else "−") + _amount(evidence), method)
        return [Cell(f"{subject} {verb} no clear change{evidence.on_prompts} ("), amount, Cell(f"){_asked(outcome)}")]
    moved = "rose" if evidence.difference > 0 else "fell"
    rest = Cell(evidence.on_prompts + _shortfall(outcome))
    return [Cell(f"{subject} {moved} by "), Cell(_amount(evidence), method), rest]


def _amount(evidence: Evidence) -> str:
    """Returns the size of a change: whole percents where they say enough, the metric's own unit from a baseline that is
    not above 0."""
    percent = abs(100 * evidence.relative)
    if not math.isfinite(percent):
        return f"{abs(evidence.difference):.2g}"
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _shortfall(outcome: CriterionOutcome) -> str:
    """Returns why a clear change is not what was asked: too small, the wrong way, or from where no share can be
    told."""
    evidence = outcome.evidence
    if outcome.status == "met" or evidence is None:
        return ""
    if outcome.worse:
        return f" where {_way(outcome)} was asked"
    if evidence.comparison is not None and math.isnan(outcome.p_value):
        return f"{_asked(outcome)}, in these trained models alone"
    if math.isnan(evidence.relative):
        return f"{_asked(outcome)}, which has no meaning from {number(evidence.mean_baseline)}"
    return _asked(outcome)


def _asked(outcome: CriterionOutcome) -> str:
    wanted = f"{100 * outcome.criterion.asked:g} %" if outcome.criterion.asked else _way(outcome)
    return f" where {wanted} was asked"


def _way(outcome: CriterionOutcome) -> str:
    return "a rise" if outcome.criterion.sign > 0 else "a fall"


def capital(text: str) -> str:
    """Returns the text with a capital letter at its start."""
    return text[:1].upper() + text[1:]
