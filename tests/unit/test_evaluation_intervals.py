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


def test_a_clear_rise_from_a_baseline_near_0_ends_above_0_in_percent_too():
    """Past bug: p was below 0.05 and the relative interval went from −∞ to +∞: steps passed over its end."""
    clear = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        b, a = ((rng.random((1, 30)) < chance) * 1.0 for chance in (0.05, 0.4))
        found = paired_comparison(a, b, resampling=Resampling(bootstraps=1000, sign_patterns=2000))
        if found.p_value < 0.05 and found.mean_b > 0.0:
            clear += 1
            assert 0.0 < found.relative_ci_low < found.relative_difference < found.relative_ci_high
    assert clear > 5


@pytest.mark.parametrize("one", [0.1 + 0.2, 0.3 + 1e-9, 0.301])
def test_a_baseline_whose_mean_is_next_to_0_has_a_relative_interval_without_ends(one):
    b = np.tile([one, -0.3], 6)
    found = paired_comparison(b + np.linspace(-1.0, 1.5, 12), b, resampling=Resampling(bootstraps=1000))

    assert found.mean_b > 0.0
    assert (found.relative_ci_low, found.relative_ci_high) == (-np.inf, np.inf)


def test_what_is_never_below_0_falls_by_no_more_than_all_of_it():
    """Past bug: a page had "−30 % (−164 % to +908 %)" of a number of answers."""
    rng = np.random.default_rng(5)
    b = rng.exponential(1.0, (3, 12)) ** 3
    found = paired_comparison(b * rng.exponential(1.0, (3, 12)), b)
    bounded = found.within(0.0, np.inf)

    assert found.asking(True).relative_ci_low < -1.0
    for over_seeds in (None, False, True):
        plain, cut = found.asking(over_seeds), bounded.asking(over_seeds)
        assert cut.relative_ci_low == max(plain.relative_ci_low, -1.0)
        assert (cut.ci_low, cut.relative_ci_high, cut.p_value) == (plain.ci_low, plain.relative_ci_high, plain.p_value)
    assert found.within(-np.inf, np.inf) == found


def test_a_difference_is_no_larger_than_the_metrics_range():
    a, b = np.array([[0.9] * 10, [0.1] * 10]) + np.arange(10) / 100, np.full((2, 10), 0.5)
    found = paired_comparison(a, b).asking(True)

    assert found.ci_low < -1.0 and found.ci_high > 1.0
    bounded = found.within(0.0, 1.0)
    assert (bounded.ci_low, bounded.ci_high, bounded.p_value) == (-1.0, 1.0, found.p_value)
