"""The gate's part of the diversity gradient and the distance's: all of it, none of it, in between, and their sum."""

import numpy as np
import pytest

from polychromic.files import read_jsonl
from polychromic.records import Check
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training.base import ArmRun
from polychromic.training.rollouts import (
    GroupSignals,
    distance_metrics,
    diversity_advantages,
    gate_part,
    gate_share,
    has_gate_part,
)
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import ArmTrainer, train_arm

SETTINGS = DiversitySettings(weight=1.0, objective="distance", set_size=2)


def signals(rewards, distances):
    rewards_PN = np.array([rewards])
    return GroupSignals(rewards_PN, rewards_PN, np.arange(4)[None], np.array([distances]))


def parts(rewards, distances, settings=SETTINGS):
    """Whole advantages and the gate's part of them."""
    given = signals(rewards, distances)
    return diversity_advantages(given, settings)[0], gate_part(given, settings)


EQUAL = 0.6 * (1 - np.eye(4))
UNEQUAL = np.array([[0, 0.1, 0.9, 0.5], [0.1, 0, 0.8, 0.4], [0.9, 0.8, 0, 0.7], [0.5, 0.4, 0.7, 0]])


def test_equal_distances_pay_by_the_gate_alone():
    whole, gate = parts([0.1, 0.9, 0.5, 0.3], EQUAL)
    np.testing.assert_allclose(gate, whole)
    assert gate_share(whole, gate) == pytest.approx(1.0)


def test_equal_gates_pay_by_distance_alone():
    whole, gate = parts([0.5, 0.5, 0.5, 0.5], UNEQUAL)
    assert np.any(whole)
    assert gate_share(whole, gate) == pytest.approx(0.0, abs=1e-12)


def test_both_pay_and_a_missing_reward_drops_out():
    assert 0.1 < gate_share(*parts([0.1, 0.9, 0.5, 0.3], UNEQUAL)) < 0.9
    assert 0.0 <= gate_share(*parts([0.1, np.nan, 0.5, 0.3], UNEQUAL)) <= 1.0
    assert np.isnan(gate_share(*parts([0.0, 0.0, 0.0, 0.0], UNEQUAL)))


@pytest.mark.parametrize("baseline", ["leave_one_out", "leave_one_out_minus_one", "none"])
def test_the_distance_part_is_what_deviating_distances_are_paid(baseline):
    """Linear in the distances: the remainder is the advantage of d − d̄, worked out pair by pair."""
    settings = SETTINGS.model_copy(update={"baseline": baseline})
    rewards = np.array([0.1, 0.9, 0.5, 0.3])
    whole, gate = parts(rewards, UNEQUAL, settings)
    deviating = (UNEQUAL - UNEQUAL.sum() / 12) * (1 - np.eye(4)) * np.outer(rewards, rewards)
    with_i = deviating.sum(axis=1) / 3
    mean, without = deviating.sum() / 12, (deviating.sum() - 2 * deviating.sum(axis=1)) / 6
    expected = {
        "leave_one_out": mean - without, "none": with_i / 2,
        "leave_one_out_minus_one": with_i / 2,  # of a single generation the score is 0
    }  # fmt: skip
    np.testing.assert_allclose((whole - gate)[0], expected[baseline], atol=1e-12)


def test_raw_distance_is_the_mean_over_pairs():
    given = signals([0.1, 0.9, 0.5, 0.3], UNEQUAL)
    metrics = distance_metrics(given, *parts([0.1, 0.9, 0.5, 0.3], UNEQUAL))
    assert metrics["groups/distance"] == pytest.approx((0.1 + 0.9 + 0.5 + 0.8 + 0.4 + 0.7) / 6)
    assert set(distance_metrics(given, np.ones((1, 4)), None)) == {"groups/distance"}
    assert not has_gate_part(SETTINGS.model_copy(update={"gate": "none"}))
    assert not has_gate_part(SETTINGS.model_copy(update={"objective": "coverage"}))


class Graded(ArithmeticTask):
    """Rewards that differ, and distances by length: both parts have something to pay."""

    def check(self, prompts, texts):
        return [Check(min(1.0, 0.2 + text.count("+") / 4)) for text in texts]

    def distances(self, texts):
        lengths = np.array([len(set(text)) for text in texts], dtype=float)
        return np.minimum(np.abs(lengths[:, None] - lengths[None]) / 8, 1.0)


class OnlyGate(Graded):
    """All answers equally far apart."""

    def distances(self, texts):
        return 0.5 * (1 - np.eye(len(texts)))


def arm(tmp_path, tiny_settings, task, **diversity):
    training = TrainingSettings(
        loss="rl", steps=2, prompts_per_step=4, num_samples=4, max_new_tokens=16, gradient_share_every=2
    )
    settings = DiversitySettings(**({"weight": 0.7, "objective": "distance", "set_size": 2} | diversity))
    return ArmRun("split", "arm", 0, tmp_path / "run", task(64, 16, 16), tiny_settings, training, settings)


def test_measured_steps_log_both_parts_of_the_gradient(tmp_path, tiny_settings):
    train_arm(arm(tmp_path, tiny_settings, Graded))
    measured, unmeasured = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    names = [f"train/diversity_{part}_gradient_norm" for part in ("gate", "distance")]
    gate, distance = (measured[name] for name in names)
    assert gate > 0
    assert distance > 0
    # Two vectors and their sum: the triangle inequality, both ways.
    assert abs(gate - distance) <= measured["train/diversity_gradient_norm"] <= gate + distance
    assert measured["train/diversity_gate_gradient_share"] == pytest.approx(gate / (gate + distance))
    assert not set(names) & set(unmeasured)
    assert "train/diversity_gate_share" in unmeasured


def test_a_gradient_of_the_gate_alone_is_told(tmp_path, tiny_settings):
    train_arm(arm(tmp_path, tiny_settings, OnlyGate))
    measured = read_jsonl(tmp_path / "run" / "metrics.jsonl")[0]
    assert measured["train/diversity_gate_gradient_share"] == pytest.approx(1.0, abs=1e-5)


def test_splitting_the_gate_changes_no_gradient(tmp_path, tiny_settings):
    gradients = []
    for every in (1, 1000):
        run = arm(tmp_path, tiny_settings, Graded)
        trainer = ArmTrainer(
            ArmRun(
                **{
                    **run.__dict__,
                    "training": run.training.model_copy(update={"gradient_share_every": every}),
                }
            )
        )
        trainer.maker.make(1, trainer.prompts[:32], weight=0.7)
        gradients.append([parameter.grad.clone() for parameter in trainer.parameters])
    for one, other in zip(*gradients, strict=True):
        assert np.allclose(one, other, atol=1e-6, rtol=1e-4)
