"""Draws training: curves of every arm with the spread of its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polychromic.report.figures import Colors, Figure, draw, plain

TrainingRows = Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]
"""Rows of metrics.jsonl, by arm and then by seed."""

_WINDOW = 15
"""Steps that a drawn value is the mean of."""

_CURVES = (
    ("train/reward", "mean reward", "Reward", "Mean reward of the sampled groups."),
    (
        "train/quality_loss",
        "quality loss",
        "Quality loss",
        "Loss of the quality term: lower is better (in reward training it is minus the reward).",
    ),
    (
        "train/diversity_score",
        "diversity score",
        "Diversity score",
        "What the diversity term rewards, before its weight λ: it should rise where λ is above 0.",
    ),
    (
        "groups/clusters",
        "different answers a group",
        "Different answers",
        "Different answers in a sampled group: falls where a model collapses.",
    ),
    (
        "generation/entropy",
        "entropy (nats per token)",
        "Entropy",
        "Entropy of the sampled policy: falls as a model collapses.",
    ),
    (
        "generation/tokens",
        "tokens an answer",
        "Length",
        "Length of the sampled answers: growth may be length hacking.",
    ),
)
_SHARES = (
    ("train/diversity_loss_share", "share of the loss"),
    ("train/diversity_gradient_share", "share of the gradient"),
)
_SHARES_CAPTION = (
    "The diversity term's share of the loss (left) says nothing about training; its share of the gradient (right) is "
    "what trains. A score that carries no gradient may have any share of the loss, and stays at 0 on the right."
)
CURVES_NOTE = (
    f"Thin lines are seeds, the thick one their mean at the steps that all have. Each point is the mean of what was "
    f"measured in the last {_WINDOW} steps."
)
"""Style of every curve."""


def training_figures(training: TrainingRows, colors: Colors) -> list[Figure]:
    """Returns all curves for which some arm has measured values."""

    def is_known(key: str) -> bool:
        return any(
            row.get(key) is not None for seeds in training.values() for rows in seeds.values() for row in rows
        )

    figures = [
        draw(
            key.replace("/", "-"),
            title,
            caption,
            lambda axes, key=key, label=label: _curves(axes, training, colors, key, label),
        )
        for key, label, title, caption in _CURVES
        if is_known(key)
    ]
    if any(is_known(key) for key, _ in _SHARES):
        title = "Share of the loss, share of the gradient"
        shares = draw(
            "shares", title, _SHARES_CAPTION, lambda *axes: _shares(axes, training, colors), panels=2
        )
        figures.insert(0, shares)
    return figures


def _curves(axes: Any, training: TrainingRows, colors: Colors, key: str, title: str) -> None:
    for arm, seeds in training.items():
        measured = {
            seed: _smooth([(row["step"], row[key]) for row in rows if row.get(key) is not None])
            for seed, rows in seeds.items()
        }
        lines = {seed: line for seed, line in measured.items() if line}
        for seed, line in lines.items():
            name = f"{arm} seed {seed}"
            axes.plot([*line], [*line.values()], color=colors[arm], alpha=0.35, lw=0.8, gid=name)
        common = [
            step for step in next(iter(lines.values()), {}) if all(step in line for line in lines.values())
        ]
        if common:
            mean = [np.mean([line[step] for line in lines.values()]) for step in common]
            axes.plot(common, mean, color=colors[arm], lw=1.8, label=plain(arm))
    axes.set(xlabel="step", ylabel=title)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _shares(panels: Sequence[Any], training: TrainingRows, colors: Colors) -> None:
    for axes, (key, title) in zip(panels, _SHARES, strict=True):
        _curves(axes, training, colors, key, title)
        axes.set_ylim(0.0, 1.0)
    # One measured more often than the other: the same steps must still stand at the same place.
    ends = np.array([axes.get_xlim() for axes in panels])
    for axes in panels:
        axes.set_xlim(ends[:, 0].min(), ends[:, 1].max())


def _smooth(points: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Returns, by step, the mean of what was measured in the last `_WINDOW` steps: what is measured rarely is not
    smoothed."""
    if not points:
        return {}
    steps, values = np.array(sorted(points), dtype=float).T
    sums = np.concatenate([[0.0], np.cumsum(values)])
    starts = np.searchsorted(steps, steps - _WINDOW, side="right")
    ends = np.arange(1, len(steps) + 1)
    means = (sums[ends] - sums[starts]) / (ends - starts)
    return dict(zip(steps.astype(int).tolist(), means.tolist(), strict=True))
