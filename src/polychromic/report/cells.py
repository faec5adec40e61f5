"""The page's tables: each number with what stands behind it, one hover or tap away."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polychromic.evaluation import Comparison, find_metric
from polychromic.evaluation.criteria import (
    decimal_places,
    estimate,
    number,
    p_text,
    plural,
    short_p,
    signed,
    signed_percent,
)
from polychromic.evaluation.metrics import split_at_k
from polychromic.evaluation.outcomes import CriterionOutcome
from polychromic.evaluation.statistics.paired import PairedComparison
from polychromic.report.view import how_made, lengths_text

_CRITERIA_HEADER = (
    "criterion",
    "arm",
    "baseline",
    "arm's value",
    "lengths",
    "change",
    "{:g} % interval",
    "p (Holm)",
    "status",
)
_GROUPS: tuple[tuple[str, str], ...] = (
    ("quality", "Quality"),
    ("both", "Quality and diversity together"),
    ("diversity", "Diversity"),
    ("length", "Length"),
    ("fault", "Faults"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's text, and what is told of it on request ("" for nothing)."""

    text: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CellGroup:
    """Rows of a table that belong together under a title."""

    title: str
    rows: list[list[Cell]]


def criteria_header(comparison: Comparison) -> list[str]:
    """The columns of the table of criteria."""
    return [name.format(100 * comparison.resampling.confidence) for name in _CRITERIA_HEADER]


def criteria_groups(comparison: Comparison) -> list[CellGroup]:
    """The criteria level by level, with how every change was measured and why its status."""
    return [
        CellGroup(
            f"{_capital(level.name)} criteria", [_criterion_cells(comparison, one) for one in level.outcomes]
        )
        for level in comparison.verdict.levels
    ]


def means_groups(comparison: Comparison) -> list[CellGroup]:
    """All means by kind of metric, what grows with k apart; behind each its seeds, prompts and method."""
    keys = list(
        dict.fromkeys(one.metric for one in comparison.means if one.sampling == comparison.primary_sampling)
    )
    plain = [key for key in keys if split_at_k(key) is None]
    groups = [(title, [key for key in plain if find_metric(key).kind == kind]) for kind, title in _GROUPS]
    for curve, title in (("pass", "Pass@k"), ("distinct_correct", "Distinct correct answers among k")):
        groups.append((title, [key for key in keys if (split_at_k(key) or ("", 0))[0] == curve]))
    return [
        CellGroup(title, [_mean_cells(comparison, key) for key in found]) for title, found in groups if found
    ]


def _criterion_cells(comparison: Comparison, outcome: CriterionOutcome) -> list[Cell]:
    evidence, key = outcome.evidence, outcome.criterion.metric
    reasons = [outcome.sentence, outcome.would_take and f"What it would take: {outcome.would_take}"]
    compared = evidence.comparison if evidence else None
    detail = comparison_detail(compared) if compared else ""
    if evidence and evidence.margin is not None:
        before = p_text(outcome.p_value)
        detail += (
            f" In the table p asks whether it is worse by more than the margin: {before} before correction."
        )
    values = [
        Cell(_mean_text(comparison, arm, key, value), _mean_detail(comparison, arm, key))
        for arm, value in (
            (comparison.baseline, evidence.mean_baseline if evidence else math.nan),
            (outcome.arm, evidence.mean_arm if evidence else math.nan),
        )
    ]
    return [
        Cell(outcome.criterion.text, metric_detail(comparison, key)),
        Cell(outcome.arm),
        *values,
        Cell(
            lengths_text(comparison, outcome.arm),
            "Mean lengths in tokens of the baseline's texts and the arm's",
        ),
        *(Cell(text, detail) for text in (*_change_texts(outcome), short_p(outcome.p_adjusted))),
        Cell(
            outcome.label,
            ". ".join(reason for reason in reasons if reason),
        ),
    ]


def _mean_text(comparison: Comparison, arm: str, key: str, value: float) -> str:
    mean = comparison.mean(arm, key)
    return estimate(mean.mean, mean.low, mean.high).split(" [")[0] if mean else number(value)


