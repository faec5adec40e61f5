"""Whom gated diversity pays: how much of its credit comes from the gate, and how much from the distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from polychromic.objective import set_advantages
from polychromic.training.groups import FloatArray, GroupSignals
from polychromic.training.settings import DiversitySettings


def distance_metrics(signals: GroupSignals, settings: DiversitySettings) -> dict[str, float]:
    """Mean raw distance within groups, and the gate's share of the credit where pairs are weighed by their rewards.

    The cheapest way to raise g_i g_j d_ij may be g: then the score rises while the raw distance falls.
    """
    metrics = {"groups/distance": float(np.nanmean(mean_distances(signals.distances_PNN)))}
    if settings.gate == "product":
        metrics["train/diversity_gate_share"] = gate_share(signals, settings)
    return metrics


def mean_distances(distances_PNN: FloatArray) -> FloatArray:
    """Mean distance between two members of each group, [P]."""
    n = distances_PNN.shape[-1]
    return distances_PNN.sum(axis=(-2, -1)) / (n * (n - 1))


def gate_share(signals: GroupSignals, settings: DiversitySettings) -> float:
    """|A_gate| / (|A_gate| + |A_distance|) summed over generations; nan where neither gives any credit.

    A_gate is the credit if all pairs of a group were equally far apart, A_distance if all gates were equally open.
    """
    n = signals.rewards_PN.shape[1]
    apart_PNN = mean_distances(signals.distances_PNN)[:, None, None] * (1.0 - np.eye(n))
    open_PN = np.where(
        np.isnan(signals.rewards_PN), np.nan, np.nanmean(signals.rewards_PN, axis=1, keepdims=True)
    )
    by_gate = _credit(apart_PNN, signals.rewards_PN, settings)
    by_distance = _credit(signals.distances_PNN, open_PN, settings)
    return by_gate / (by_gate + by_distance) if by_gate + by_distance > 0 else float("nan")


def _credit(distances_PNN: FloatArray, gates_PN: NDArray[np.float64], settings: DiversitySettings) -> float:
    advantages_PN = set_advantages(
        "distance", settings.set_size, distances=distances_PNN, gates=gates_PN, gate="product"
    )
    return float(np.nansum(np.abs(advantages_PN)))
