"""The gate's share of the credit: all of it, none of it, and in between."""

import numpy as np
import pytest

from polychromic.training.credit import distance_metrics, gate_share
from polychromic.training.groups import GroupSignals
from polychromic.training.settings import DiversitySettings

SETTINGS = DiversitySettings(weight=1.0, objective="distance", set_size=2)


def signals(rewards, distances):
    rewards_PN = np.array([rewards])
    return GroupSignals(rewards_PN, rewards_PN, np.arange(4)[None], np.array([distances]))


EQUAL = 0.6 * (1 - np.eye(4))
UNEQUAL = np.array([[0, 0.1, 0.9, 0.5], [0.1, 0, 0.8, 0.4], [0.9, 0.8, 0, 0.7], [0.5, 0.4, 0.7, 0]])


def test_equal_distances_pay_by_the_gate_alone():
    assert gate_share(signals([0.1, 0.9, 0.5, 0.3], EQUAL), SETTINGS) == pytest.approx(1.0)


def test_equal_gates_pay_by_distance_alone():
    assert gate_share(signals([0.5, 0.5, 0.5, 0.5], UNEQUAL), SETTINGS) == pytest.approx(0.0, abs=1e-12)


def test_both_pay_and_a_missing_reward_drops_out():
    both = gate_share(signals([0.1, 0.9, 0.5, 0.3], UNEQUAL), SETTINGS)
    assert 0.1 < both < 0.9
    assert 0.0 <= gate_share(signals([0.1, np.nan, 0.5, 0.3], UNEQUAL), SETTINGS) <= 1.0
    assert np.isnan(gate_share(signals([0.0, 0.0, 0.0, 0.0], UNEQUAL), SETTINGS))


def test_raw_distance_is_the_mean_over_pairs():
    metrics = distance_metrics(signals([0.1, 0.9, 0.5, 0.3], UNEQUAL), SETTINGS)
    assert metrics["groups/distance"] == pytest.approx((0.1 + 0.9 + 0.5 + 0.8 + 0.4 + 0.7) / 6)
    ungated = SETTINGS.model_copy(update={"gate": "none"})
    assert set(distance_metrics(signals([1, 1, 1, 1], UNEQUAL), ungated)) == {"groups/distance"}
