"""What went on while training: curves of every arm with the spread of its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polychromic.report.drawing import Colors, Figure, draw, plain

TrainingRows = Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]
"""Rows of metrics.jsonl, by arm and then by seed."""

_CURVES = (
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
        "train/diversity_score",
        "diversity score",
        "The diversity that the objective rewards, of the sampled groups, before its weight λ.",
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
_SHARES = (
    ("train/diversity_loss_share", "share of the loss"),
    ("train/diversity_gradient_share", "share of the gradient"),
)
_SHARES_CAPTION = (
    "The diversity term's share of the loss (left) says nothing about training, its share of the gradient (right) "
    "everything: a detached score has any share of the loss and none of the gradient."
)


def training_figures(training: TrainingRows, colors: Colors) -> list[Figure]:
    """All curves for which some arm has measured values."""

    def is_known(key: str) -> bool:
        return any(row.get(key) is not None for seeds in training.values() for rows in seeds for row in rows)

    figures = [
        draw(
            key.replace("/", "-"),
            caption,
            lambda axes, key=key, title=title: _curves(axes, training, colors, key, title),
        )
        for key, title, caption in _CURVES
        if is_known(key)
    ]
    if is_known(_SHARES[0][0]):
        figures.append(
            draw("shares", _SHARES_CAPTION, lambda *axes: _shares(axes, training, colors), panels=2)
        )
    return figures


def _curves(axes: Any, training: TrainingRows, colors: Colors, key: str, title: str) -> None:
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
        axes.plot(mean[:, 0], mean[:, 1], color=colors[arm], lw=1.8, label=plain(arm))
    axes.set(xlabel="step", ylabel=title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _shares(panels: Sequence[Any], training: TrainingRows, colors: Colors) -> None:
    for axes, (key, title) in zip(panels, _SHARES, strict=True):
        _curves(axes, training, colors, key, title)
        axes.set_ylim(0.0, 1.0)


def _smooth(points: Sequence[tuple[float, float]], window: int = 15) -> np.ndarray:
    """[n, 2] steps and values, each value the mean of the last `window` measured ones."""
    values = np.array(points, dtype=float).reshape(-1, 2)
    smoothed = [values[max(0, i - window + 1) : i + 1, 1].mean() for i in range(len(values))]
    return np.column_stack([values[:, 0], smoothed]) if len(values) else values
