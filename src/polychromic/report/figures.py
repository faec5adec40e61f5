"""Draws the figures of a comparison: curves over k, the frontier, prompt by prompt, and cost against gain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from polychromic.evaluation import Comparison, find_metric
from polychromic.evaluation.criteria import signed
from polychromic.evaluation.statistics.frontier import MatchedGain
from polychromic.evaluation.statistics.paired import PairedComparison
from polychromic.evaluation.tables import Study
from polychromic.ledger import ArmWork
from polychromic.report.drawing import QUIET, Colors, Figure, band, draw, keep_within, legend_above, line, plain

_BANDS = (
    "Each band holds its whole curve at once with {confidence:g} % confidence over prompts (seeds averaged). Arms "
    "answer the same prompts, so bands may overlap where the paired difference is clear: the criteria test that."
)
_CURVES = (
    ("pass", "pass@k", "Pass@k",
     "The chance that at least one of k answers passes. A collapsed model's curve is flat: more answers find nothing "
     "new."),
    ("distinct_correct", "distinct correct answers", "Distinct correct answers",
     "How many different passing answers k answers hold. A collapsed model gives the same one again."),
)  # fmt: skip
_FRONTIER_CAPTION = (
    "Quality against diversity, a point for each sampling setting. Vertical lines are the gain at matched quality, "
    "from the most that the baseline reaches at that quality by any temperature (tick) to the arm's point; the broad "
    "bar is the gain's interval, and the legend has it in numbers. A dotted line says that the baseline was never "
    "sampled at that quality and its nearest point stands in."
)
_PAIRED_CAPTION = (
    "Each prompt's difference to the baseline, sorted{spread}. The dashed line is their mean, the band its interval. "
    "A gain that a few prompts make looks different from one that most share."
)
_COST_CAPTION = (
    "What each arm's training and sampling took, all seeds together, against what it gained over the baseline, with "
    "the gain's interval. Up and to the left is better."
)


def comparison_figures(
    comparison: Comparison, work: Mapping[str, ArmWork], colors: Colors, study: Study | None = None
) -> list[Figure]:
    """Returns all figures for which there is data.

    `work` holds what each arm took; `study` adds the spread of seeds.
    """
    figures: list[Figure] = []

    def add(name: str, title: str, caption: str, paint: Callable[..., None], *more: Any) -> None:
        figures.append(draw(name, title, caption, lambda axes: paint(axes, comparison, colors, *more)))

    bands = [_BANDS.format(confidence=100 * comparison.resampling.confidence), "Bands as for pass@k."]
    shown = {curve.name for curve in comparison.curves if curve.sampling == comparison.primary_sampling}
    for number, (name, label, title, caption) in enumerate(_CURVES):
        if name in shown:
            add(name, title, f"{caption} {bands[number]}", _curves, name, label)
    if comparison.frontier:
        add("frontier", "Diversity at the same quality", _FRONTIER_CAPTION, _frontier)
    if any(math.isfinite(value) for sensitivity in comparison.sensitivity[:1] for value in sensitivity.differences):
        metric = comparison.sensitivity[0].metric
        spreads = [_seed_spread(comparison, study, sensitivity.arm, metric) for sensitivity in comparison.sensitivity]
        has_spread = any(spread is not None for spread in spreads)
        spread = " (thin lines: from its lowest to its highest seed)" if has_spread else ""
        add("paired-differences", "Prompt by prompt", _PAIRED_CAPTION.format(spread=spread), _paired, study)
        if _gains(comparison, work):
            priced = all(stages.dollars is not None for stages in work.values())
            add("cost-gain", f"{'Dollars' if priced else 'Machine time'} against gain", _COST_CAPTION, _cost, work)
    return figures


def _curves(axes: Any, comparison: Comparison, colors: Colors, name: str, label: str) -> None:
    """Draws a measure over k, the untrained model as a dashed grey line."""
    for arm_curve in comparison.curves:
        if arm_curve.name == name and arm_curve.sampling == comparison.primary_sampling:
            curve, color = arm_curve.curve, colors[arm_curve.arm]
            style = _style(comparison, arm_curve.arm)
            line(axes, curve.k, curve.mean, color=color, ls=style, label=plain(arm_curve.arm))
            band(axes, curve.k, curve.low, curve.high, color, arm_curve.arm)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="k answers", ylabel=label)
    keep_within(axes, 0.0, 1.0 if name == "pass" else None)
    legend_above(axes)


def _style(comparison: Comparison, arm: str) -> str:
    """Returns the style of an arm's line: dashed for the untrained model, which is grey like the baseline."""
    return "--" if arm == comparison.untrained else "-"


