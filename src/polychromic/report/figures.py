"""The figures of the page as SVG and PDF with their data: one colour an arm in all of them, always the same bytes."""

from __future__ import annotations

import csv
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
    pdf: bytes
    data: str
    """What is drawn, as CSV: series, x, y."""


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
    if comparison.scrutiny:
        figures.append(
            _draw("paired-differences", _PAIRED_CAPTION, lambda axes: _paired(axes, comparison, colors))
        )
    return [*figures, *_training_figures(training, colors)]


def _training_figures(training: TrainingRows, colors: Mapping[str, str]) -> list[Figure]:
    def is_known(key: str) -> bool:
        return any(row.get(key) is not None for seeds in training.values() for rows in seeds for row in rows)

    figures = []
    for key, title, caption in _TRAINING:
        if is_known(key):
            figures.append(
                _draw(
                    key.replace("/", "-"),
                    caption,
                    lambda axes, k=key, t=title: _training(axes, training, colors, k, t),
                )
            )
    if is_known(_SHARES[0][0]):
        figures.append(
            _draw("shares", _SHARES_CAPTION, lambda *axes: _shares(axes, training, colors), panels=2)
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
        "generation/entropy",
        "entropy (nats a token)",
        "Entropy of the sampled policy: falls as a model collapses.",
    ),
    ("generation/tokens", "tokens an answer", "Length of the sampled answers: growth may be length hacking."),
)
_PAIRED_CAPTION = (
    "Each prompt's difference to the baseline, sorted, with the mean (dashed). A gain that a few prompts make looks "
    "different from one that most share."
)
_SHARES = (
    ("train/diversity_loss_share", "share of the loss"),
    ("train/diversity_gradient_share", "share of the gradient"),
)
_SHARES_CAPTION = (
    "The diversity term's share of the loss (left) says nothing about training, its share of the gradient (right) "
    "everything: a detached score has any share of the loss and none of the gradient."
)


def _draw(name: str, caption: str, paint: Callable[..., None], *, panels: int = 1) -> Figure:
    import matplotlib as mpl
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(_STYLE):
        figure = Canvas(figsize=(5.2 if panels == 1 else 7.2, 3.2), layout="constrained")
        FigureCanvasSVG(figure)
        axes = [figure.add_subplot(1, panels, number + 1) for number in range(panels)]
        paint(*axes)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        pdf = io.BytesIO()
        FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None, "Creator": "polychromic"})
    text = svg.getvalue()
    return Figure(name, caption, text[text.index("<svg") :], pdf.getvalue(), _drawn_data(axes))


def _drawn_data(axes: Sequence[Any]) -> str:
    """Every line of the panels as CSV rows: panel, series, x, y."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["panel", "series", "x", "y"])
    for panel in axes:
        for line in panel.get_lines():
            series = (line.get_gid() or line.get_label()).replace(r"\$", "$")
            table.writerows([panel.get_ylabel(), series, x, y] for x, y in zip(*line.get_data(), strict=True))
    return stream.getvalue()


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
        for number, line in enumerate(lines):
            axes.plot(
                line[:, 0], line[:, 1], color=colors[arm], alpha=0.3, lw=0.8, gid=f"{arm} seed {number}"
            )
        length = min(map(len, lines))
        mean = np.mean([line[:length] for line in lines], axis=0)
        axes.plot(mean[:, 0], mean[:, 1], color=colors[arm], lw=1.8, label=_plain(arm))
    axes.set(xlabel="step", ylabel=title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _shares(panels: Sequence[Any], training: TrainingRows, colors: Mapping[str, str]) -> None:
    for axes, (key, title) in zip(panels, _SHARES, strict=True):
        _training(axes, training, colors, key, title)
        axes.set_ylim(0.0, 1.0)


def _paired(axes: Any, comparison: Comparison, colors: Mapping[str, str]) -> None:
    """Of the first criterion's metric."""
    metric = comparison.scrutiny[0].metric
    for one in comparison.scrutiny:
        if one.metric != metric:
            continue
        differences = np.sort(np.array(one.differences, dtype=float))
        differences = differences[~np.isnan(differences)]
        prompts = np.arange(1, len(differences) + 1)
        axes.plot(prompts, differences, color=colors[one.arm], label=_plain(one.arm))
        if len(differences):
            axes.axhline(differences.mean(), color=colors[one.arm], ls="--", lw=1, gid=f"{one.arm} mean")
    axes.axhline(0.0, color="#999999", lw=0.8, gid="zero")
    axes.set(xlabel="prompts, sorted", ylabel=f"{find_metric(metric).name}: arm − baseline")
    axes.legend()


def _smooth(points: Sequence[tuple[float, float]], window: int = 15) -> np.ndarray:
    """[n, 2] steps and values, each value the mean of the last `window` measured ones."""
    values = np.array(points, dtype=float).reshape(-1, 2)
    smoothed = [values[max(0, i - window + 1) : i + 1, 1].mean() for i in range(len(values))]
    return np.column_stack([values[:, 0], smoothed]) if len(values) else values


def _plain(text: str) -> str:
    """A label that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")
