"""Gradients kept apart by term: norms, cosine and signal-to-noise against values computed by hand."""

import math

import numpy as np
import pytest
import torch

from polychromic.training.gradients import GradientAccumulator


def measured(quality, even, odd, n_prompts=2):
    """The measurement of three linear losses whose gradients are the given vectors."""
    parameter = torch.nn.Parameter(torch.zeros(len(quality)))
    accumulator = GradientAccumulator([parameter], separate=True)
    losses = {"quality": quality, "diversity_even": even, "diversity_odd": odd}
    accumulator.add({term: (parameter * torch.tensor(vector)).sum() for term, vector in losses.items()})
    return accumulator.finish(n_prompts), parameter.grad


def test_norms_cosine_and_the_summed_gradient():
    measurement, gradient = measured([3.0, 4.0], [0.0, 1.0], [0.0, 1.0])

    assert gradient.tolist() == [3.0, 6.0]
    assert measurement.quality_norm == 5.0
    assert measurement.diversity_norm == 2.0
    assert measurement.cosine == pytest.approx(0.8)


def test_halves_that_agree_are_signal_and_halves_that_do_not_are_noise():
    agreeing, _ = measured([1.0, 0.0], [1.0, 0.1], [1.0, -0.1])
    opposed, _ = measured([1.0, 0.0], [1.0, 0.0], [-1.0, 0.0])
    silent, _ = measured([1.0, 0.0], [0.0, 0.0], [0.0, 0.0])

    assert agreeing.diversity_signal_to_noise == pytest.approx(4 * 0.99 / 0.04)
    assert opposed.diversity_signal_to_noise == -1.0
    assert math.isnan(silent.diversity_signal_to_noise)


def test_the_two_halves_estimate_squared_signal_and_variance_without_bias():
    """g is the mean of 8 prompts' gradients with mean μ and covariance I: ‖μ‖² = 1, tr Cov(g) = 3 / 8."""
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=(20_000, 8, 3)) + np.array([1.0, 0.0, 0.0])
    even, odd = prompts[:, ::2].sum(axis=1) / 8, prompts[:, 1::2].sum(axis=1) / 8

    _check_estimate(even, odd, 8)
    assert 4 * (even * odd).sum(axis=1).mean() == pytest.approx(1.0, abs=0.02)
    assert ((even - odd) ** 2).sum(axis=1).mean() == pytest.approx(3 / 8, abs=0.01)


def _check_estimate(even, odd, n_prompts):
    """The mean of numerators over the mean of denominators is ‖μ‖² / tr Cov(g)."""
    share = (n_prompts + 1) // 2 / n_prompts
    both = share * (1 - share)
    signal = (even * odd).sum(axis=1) / both
    noise = ((even / share - odd / (1 - share)) ** 2).sum(axis=1) * both
    assert signal.mean() / noise.mean() == pytest.approx(n_prompts / 3, rel=0.05)
    found, _ = measured([1.0, 0.0, 0.0], even[0].tolist(), odd[0].tolist(), n_prompts)
    assert found.diversity_signal_to_noise == pytest.approx(signal[0] / noise[0], rel=1e-4)


def test_halves_of_unequal_size_are_weighed():
    """Past bug: with three prompts a step, halves of two and one were taken for equal ones."""
    prompts = np.random.default_rng(1).normal(size=(50_000, 3, 3)) + np.array([1.0, 0.0, 0.0])
    _check_estimate(prompts[:, ::2].sum(axis=1) / 3, prompts[:, 1::2].sum(axis=1) / 3, 3)


def test_one_prompt_shows_no_noise_and_no_ratio():
    """Past bug: its signal-to-noise came out as exactly 0."""
    alone, _ = measured([1.0, 0.0], [1.0, 1.0], [0.0, 0.0], n_prompts=1)
    assert math.isnan(alone.diversity_signal_to_noise)


def test_the_gate_part_is_measured_and_never_added():
    parameter = torch.nn.Parameter(torch.zeros(2))
    accumulator = GradientAccumulator([parameter], separate=True)
    accumulator.open_gate()
    losses = {
        "quality": [1.0, 0.0], "diversity_even": [0.0, 3.0], "diversity_odd": [4.0, 0.0],
        "diversity_gate": [4.0, 0.0],
    }  # fmt: skip
    accumulator.add({term: (parameter * torch.tensor(vector)).sum() for term, vector in losses.items()})
    found = accumulator.finish(2)

    assert parameter.grad.tolist() == [5.0, 3.0]
    assert (found.diversity_norm, found.gate_norm, found.distance_norm) == (5.0, 4.0, 3.0)
    without, _ = measured([1.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    assert math.isnan(without.gate_norm)
    assert math.isnan(without.distance_norm)


def test_a_term_without_a_gradient_path_adds_nothing():
    parameter = torch.nn.Parameter(torch.ones(2))
    accumulator = GradientAccumulator([parameter], separate=True)
    accumulator.add({"quality": parameter.sum(), "diversity_even": torch.tensor(3.0)})

    assert accumulator.finish(2).diversity_norm == 0.0
    assert parameter.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("separate", [False, True])
def test_a_parameter_that_nothing_reaches_has_no_gradient_measured_or_not(separate):
    # A gradient of zeros let the optimizer move it by momentum and weight decay, on measured steps alone.
    reached, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    accumulator = GradientAccumulator([reached, other], separate=separate)
    accumulator.add({"quality": reached.sum(), "diversity_even": 0.0 * reached.sum()})
    accumulator.finish(2)
    assert reached.grad.tolist() == [1.0, 1.0]
    assert other.grad is None
