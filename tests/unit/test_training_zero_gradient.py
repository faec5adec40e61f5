"""Real training with λ > 0 and no diversity gradient: it stops after the stated steps, keeps a checkpoint, says why."""

import dataclasses
import math

import numpy as np
import pytest

from polychromic.errors import TrainingError
from polychromic.files import read_jsonl
from polychromic.records import Check
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training import policy_gradient, watches
from polychromic.training.base import ArmRun
from polychromic.training.checkpoint import latest_checkpoint
from polychromic.training.gradients import GradientAccumulator, GradientMeasurement, StepOutcome
from polychromic.training.rollouts import GroupSignals
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import train_arm
from polychromic.training.watches import ZeroGradientWatch, infinite_term, zero_gradient_cause

SILENT_STEPS = 3


class Judged(ArithmeticTask):
    """Every answer gets the same reward."""

    reward: float | None = 1.0

    def check(self, prompts, texts):
        return [Check(self.reward, None if self.reward is not None else "no answer")] * len(texts)


class AllWrong(Judged):
    reward = 0.0


class AllFail(Judged):
    reward = None


class AllDifferent(Judged):
    """Every answer passes and is one of a kind."""

    def cluster(self, prompt, text):
        self.seen = getattr(self, "seen", 0) + 1
        return str(self.seen)


class HalfRight(AllDifferent):
    """Every answer is half right."""

    reward = 0.5


class EquallyFar(Judged):
    """Rewards differ, and no two answers are nearer than another two."""

    def check(self, prompts, texts):
        return [Check(float(index % 2)) for index in range(len(texts))]

    def distances(self, texts):
        return 0.5 * (1 - np.eye(len(texts)))


def run(tmp_path, tiny_settings, task=ArithmeticTask, *, diversity=None, **training):
    settings = TrainingSettings(
        **({
            "loss": "rl", "steps": 20, "prompts_per_step": 4, "num_samples": 6, "max_new_tokens": 16,
            "learning_rate": 1e-3, "gradient_share_every": 100,
        } | training)
    )  # fmt: skip
    chosen = {"weight": 2.0, "set_size": 3, "max_zero_gradient_steps": SILENT_STEPS} | (diversity or {})
    return ArmRun(
        experiment="silent", arm="arm", seed=0, folder=tmp_path / "run", task=task(64, 16, 16), model=tiny_settings,
        training=settings, diversity=DiversitySettings(**chosen),
    )  # fmt: skip


def detach_diversity(monkeypatch):
    add = GradientAccumulator.add

    def detached(self, losses):
        add(self, {term: loss.detach() if term != "quality" else loss for term, loss in losses.items()})

    monkeypatch.setattr(GradientAccumulator, "add", detached)


@pytest.mark.parametrize(
    ("cause", "task", "changes"),
    [
        ("no grad path", ArithmeticTask, {}),
        ("all generations of every group are the same", ArithmeticTask, {"temperature": 1e-5}),
        ("has the full reward", AllDifferent, {}),
        ("has the full reward", Judged, {"diversity": {"objective": "pass_at_k"}}),
        ("has the full reward", AllDifferent, {"max_new_tokens": 3}),  # past bug: called truncation
        ("all rewards of every group are equal", HalfRight, {"diversity": {"objective": "polychromic"}}),
        ("the quality gate is closed", AllWrong, {}),
        ("the quality gate is closed", AllWrong, {"diversity": {"objective": "distance"}}),
        ("cut at max_new_tokens", ArithmeticTask, {"max_new_tokens": 3}),
        (
            "all generations of a group get the same advantage",
            EquallyFar,
            {"diversity": {"objective": "distance", "gate": "none"}},
        ),
        ("the checker failed on every generation", AllFail, {"max_checker_failures": 1.0}),
    ],
)
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_each_cause_stops_the_run_and_is_named(tmp_path, tiny_settings, monkeypatch, cause, task, changes):
    if cause == "no grad path":
        detach_diversity(monkeypatch)
    silent = run(tmp_path, tiny_settings, task, **changes)
    pattern = rf"λ = 2\) has had no gradient for {SILENT_STEPS} diversity steps in a row: .*{cause}"
    with pytest.raises(TrainingError, match=pattern):
        train_arm(silent)
    assert len(read_jsonl(silent.folder / "metrics.jsonl")) == SILENT_STEPS - 1
    # Past bug: a run that stopped before its first checkpoint was due kept none.
    assert latest_checkpoint(silent.folder / "checkpoints").step == SILENT_STEPS - 1


