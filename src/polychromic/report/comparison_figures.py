"""What the evaluation found: curves over k, the frontier, differences prompt by prompt, and what a gain cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from polychromic.evaluation import Comparison, find_metric
from polychromic.evaluation.frontier import MatchedGain
from polychromic.report.drawing import Colors, Figure, draw, plain
from polychromic.report.work import ArmWork

_CURVES = (
    (
        "pass",
        "pass@k",
        "Pass@k: the chance that one of k answers passes. A collapsed model's curve is flat. Bands hold the whole "
        "curve with 95 % confidence over prompts.",
    ),
    (
        "distinct_correct",
        "distinct correct answers",
        "Distinct correct answers among k: a collapsed model gives the same one again. Bands hold the whole curve with "
        "95 % confidence over prompts.",
    ),
)
_FRONTIER_CAPTION = (
    "Quality against diversity, one point a way of sampling. Vertical lines are the gain at matched quality with its "
    "interval: from what the baseline reaches at that quality at any temperature (tick) to the arm's point. A dotted "
    "line says that the baseline was never sampled at that quality, and its nearest point stands in."
)
_PAIRED_CAPTION = (
    "Each prompt's difference to the baseline, sorted, with the mean (dashed) and its interval (band). A gain that a "
    "few prompts make looks different from one that most share."
)
_COST_CAPTION = (
    "What each arm's training and sampling cost, against what it gained over the baseline with the interval of that "
    "gain. Up and to the left is better."
)


def comparison_figures(comparison: Comparison, work: Mapping[str, ArmWork], colors: Colors) -> list[Figure]:
    """All figures for which there is data. `work` holds what each arm took."""
    figures = []
    for name, title, caption in _CURVES:
        if any(curve.name == name and curve.sampling == comparison.headline for curve in comparison.curves):
            figures.append(
                draw(name, caption, lambda axes, n=name, t=title: _curves(axes, comparison, colors, n, t))
            )
    if comparison.frontier:
        figures.append(draw("frontier", _FRONTIER_CAPTION, lambda axes: _frontier(axes, comparison, colors)))
    if comparison.scrutiny:
        figures.append(
            draw("paired-differences", _PAIRED_CAPTION, lambda axes: _paired(axes, comparison, colors))
        )
        if comparison.scrutiny[0].arm in work:
            figures.append(
                draw("cost-gain", _COST_CAPTION, lambda axes: _cost(axes, comparison, work, colors))
            )
    return figures


def _curves(axes: Any, comparison: Comparison, colors: Colors, name: str, title: str) -> None:
    for one in comparison.curves:
        if one.name == name and one.sampling == comparison.headline:
            axes.plot(one.curve.k, one.curve.mean, color=colors[one.arm], label=plain(one.arm))
            axes.fill_between(
                one.curve.k, one.curve.low, one.curve.high, color=colors[one.arm], alpha=0.15, lw=0
            )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="k answers", ylabel=title)
    axes.legend()


def _frontier(axes: Any, comparison: Comparison, colors: Colors) -> None:
    metric, quality = comparison.frontier[0].metric, comparison.frontier[0].quality_metric
    for arm in comparison.arms:
        known = sorted(
            (x.mean, y.mean, label)
            for label in dict.fromkeys(one.sampling for one in comparison.means if one.arm == arm)
            if (x := comparison.mean(arm, quality, label)) and (y := comparison.mean(arm, metric, label))
        )
        axes.plot(
            [x for x, _, _ in known], [y for _, y, _ in known], "o-", color=colors[arm], label=plain(arm)
        )
        for x, y, label in known:
            axes.annotate(label, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8)
    for gain in comparison.frontier:
        if gain.metric == metric and gain.quality_metric == quality:
            _matched_gain(axes, gain, colors[gain.arm])
    axes.set(xlabel=find_metric(quality).name, ylabel=find_metric(metric).name)
    axes.legend()


def _matched_gain(axes: Any, gain: MatchedGain, color: str) -> None:
    """From the baseline's reach to the arm's point, with the interval of the gain around that point."""
    label = f"{gain.arm} {gain.sampling} gain at matched quality"
    style = "-" if gain.position == "within" else ":"
    x, reach = gain.quality, gain.baseline_diversity
    sign = find_metric(gain.metric).sign
    axes.plot([x, x], [reach, gain.diversity], ls=style, color=color, lw=1, alpha=0.8, gid=label)
    axes.plot([x], [reach], marker="_", ms=9, color=color, gid=f"{label}: the baseline's reach")
    interval = [reach + sign * gain.low, reach + sign * gain.high]
    axes.plot(
        [x, x], interval, color=color, lw=4, alpha=0.25, solid_capstyle="butt", gid=f"{label}: interval"
    )


def _paired(axes: Any, comparison: Comparison, colors: Colors) -> None:
    """Of the first criterion's metric."""
    metric = comparison.scrutiny[0].metric
    for one in comparison.scrutiny:
        if one.metric != metric:
            continue
        differences = np.sort(np.array(one.differences, dtype=float))
        differences = differences[~np.isnan(differences)]
        prompts = np.arange(1, len(differences) + 1)
        axes.plot(prompts, differences, color=colors[one.arm], label=plain(one.arm))
        if len(differences):
            axes.axhline(differences.mean(), color=colors[one.arm], ls="--", lw=1, gid=f"{one.arm} mean")
        contrast = comparison.contrast(one.arm, metric)
        if contrast is not None:
            axes.axhspan(contrast.ci_low, contrast.ci_high, color=colors[one.arm], alpha=0.15, lw=0)
    axes.axhline(0.0, color="#999999", lw=0.8, gid="zero")
    axes.set(xlabel="prompts, sorted", ylabel=f"{find_metric(metric).name}: arm − baseline")
    axes.legend()


def _cost(axes: Any, comparison: Comparison, work: Mapping[str, ArmWork], colors: Colors) -> None:
    """The gain of the first criterion's metric: relative where the baseline is not zero."""
    metric = comparison.scrutiny[0].metric
    priced = all(one.dollars is not None for one in work.values())
    base = work.get(comparison.baseline)
    if base is not None:
        at = base.dollars if priced else base.minutes
        axes.plot([at], [0.0], "o", color=colors[comparison.baseline], label=plain(comparison.baseline))
    for arm in comparison.arms:
        contrast = comparison.contrast(arm, metric) if arm != comparison.baseline else None
        if contrast is None or arm not in work:
            continue
        at = work[arm].dollars if priced else work[arm].minutes
        low, high = 100 * contrast.relative_ci_low, 100 * contrast.relative_ci_high
        axes.plot([at], [100 * contrast.relative_difference], "o", color=colors[arm], label=plain(arm))
        axes.plot([at, at], [low, high], color=colors[arm], lw=2, alpha=0.5, gid=f"{arm}: interval")
    axes.axhline(0.0, color="#999999", lw=0.8, gid="zero")
    axes.margins(0.15)
    axes.set(
        xlabel="dollars" if priced else "machine minutes", ylabel=f"{find_metric(metric).name}: gain (%)"
    )
    axes.legend()
