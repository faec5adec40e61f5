"""Studentised draws, and the intervals that are made of them."""

import numpy as np
import pytest
from scipy import stats

from polychromic.evaluation import Resampling, paired_comparison
from polychromic.evaluation.statistics.intervals import mean_intervals
from polychromic.evaluation.statistics.resampling import LEAST_SPREAD, studentised_means


def test_studentised_draws_are_distances_in_their_own_standard_errors():
    x = np.random.default_rng(3).exponential(size=12)
    means_BM, t_BM = studentised_means(x[:, None], n_resamples=1500, seed=7)
    resamples = np.random.default_rng(7).integers(0, 12, (1500, 12))
    errors = x[resamples].std(axis=1, ddof=1) / np.sqrt(12)
    least = LEAST_SPREAD * stats.sem(x)
    by_hand = stats.ttest_1samp(x[resamples], x.mean(), axis=1).statistic * errors / np.maximum(errors, least)

    assert 0 < (errors < least).mean() < 0.5
    assert means_BM[:, 0] == pytest.approx(x[resamples].mean(axis=1))
    assert t_BM[:, 0] == pytest.approx(by_hand)


def test_a_draw_of_one_value_only_is_told_in_the_samples_errors():
    x = np.array([0.1, 0.1, 0.3])
    means_BM, t_BM = studentised_means(x[:, None], n_resamples=1000)
    same = np.isclose(means_BM[:, 0], 0.3)

    assert same.any()
    assert t_BM[same, 0] == pytest.approx((0.3 - x.mean()) / (LEAST_SPREAD * stats.sem(x)))
    assert np.isnan(studentised_means(np.full((3, 1), 0.25), n_resamples=10)[1]).all()


def test_the_interval_of_a_rate_near_its_bound_stays_near_it():
    """The bootstrap-t alone put 0.98 of a hundred prompts between 0.07 and 1: some draws hardly vary."""
    rates = np.ones((1, 100))
    rates[0, :3] = [0.0, 0.6, 0.8]
    [(low, high)] = mean_intervals([rates], Resampling())

    assert 0.85 < low < 0.97 < high <= 1.0


def test_an_interval_that_ends_at_nothing_ends_there_in_percent_too():
    """A page had "+60 % (−2.78e-13 % to +∞)" beside a difference from 0 on."""
    rng = np.random.default_rng(0)
    ends = []
    for _ in range(30):
        b = rng.integers(1, 5, (2, 6)) / 4
        found = paired_comparison(b + rng.choice([0, 0, 0.25, 0.5], (2, 6)), b)
        ends += [(found.ci_low, found.relative_ci_low), (found.ci_high, found.relative_ci_high)]
    at_zero = [relative for end, relative in ends if end == 0.0]

    assert len(at_zero) > 5 and set(at_zero) == {0.0}
    assert all(abs(relative) > 1e-6 for end, relative in ends if end != 0.0)