def _change_texts(outcome: CriterionOutcome) -> tuple[str, str]:
    """The change and its interval: relative, or in the metric's unit for a margin and from a baseline of 0."""
    evidence = outcome.evidence
    if evidence is None:
        return "–", "–"
    absolute = outcome.criterion.direction == "not_worse" or not evidence.mean_baseline
    change = evidence.difference if absolute else 100 * evidence.relative
    unit = "" if absolute else " %"
    found = evidence.comparison
    if found is None:
        return f"{signed(change)}{unit}", "–"
    ends = (
        (found.ci_low, found.ci_high)
        if absolute
        else (100 * found.relative_ci_low, 100 * found.relative_ci_high)
    )
    texts = [f"{_signed(value, decimal_places(*ends))}{unit}" for value in (change, *ends)]
    return texts[0], f"{texts[1]} to {texts[2]}"


def _signed(value: float, places: int | None) -> str:
    if places is None or not math.isfinite(value):
        return signed(value)
    return f"{round(value, places) + 0.0:+,.{places}f}".replace("-", "−")


def comparison_detail(found: PairedComparison) -> str:
    """All that stands behind a difference: interval, prompts, seeds, tests, power and method."""
    seeds = ", ".join(signed(one) for one in found.seed_differences)
    sentences = [
        f"Arm {number(found.mean_a)}, baseline {number(found.mean_b)}: {signed(found.difference)} "
        f"({signed_percent(found.relative_difference)}), {100 * found.confidence:g} % interval "
        f"{signed(found.ci_low)} to {signed(found.ci_high)}",
        f"{plural(found.n_prompts, 'prompt')}, {found.n_informative:,} of them different"
        + (f", {found.n_dropped:,} undefined and left out" if found.n_dropped else ""),
        f"{plural(found.n_seeds, 'training seed')}" + (f" ({seeds})" if found.n_seeds > 1 else ""),
        _p_sentence(found),
        f"Effect g_z = {number(found.effect_size)}; this many prompts show a difference of "
        f"{number(found.minimum_detectable_effect)} with 80 % power",
        _capital(found.method),
    ]
    return ". ".join(sentences) + "."


def _p_sentence(found: PairedComparison) -> str:
    """The p-value that stands and what it is of; beside it the one over prompts alone, where seeds count."""
    if not found.asks_over_seeds:
        return f"{_capital(p_text(found.p_value))} before correction, over prompts: it is of these trained models"
    return (
        f"{_capital(p_text(found.p_value))} before correction, over prompts and training seeds: it is of the way of "
        f"training. Over prompts alone, of these trained models, {p_text(found.over_prompts.p_value)}"
    )


def _mean_cells(comparison: Comparison, key: str) -> list[Cell]:
    cells = [Cell(find_metric(key).name, metric_detail(comparison, key))]
    for arm in comparison.arms:
        mean = comparison.mean(arm, key)
        text = "–" if mean is None else estimate(mean.mean, mean.low, mean.high)
        cells.append(Cell(text, _mean_detail(comparison, arm, key)))
    return cells


def _mean_detail(comparison: Comparison, arm: str, key: str) -> str:
    mean = comparison.mean(arm, key)
    if mean is None:
        return ""
    seeds = f" (each: {', '.join(number(one) for one in mean.seeds)})" if len(mean.seeds) > 1 else ""
    sentences = [
        f"Mean over {plural(mean.n_prompts, 'prompt')} and {plural(len(mean.seeds), 'training seed')}{seeds}, "
        f"sampled at {mean.sampling}",
        f"{100 * comparison.resampling.confidence:g} % interval {number(mean.low)} to {number(mean.high)}: bootstrap "
        f"over prompts, {comparison.resampling.bootstraps:,} resamples, widened for seeds",
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


def metric_detail(comparison: Comparison, key: str) -> str:
    """What a metric says, which way is better, and how it was made."""
    metric = find_metric(key)
    better = "" if metric.kind == "length" else f"{_capital(metric.better)} is better"
    unit = f"In {metric.unit}" if metric.unit else ""
    parts = [metric.meaning, unit, better, how_made(comparison, key)]
    return ". ".join(part for part in parts if part) + "."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