def _frontier(axes: Any, comparison: Comparison, colors: Colors) -> None:
    metric, quality = comparison.frontier[0].metric, comparison.frontier[0].quality_metric
    for arm in comparison.arms:
        points = sorted(
            (x.mean, y.mean, label)
            for label in dict.fromkeys(mean.sampling for mean in comparison.means if mean.arm == arm)
            if (x := comparison.mean(arm, quality, label)) and (y := comparison.mean(arm, metric, label))
        )
        xs, ys, _ = zip(*points, strict=True) if points else ((), (), ())
        label = plain(f"{arm}{_gain_text(comparison, arm, metric, quality)}")
        axes.plot(xs, ys, "o", ls=_style(comparison, arm), color=colors[arm], label=label, gid=arm)
        # The baseline's words stand below its points, where no line of a gain ends.
        offset, below = ((-4, -5), "top") if arm == comparison.baseline else ((5, 4), "bottom")
        for x, y, label in points:
            side = "right" if below == "top" else "left"
            axes.annotate(
                plain(label), (x, y), textcoords="offset points", xytext=offset, fontsize=8, ha=side, va=below
            )
    for gain in comparison.frontier:
        if gain.metric == metric and gain.quality_metric == quality:
            _matched_gain(axes, gain, colors[gain.arm])
    axes.margins(0.12)
    axes.set(xlabel=find_metric(quality).name, ylabel=find_metric(metric).name)
    keep_within(axes, find_metric(metric).lowest, find_metric(metric).highest)
    legend_above(axes)


def _gain_text(comparison: Comparison, arm: str, metric: str, quality: str) -> str:
    """Returns what the legend says of an arm's gain at the primary sampling."""
    wanted = (arm, comparison.primary_sampling, metric, quality)
    for point in comparison.frontier:
        if (point.arm, point.sampling, point.metric, point.quality_metric) == wanted:
            gain, low, high = (signed(value) for value in (point.gain, point.low, point.high))
            return f": {gain} [{low}, {high}] at {point.sampling}"
    return ""


def _matched_gain(axes: Any, gain: MatchedGain, color: str) -> None:
    """Draws a line from the baseline's reach to the arm's point, with the interval of the gain around that point."""
    label = f"{gain.arm} {gain.sampling} gain at matched quality"
    style = "-" if gain.position == "within" else ":"
    x, reach = gain.quality, gain.baseline_diversity
    sign = find_metric(gain.metric).sign
    axes.plot([x, x], [reach, gain.diversity], ls=style, color=color, lw=1.2, alpha=0.9, gid=label)
    axes.plot([x], [reach], marker="_", ms=9, color=color, gid=f"{label}: the baseline's reach")
    interval = [reach + sign * gain.low, reach + sign * gain.high]
    axes.plot([x, x], interval, color=color, lw=5, alpha=0.25, solid_capstyle="butt", gid=f"{label}: interval")


