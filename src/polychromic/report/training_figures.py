"""Draws training: curves of every arm with the spread of its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polychromic.report.drawing import Colors, Figure, draw, keep_within, legend_above, line, plain

TrainingRows = Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]
"""Rows of metrics.jsonl, by arm and then by seed."""

_WIDEST_WINDOW = 15
_LEAST_WINDOWS = 10
"""A drawn value is the mean of so many steps at most, and of a tenth of the training at most."""

_ROUNDING = 1e-6
_REWARD, _QUALITY_LOSS = "train/reward", "train/quality_loss"
_CURVES = (
    (_REWARD, "mean reward", "Reward", "Mean reward of the sampled groups."),
    (_QUALITY_LOSS, "quality loss", "Quality loss", "Loss of the quality term: lower is better."),
    ("train/diversity_score", "diversity score", "Diversity score",
     "What the diversity term rewards, before its weight λ: it should rise where λ is above 0."),
    ("groups/clusters", "different answers a group", "Different answers",
     "Different answers in a sampled group: falls where a model collapses."),
    ("generation/entropy", "entropy (nats per token)", "Entropy",
     "Entropy of the sampled policy: falls as a model collapses."),
    ("generation/tokens", "tokens an answer", "Length", "Length of the sampled answers: growth may be length hacking."),
)  # fmt: skip
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
    f"measured in the steps around it, {_WIDEST_WINDOW} or a tenth of the training. The first steps are the untrained "
    "model's."
)
"""Style of every curve."""


def training_figures(training: TrainingRows, colors: Colors) -> list[Figure]:
    """Returns all curves for which some arm has measured values."""

    rows = [row for seeds in training.values() for of_seed in seeds.values() for row in of_seed]

    def is_known(key: str) -> bool:
        return any(row.get(key) is not None for row in rows)

    figures = [
        draw(
            key.replace("/", "-"),
            title,
            caption,
            lambda axes, key=key, label=label: _curves(axes, training, colors, key, label),
        )
        for key, label, title, caption in _CURVES
        if is_known(key) and not (key == _QUALITY_LOSS and _mirrors_reward(rows))
    ]
    if any(is_known(key) for key, _ in _SHARES):
        title = "Share of the loss, share of the gradient"
        shares = draw("shares", title, _SHARES_CAPTION, lambda *axes: _shares(axes, training, colors), panels=2)
        figures.insert(0, shares)
    return figures


def _mirrors_reward(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Tells whether the quality loss is minus the reward at every step, as in reward training: one curve says both."""
    return all(
        row.get(_REWARD) is not None and abs(row[_QUALITY_LOSS] + row[_REWARD]) < _ROUNDING
        for row in rows
        if row.get(_QUALITY_LOSS) is not None
    )


def _curves(axes: Any, training: TrainingRows, colors: Colors, key: str, title: str) -> None:
    for arm, seeds in training.items():
        measured = {
            seed: _smooth([(row["step"], row[key]) for row in rows if row.get(key) is not None])
            for seed, rows in seeds.items()
        }
        lines = {seed: points for seed, points in measured.items() if points}
        for seed, points in lines.items():
            name = f"{arm} seed {seed}"
            line(axes, [*points], [*points.values()], color=colors[arm], alpha=0.35, lw=0.8, gid=name)
        common = [step for step in next(iter(lines.values()), {}) if all(step in points for points in lines.values())]
        if common:
            mean = [np.mean([points[step] for points in lines.values()]) for step in common]
            line(axes, common, mean, color=colors[arm], lw=1.8, label=plain(arm))
    axes.set(xlabel="step", ylabel=title)
    if all(row[key] >= 0 for seeds in training.values() for rows in seeds.values() for row in rows if row.get(key)):
        keep_within(axes, 0.0)
    legend_above(axes)


def _shares(panels: Sequence[Any], training: TrainingRows, colors: Colors) -> None:
    for axes, (key, title) in zip(panels, _SHARES, strict=True):
        _curves(axes, training, colors, key, title)
        axes.set_ylim(0.0, 1.0)
    # One measured more often than the other: the same steps must still stand at the same place.
    ends = np.array([axes.get_xlim() for axes in panels])
    for axes in panels:
        axes.set_xlim(ends[:, 0].min(), ends[:, 1].max())


def _smooth(points: Sequence[tuple[int, float]]) -> dict[int, float]:
    """Returns, by step, the mean of what was measured in the steps around it: what is measured rarely is not smoothed.

    At both ends the window is cut to half, never to a single value, which would stand out as a spike.
    """
    if not points:
        return {}
    steps, values = np.array(sorted(points), dtype=float).T
    half = min(_WIDEST_WINDOW, (steps[-1] - steps[0] + 1) // _LEAST_WINDOWS) // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    starts = np.searchsorted(steps, steps - half, side="left")
    ends = np.searchsorted(steps, steps + half, side="right")
    means = (sums[ends] - sums[starts]) / (ends - starts)
    return dict(zip(steps.astype(int).tolist(), means.tolist(), strict=True))
