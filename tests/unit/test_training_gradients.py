"""Gradients kept apart by term: norms, cosine and signal-to-noise against values computed by hand."""

import math

import numpy as np
import pytest
import torch

from polychromic.training.gradients import GradientAccumulator


def measured(quality, even, odd):
    """The measurement of three linear losses whose gradients are the given vectors."""
    parameter = torch.nn.Parameter(torch.zeros(len(quality)))
    accumulator = GradientAccumulator([parameter], separate=True)
    losses = {"quality": quality, "diversity_even": even, "diversity_odd": odd}
    accumulator.add({term: (parameter * torch.tensor(vector)).sum() for term, vector in losses.items()})
    return accumulator.finish(), parameter.grad


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

    assert 4 * (even * odd).sum(axis=1).mean() == pytest.approx(1.0, abs=0.02)
    assert ((even - odd) ** 2).sum(axis=1).mean() == pytest.approx(3 / 8, abs=0.01)


def test_a_term_without_a_gradient_path_adds_nothing():
    parameter = torch.nn.Parameter(torch.ones(2))
    accumulator = GradientAccumulator([parameter], separate=True)
    accumulator.add({"quality": parameter.sum(), "diversity_even": torch.tensor(3.0)})

    assert accumulator.finish().diversity_norm == 0.0
    assert parameter.grad.tolist() == [1.0, 1.0]