def test_a_stopped_run_stops_at_the_same_step_when_started_again(tmp_path, tiny_settings):
    silent = run(tmp_path, tiny_settings, AllWrong)
    for _ in range(2):
        with pytest.raises(TrainingError, match=f"for {SILENT_STEPS} diversity steps in a row"):
            train_arm(silent)
    assert len(read_jsonl(silent.folder / "metrics.jsonl")) == SILENT_STEPS - 1


def test_a_run_goes_on_where_the_cause_is_mended(tmp_path, tiny_settings):
    silent = run(tmp_path, tiny_settings, AllWrong, steps=4)
    with pytest.raises(TrainingError, match="gate is closed"):
        train_arm(silent)
    assert train_arm(dataclasses.replace(silent, task=ArithmeticTask(64, 16, 16))).is_dir()


def test_a_gradient_that_is_not_finite_is_named_by_its_term(tmp_path, tiny_settings, monkeypatch):
    loss = policy_gradient.policy_gradient_loss

    def overflowing(logprobs_BT, mask_BT, advantages_B, **more):
        # Only the diversity terms leave half of the prompts without advantages.
        return loss(logprobs_BT, mask_BT, advantages_B, **more) * (math.inf if (advantages_B == 0).any() else 1.0)

    monkeypatch.setattr(policy_gradient, "policy_gradient_loss", overflowing)
    objective = {"objective": "distance", "gate": "none"}
    infinite = run(tmp_path, tiny_settings, DifferentRewards, diversity=objective)
    with pytest.raises(TrainingError, match="gradient of the diversity term is not finite at step 1"):
        train_arm(infinite)


class DifferentRewards(Judged):
    """No reward equals another's, and so every quality advantage differs from zero."""

    def check(self, prompts, texts):
        return [Check((index % 6 + 0.37) / 7) for index in range(len(texts))]

    def distances(self, texts):
        distances_NN = np.abs(np.subtract.outer(np.arange(len(texts)), np.arange(len(texts)))) ** 1.3
        return distances_NN / distances_NN.max()


def outcome(*, signal, diversity_norm=None, quality_norm=1.0, signals=None):
    measured = None
    if diversity_norm is not None:
        measured = GradientMeasurement(quality_norm, diversity_norm, math.nan, math.nan)
    return StepOutcome({}, 1.0, True, signal, measured, 0.0, signals, 0.0)


def test_causes_that_differ_by_group_are_counted():
    rewards_PN = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    mixed = GroupSignals(rewards_PN, rewards_PN, np.array([[0, 1], [0, 1], [0, 0]]), np.zeros((3, 2, 2)))
    said = zero_gradient_cause(outcome(signal=False, signals=mixed), DiversitySettings(set_size=1))
    assert said.startswith("in 2 of 3 groups: no generation passes")
    assert "in 1 of 3 groups: all generations of every group are the same" in said


def test_a_broken_path_is_remembered_between_measured_steps_and_forgotten_when_mended():
    watch = ZeroGradientWatch(DiversitySettings(max_zero_gradient_steps=10))
    for norm, silent in ((0.0, 1), (None, 2), (math.nan, 3), (None, 4), (0.5, 0), (None, 0)):
        watch.observe(outcome(signal=True, diversity_norm=norm))
        assert watch.zero_steps == silent


def test_terms_are_told_apart_where_the_step_measured_them():
    assert infinite_term(outcome(signal=True)) == "the gradient"
    assert "diversity" in infinite_term(outcome(signal=True, diversity_norm=math.inf))
    assert "quality" in infinite_term(outcome(signal=True, diversity_norm=1.0, quality_norm=math.nan))
    assert "not finite" in zero_gradient_cause(outcome(signal=True, diversity_norm=math.nan), DiversitySettings())


def test_truncation_is_the_cause_only_where_nothing_passes():
    """Past bug: saturated groups of answers that were cut, and pass all the same, were called truncated."""
    for reward, cause in ((1.0, watches.SATURATED), (0.0, watches.CUT)):
        rewards_PN = np.full((3, 2), reward)
        groups = GroupSignals(rewards_PN, rewards_PN, np.array([[0, 1]] * 3), np.ones((3, 2, 2)) - np.eye(2))
        step = dataclasses.replace(outcome(signal=False, signals=groups), truncated=0.95)
        assert zero_gradient_cause(step, DiversitySettings(set_size=1)) == cause
