"""The figures of the page as SVG text: one colour an arm, the same in every figure, the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polychromic.evaluation import Comparison, find_metric

# Okabe and Ito's colour-blind-safe palette; the baseline comes first and is grey.
_BASELINE_COLOR = "#767676"
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "polychromic",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


TrainingRows = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""Rows of metrics.jsonl, by arm and then by seed."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with the caption that says what to see in it."""

    name: str
    caption: str
    svg: str


def arm_colors(arms: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour for every arm."""
    others = [arm for arm in arms if arm != baseline]
    return {baseline: _BASELINE_COLOR} | {arm: _COLORS[i % len(_COLORS)] for i, arm in enumerate(others)}


def draw_figures(comparison: Comparison, training: TrainingRows) -> list[Figure]:
    """All figures for which there is data. `training` holds every seed's metric rows by arm."""
    colors = arm_colors(comparison.arms, comparison.baseline)
    figures = []
    for name, title, caption in _CURVES:
        if any(curve.name == name and curve.sampling == comparison.headline for curve in comparison.curves):
            figures.append(
                _draw(name, caption, lambda axes, n=name, t=title: _curves(axes, comparison, colors, n, t))
            )
    if comparison.frontier:
        figures.append(_draw("frontier", _FRONTIER_CAPTION, lambda axes: _frontier(axes, comparison, colors)))
    for key, title, caption in _TRAINING:
        if any(key in row for seeds in training.values() for rows in seeds for row in rows):
            figures.append(
                _draw(
                    key.replace("/", "-"),
                    caption,
                    lambda axes, k=key, t=title: _training(axes, training, colors, k, t),
                )
            )
    return figures


_CURVES = (
    ("pass", "pass@k", "Pass@k: the chance that one of k answers passes. A collapsed model's curve is flat."),
    (
        "distinct_correct",
        "distinct correct answers",
        "Distinct correct answers among k. Bands hold the whole curve with 95 % confidence over prompts.",
    ),
)
_FRONTIER_CAPTION = (
    "Quality against diversity, one point a way of sampling. An arm is better where it lies above and to the right of "
    "what the baseline reaches at any temperature."
)
_TRAINING = (
    (
        "train/reward",
        "mean reward",
        "Reward of the sampled groups while training (thin: seeds, thick: their mean).",
    ),
    (
        "train/quality_loss",
        "quality loss",
        "Loss of the quality term while training (in reward training, minus the reward).",
    ),
    (
        "groups/clusters",
        "clusters a group",
        "Different answers in a sampled group: falls where a model collapses.",
    ),
    (
        "train/diversity_loss_share",
        "share of the loss",
        "The diversity term's share of the loss says nothing about training …",
    ),
    (
        "train/diversity_gradient_share",
        "share of the gradient",
        "… its share of the gradient does. A detached score has any share of the loss and none of the gradient.",
    ),
)


def _draw(name: str, caption: str, paint: Callable[[Any], None]) -> Figure:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(_STYLE):
        figure = Canvas(figsize=(5.2, 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    return Figure(name, caption, svg[svg.index("<svg") :])


def _curves(axes: Any, comparison: Comparison, colors: Mapping[str, str], name: str, title: str) -> None:
    for one in comparison.curves:
        if one.name == name and one.sampling == comparison.headline:
            axes.plot(one.curve.k, one.curve.mean, color=colors[one.arm], label=_plain(one.arm))
            axes.fill_between(
                one.curve.k, one.curve.low, one.curve.high, color=colors[one.arm], alpha=0.15, lw=0
            )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="k answers", ylabel=title)
    axes.legend()


def _frontier(axes: Any, comparison: Comparison, colors: Mapping[str, str]) -> None:
    metric, quality = comparison.frontier[0].metric, comparison.frontier[0].quality_metric
    for arm in comparison.arms:
        known = sorted(
            (x.mean, y.mean, label)
            for label in dict.fromkeys(one.sampling for one in comparison.means if one.arm == arm)
            if (x := comparison.mean(arm, quality, label)) and (y := comparison.mean(arm, metric, label))
        )
        axes.plot(
            [x for x, _, _ in known], [y for _, y, _ in known], "o-", color=colors[arm], label=_plain(arm)
        )
        for x, y, label in known:
            axes.annotate(label, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axes.set(xlabel=find_metric(quality).name, ylabel=find_metric(metric).name)
    axes.legend()


def _training(
    axes: Any,
    training: TrainingRows,
    colors: Mapping[str, str],
    key: str,
    title: str,
) -> None:
    for arm, seeds in training.items():
        lines = [
            _smooth([(row["step"], row[key]) for row in rows if row.get(key) is not None]) for rows in seeds
        ]
        lines = [line for line in lines if len(line)]
        if not lines:
            continue
        for line in lines:
            axes.plot(line[:, 0], line[:, 1], color=colors[arm], alpha=0.3, lw=0.8)
        length = min(map(len, lines))
        mean = np.mean([line[:length] for line in lines], axis=0)
        axes.plot(mean[:, 0], mean[:, 1], color=colors[arm], lw=1.8, label=_plain(arm))
    axes.set(xlabel="step", ylabel=title)
    axes.legend()


def _smooth(points: Sequence[tuple[float, float]], window: int = 15) -> np.ndarray:
    """[n, 2] steps and values, each value the mean of the last `window` measured ones."""
    values = np.array(points, dtype=float).reshape(-1, 2)
    smoothed = [values[max(0, i - window + 1) : i + 1, 1].mean() for i in range(len(values))]
    return np.column_stack([values[:, 0], smoothed]) if len(values) else values


def _plain(text: str) -> str:
    """A label that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")
