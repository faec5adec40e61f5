"""`baseline: fitted` in training: coefficients of earlier steps only, kept over a stop, unbiased as promised."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from polychromic.files import read_jsonl
from polychromic.objective import FittedBaseline, set_advantages
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training.base import ArmRun
from polychromic.training.rollouts import (
    GroupSignals,
    diversity_advantages,
    diversity_signal,
    learn_from,
    objective_inputs,
)
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import ArmTrainer, train_arm


@pytest.fixture
def run(tmp_path, tiny_settings):
    training = TrainingSettings(
        loss="rl", steps=4, prompts_per_step=6, num_samples=6, max_new_tokens=16, learning_rate=1e-3,
        checkpoint_every=1,
    )  # fmt: skip
    diversity = DiversitySettings(weight=1.0, set_size=3, baseline="fitted")
    return ArmRun(
        "fitted",
        "coverage",
        0,
        tmp_path / "run",
        ArithmeticTask(64, 16, 16),
        tiny_settings,
        training,
        diversity,
    )


def weights(adapter):
    return load_file(adapter / "adapter_model.safetensors")


def test_the_first_step_is_leave_one_out_and_later_ones_are_not(run):
    trainer = ArmTrainer(run)
    assert trainer.maker.fitted.coefficients is None
    trainer.step()
    leave_one_out = {size: float(size == 3) for size in range(6)}
    assert trainer.maker.fitted.coefficients == leave_one_out
    for _ in range(3):
        trainer.step()
    assert trainer.maker.fitted.coefficients != leave_one_out


def test_a_step_uses_the_coefficients_of_the_steps_before_it(run):
    """Fitted on the group itself, the estimator would be biased."""
    trainer = ArmTrainer(run)
    for _ in range(3):
        trainer.step()
    before = trainer.maker.fitted
    sampled = trainer.maker.sample(3, trainer.prompts[:6], 6)
    inputs = objective_inputs(sampled.signals, run.diversity)
    expected = set_advantages("coverage", 3, baseline="fitted", coefficients=before.coefficients, **inputs)
    np.testing.assert_array_equal(sampled.advantages.diversity_PN, expected)
    assert trainer.maker.fitted == learn_from(before, sampled.groups, sampled.signals, run.diversity)


def test_a_run_stopped_after_any_step_ends_bit_identical(run, tmp_path):
    whole = weights(train_arm(run))
    for stop in (1, 3):
        other = dataclasses.replace(run, folder=tmp_path / f"stopped-{stop}")
        trainer = ArmTrainer(other)
        for _ in range(stop):
            trainer.step()
        resumed = weights(train_arm(other))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert len(read_jsonl(run.folder / "metrics.jsonl")) == 4


def test_without_coefficients_it_is_leave_one_out(run):
    sampled = ArmTrainer(run).maker.sample(0, ArithmeticTask(64, 16, 16).prompts("train")[:6], 6)
    fitted, _ = diversity_advantages(sampled.signals, run.diversity)
    plain = run.diversity.model_copy(update={"baseline": "leave_one_out"})
    np.testing.assert_allclose(fitted, diversity_advantages(sampled.signals, plain)[0], atol=1e-12)


def test_its_state_survives_a_checkpoint(run):
    trainer = ArmTrainer(run)
    assert FittedBaseline.from_state(trainer.maker.fitted.to_state()) == FittedBaseline()
    for _ in range(3):
        trainer.step()
    assert FittedBaseline.from_state(trainer.maker.fitted.to_state()) == trainer.maker.fitted


def test_a_mix_fitted_without_the_constant_goes_on_without_it(run):
    """Checkpoints of before the constant: their mix is kept, not refused."""
    trainer = ArmTrainer(run)
    sampled = trainer.maker.sample(0, trainer.prompts[:6], 6)
    old = FittedBaseline(
        set_sizes=(1, 2, 3), prior=(0.0, 0.0, 1.0), matrix=((0.0,) * 3,) * 3, target=(0.0,) * 3, n_groups=1.0
    )
    assert learn_from(old, sampled.groups, sampled.signals, run.diversity).set_sizes == (1, 2, 3)


@pytest.mark.parametrize("baseline", ["fitted", "leave_one_out", "leave_one_out_minus_one"])
def test_a_baseline_that_pays_every_group_makes_no_signal(baseline):
    """Else a run whose groups had all become alike would never be stopped: its advantages are noise, but not zero."""
    rewards = np.array([[1.0] * 4, [0.0] * 4, [1.0, 0.0, 0.0, 0.0]])
    signals = GroupSignals(rewards, rewards, np.zeros((3, 4), dtype=np.int64), np.zeros((3, 4, 4)))
    settings = DiversitySettings(weight=1.0, set_size=2, baseline=baseline)
    coefficients = {0: 0.1, 2: 0.9} if baseline == "fitted" else None
    advantages, _ = diversity_advantages(signals, settings, coefficients)
    assert advantages[1].any() == (baseline == "fitted")
    assert diversity_signal(signals, settings).tolist() == [False, False, True]


def test_vendi_with_more_subsets_than_are_scored_trains(run):
    """10,626 subsets of 4 out of 24: without a generator of its own this run ended at its first step."""
    several = dataclasses.replace(
        run,
        training=run.training.model_copy(update={"num_samples": 24, "prompts_per_step": 2, "steps": 2}),
        diversity=run.diversity.model_copy(update={"objective": "vendi", "set_size": 4}),
    )
    trainer = ArmTrainer(several)
    again = ArmTrainer(several)
    one, other = (each.maker.sample(0, each.prompts[:2], 24) for each in (trainer, again))
    np.testing.assert_array_equal(one.advantages.diversity_PN, other.advantages.diversity_PN)
    for _ in range(2):
        trainer.step()
