"""The page's tables: each number with what stands behind it, one hover or tap away."""

from __future__ import annotations

from dataclasses import dataclass

from polychromic.evaluation import Comparison, criteria_table, find_metric, means_table
from polychromic.evaluation.outcomes import CriterionOutcome
from polychromic.evaluation.statistics import PairedComparison
from polychromic.evaluation.wording import number, p_text, plural, signed, signed_percent

_CHANGE, _STATUS = slice(3, 8), 8
"""Columns of the criteria table: from the baseline's mean to p, and the status."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's text, and what is told of it on request ("" for nothing)."""

    text: str
    detail: str = ""


def criteria_cells(comparison: Comparison) -> list[list[Cell]]:
    """The criteria table, header first, with how every change was measured and why its status."""
    header, *rows = criteria_table(comparison)
    outcomes = [outcome for level in comparison.verdict.levels for outcome in level.outcomes]
    return [
        [Cell(name) for name in header],
        *(_criterion_cells(row, outcome) for row, outcome in zip(rows, outcomes, strict=True)),
    ]


def means_cells(comparison: Comparison) -> list[list[Cell]]:
    """The table of means, header first, with seeds, prompts and method of every mean."""
    header, *rows = means_table(comparison)
    keys = dict.fromkeys(one.metric for one in comparison.means if one.sampling == comparison.headline)
    return [
        [Cell(name) for name in header],
        *(_mean_cells(comparison, key, row) for key, row in zip(keys, rows, strict=True)),
    ]


def _criterion_cells(row: list[str], outcome: CriterionOutcome) -> list[Cell]:
    cells = [Cell(text) for text in row]
    compared = outcome.evidence.comparison if outcome.evidence else None
    if compared is not None:
        detail = _comparison_detail(compared)
        if outcome.evidence and outcome.evidence.margin is not None:
            detail += f" Here p asks whether it is worse by more than the margin: {p_text(outcome.p_value)}."
        cells[_CHANGE] = [Cell(cell.text, detail) for cell in cells[_CHANGE]]
    reasons = [outcome.sentence, outcome.would_take and f"What it would take: {outcome.would_take}"]
    cells[_STATUS] = Cell(row[_STATUS], ". ".join(reason for reason in reasons if reason))
    return cells


def _comparison_detail(found: PairedComparison) -> str:
    seeds = ", ".join(signed(one) for one in found.seed_differences)
    sentences = [
        f"Arm {number(found.mean_a)}, baseline {number(found.mean_b)}: {signed(found.difference)} "
        f"({signed_percent(found.relative_difference)}), {100 * found.confidence:g} % interval "
        f"{signed(found.ci_low)} to {signed(found.ci_high)}",
        f"{plural(found.n_prompts, 'prompt')}, {found.n_informative:,} of them different"
        + (f", {found.n_dropped:,} undefined and left out" if found.n_dropped else ""),
        f"{plural(found.n_seeds, 'training seed')}" + (f" ({seeds})" if found.n_seeds > 1 else ""),
        f"{_capital(p_text(found.p_value))} before correction"
        + (f", {p_text(found.p_over_seeds)} over seeds" if found.n_seeds > 1 else ""),
        f"Effect g_z = {number(found.effect_size)}; this many prompts show a difference of "
        f"{number(found.minimum_detectable_effect)} with 80 % power",
        _capital(found.method),
    ]
    return ". ".join(sentences) + "."


def _mean_cells(comparison: Comparison, key: str, row: list[str]) -> list[Cell]:
    cells = [Cell(row[0], _metric_detail(comparison, key))]
    for arm, text in zip(comparison.arms, row[1:], strict=True):
        mean = comparison.mean(arm, key)
        cells.append(Cell(text, "" if mean is None else _mean_detail(comparison, arm, key)))
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
        sentences.append(
            f"Against {comparison.baseline}: {change}, {interval}, {p_text(contrast.p_value)} uncorrected"
        )
    return ". ".join(sentences) + "."


def _metric_detail(comparison: Comparison, key: str) -> str:
    metric = find_metric(key)
    signature = comparison.signatures.get(key)
    parts = [f"{metric.better} is better" if metric.kind != "length" else "", signature or ""]
    return "; ".join(part for part in parts if part)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