def _paired(axes: Any, comparison: Comparison, colors: Colors, study: Study | None) -> None:
    """Draws the differences in the first criterion's metric."""
    metric, longest = comparison.sensitivity[0].metric, 0
    for sensitivity in comparison.sensitivity:
        if sensitivity.metric != metric:
            continue
        values = np.array(sensitivity.differences, dtype=float)
        order = np.argsort(values, kind="stable")
        order = order[~np.isnan(values[order])]
        prompts, color, longest = np.arange(1, len(order) + 1), colors[sensitivity.arm], max(longest, len(order))
        spread = _seed_spread(comparison, study, sensitivity.arm, metric)
        if spread is not None:
            low, high = spread[0][order], spread[1][order]
            axes.vlines(prompts, low, high, color=color, alpha=0.25, lw=0.7)
            for word, edge in (("lowest", low), ("highest", high)):
                axes.plot(prompts, edge, visible=False, gid=f"{sensitivity.arm}: {word} seed")
        style = _style(comparison, sensitivity.arm)
        line(axes, prompts, values[order], color=color, ls=style, label=plain(sensitivity.arm))
        if len(order):
            axes.axhline(values[order].mean(), color=color, ls="--", lw=1, gid=f"{sensitivity.arm} mean")
        contrast = comparison.contrast(sensitivity.arm, metric)
        if contrast is not None:
            ends = [contrast.ci_low] * 2, [contrast.ci_high] * 2
            band(axes, [0, len(order) + 1], *ends, color, f"{sensitivity.arm} mean")
    axes.axhline(0.0, color=QUIET, lw=0.8, gid="zero")
    axes.set_xlim(0.0, longest + 1.0)
    axes.set(xlabel="prompts, sorted", ylabel=f"{find_metric(metric).name}:\narm − baseline")
    legend_above(axes)


def _seed_spread(
    comparison: Comparison, study: Study | None, arm: str, metric: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns [P] lowest and highest difference of any seed; None with one seed, or where values by seed are not
    known."""
    pair = study and study.pair(arm, comparison.baseline, comparison.primary_sampling, metric)
    if not pair or len(pair[0]) < 2:
        return None
    differences = pair[0] - pair[1]
    return differences.min(axis=0), differences.max(axis=0)


def _gains(comparison: Comparison, work: Mapping[str, ArmWork]) -> dict[str, PairedComparison]:
    """Returns the contrast of the first criterion's metric by arm, of the arms whose work is known."""
    metric = comparison.sensitivity[0].metric
    return {
        arm: contrast
        for arm in comparison.arms
        if arm != comparison.baseline and arm in work and (contrast := comparison.contrast(arm, metric))
    }


def _cost(axes: Any, comparison: Comparison, colors: Colors, work: Mapping[str, ArmWork]) -> None:
    """Draws the gain of the first criterion's metric, up where it is better: relative unless the baseline is at zero,
    or cannot be told from it, so that a share has no end."""
    metric = find_metric(comparison.sensitivity[0].metric)
    priced = all(stages.dollars is not None for stages in work.values())
    gains = _gains(comparison, work)
    shares = (
        share
        for gain in gains.values()
        for share in (gain.relative_difference, gain.relative_ci_low, gain.relative_ci_high)
    )
    relative = all(map(math.isfinite, shares))

    def show(arm: str, gain: float) -> float | None:
        at = work[arm].dollars if priced else work[arm].minutes
        axes.plot([at], [gain], "o", color=colors[arm], label=plain(arm))
        return at

    if comparison.baseline in work:
        show(comparison.baseline, 0.0)
    for arm, contrast in gains.items():
        values = [contrast.difference, contrast.ci_low, contrast.ci_high]
        if relative:
            shares = [contrast.relative_difference, contrast.relative_ci_low, contrast.relative_ci_high]
            values = [100 * share for share in shares]
        gain, *ends = (metric.sign * value for value in values)
        at = show(arm, gain)
        axes.plot([at, at], ends, color=colors[arm], lw=2, alpha=0.5, gid=f"{arm}: interval")
    axes.axhline(0.0, color=QUIET, lw=0.8, gid="zero")
    axes.margins(0.15)
    axes.set_xlim(left=0.0)
    unit = " (%)" if relative else ""
    axes.set(xlabel="dollars" if priced else "machine minutes", ylabel=f"{metric.name}: gain{unit}")
    legend_above(axes)
