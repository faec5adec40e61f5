"""Whom gated diversity pays: how much of its credit comes from the gate, and how much from the distance.

The score g_i g_j d_ij is linear in d = d̄ + (d − d̄), and so are advantages and gradient: the part with every pair at the
group's mean distance d̄ can be raised by the gate alone, the rest is what the distances themselves are paid. The two
parts add up to the whole exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from polychromic.training.groups import FloatArray, GroupSignals, diversity_advantages
from polychromic.training.settings import DiversitySettings


def has_gate_part(settings: DiversitySettings) -> bool:
    """Whether pairs are weighed by their rewards, so that the score can also be raised by them."""
    return settings.objective == "distance" and settings.gate == "product"


def gate_part(
    signals: GroupSignals, settings: DiversitySettings, coefficients: Mapping[int, float] | None = None
) -> FloatArray:
    """The gate's part [P, N] of the diversity advantages; they minus it are the distance's."""
    n = signals.rewards_PN.shape[1]
    flat_PNN = mean_distances(signals.distances_PNN)[:, None, None] * (1.0 - np.eye(n))
    return diversity_advantages(replace(signals, distances_PNN=flat_PNN), settings, coefficients)[0]


def distance_metrics(
    signals: GroupSignals, diversity_PN: FloatArray, gate_PN: FloatArray | None
) -> dict[str, float]:
    """Mean raw distance within groups, and the gate's share of the credit where it has a part.

    The cheapest way to raise g_i g_j d_ij may be g: then the score rises while the raw distance falls.
    """
    metrics = {"groups/distance": float(np.nanmean(mean_distances(signals.distances_PNN)))}
    if gate_PN is not None:
        metrics["train/diversity_gate_share"] = gate_share(diversity_PN, gate_PN)
    return metrics


def mean_distances(distances_PNN: FloatArray) -> FloatArray:
    """Mean distance between two members of each group, [P]."""
    n = distances_PNN.shape[-1]
    return distances_PNN.sum(axis=(-2, -1)) / (n * (n - 1))


def gate_share(diversity_PN: FloatArray, gate_PN: FloatArray) -> float:
    """|A_gate| / (|A_gate| + |A_distance|) summed over generations; nan where neither gives any credit."""
    by_gate, by_distance = float(np.abs(gate_PN).sum()), float(np.abs(diversity_PN - gate_PN).sum())
    return by_gate / (by_gate + by_distance) if by_gate + by_distance > 0 else float("nan")
