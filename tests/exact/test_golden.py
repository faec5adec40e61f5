"""Literal values from the papers and by hand."""

from fractions import Fraction

import numpy as np
import pytest

from polychromic.objective import set_advantages, subset_mean


def test_pkpo_theorem_2_two_of_four_pass_at_two():
    """PKPO (arXiv:2505.15201): n = 4, c = 2, k = 2 gives 1/2 and 1/3, and ±1/12 after mean-centring."""
    rewards = np.array([1.0, 0.0, 1.0, 0.0])
    credit = set_advantages("pass_at_k", 2, rewards=rewards, baseline="none")
    np.testing.assert_allclose(credit, [1 / 2, 1 / 3, 1 / 2, 1 / 3], atol=1e-15)
    np.testing.assert_allclose(credit - credit.mean(), np.array([1, -1, 1, -1]) / 12, atol=1e-15)


def test_pass_at_k_of_two_in_four_by_counting_pairs():
    rewards = [1.0, 1.0, 0.0, 0.0]
    assert subset_mean("pass_at_k", 2, rewards=rewards) == pytest.approx(5 / 6, abs=1e-15)
    # Pairs that avoid a passing one: {P,F}, {P,F}, {F,F}: 2/3 pass. That avoid a failing one: all 3 pass.
    np.testing.assert_allclose(
        set_advantages("pass_at_k", 2, rewards=rewards), [1 / 6, 1 / 6, -1 / 6, -1 / 6], atol=1e-15
    )


def test_best_of_real_rewards_by_counting_pairs():
    rewards = [0.1, 0.4, 0.9]
    assert subset_mean("pass_at_k", 2, rewards=rewards) == pytest.approx((0.4 + 0.9 + 0.9) / 3, abs=1e-15)
    expected = [Fraction(22, 30) - Fraction(9, 10), Fraction(22, 30) - Fraction(9, 10), Fraction(1, 3)]
    np.testing.assert_allclose(
        set_advantages("pass_at_k", 2, rewards=rewards), [float(value) for value in expected], atol=1e-15
    )


def test_rloo():
    """RLOO (arXiv:2402.14740, eq. 8) over N: (r_i − mean of the others) / N."""
    found = set_advantages("reward", 1, rewards=[1.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(found, np.array([2 / 3, -2 / 3, -2 / 3, 2 / 3]) / 4, atol=1e-15)


def test_coverage_of_three_passing_in_two_clusters():
    """Pairs of {a, a, b, wrong}: aa 1, ab 2, ab 2, aw 1, aw 1, bw 1, each over 2."""
    arrays = {"rewards": [1.0, 1.0, 1.0, 0.0], "clusters": ["a", "a", "b", "w"]}
    assert subset_mean("coverage", 2, **arrays) == pytest.approx(8 / 12, abs=1e-15)
    # Pairs without a: ab ... of {a, b, w}: 2, 1, 1 -> 4/6; without b: {a, a, w}: 1, 1, 1 -> 3/6; without w: 5/6.
    np.testing.assert_allclose(
        set_advantages("coverage", 2, **arrays),
        [2 / 3 - 2 / 3, 0.0, 2 / 3 - 1 / 2, 2 / 3 - 5 / 6],
        atol=1e-15,
    )


def test_polychromic_of_a_pair_of_sets():
    """{1, 0} in two clusters: mean 1/2 × 2 clusters / 2; alone each scores its reward × 1."""
    arrays = {"rewards": [1.0, 0.0], "clusters": [0, 1]}
    assert subset_mean("polychromic", 2, **arrays) == pytest.approx(0.5, abs=1e-15)
    np.testing.assert_allclose(set_advantages("polychromic", 1, **arrays), [0.5, -0.5], atol=1e-15)


def test_gated_distance_of_three():
    distances = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.2], [0.5, 0.2, 0.0]])
    gates = np.array([1.0, 0.5, 0.0])
    assert subset_mean("distance", 2, distances=distances, gates=gates) == pytest.approx(0.5 / 3, abs=1e-15)
    assert subset_mean("distance", 2, distances=distances) == pytest.approx(1.7 / 3, abs=1e-15)
    passing = subset_mean("distance", 2, distances=distances, gates=[1.0, 1.0, 0.0], gate="passing")
    assert passing == pytest.approx(1.0 / 3, abs=1e-15)  # one of the three pairs has two that pass
    assert subset_mean(
        "distance", 3, distances=distances, gates=[1.0, 1.0, 0.0], gate="passing"
    ) == pytest.approx(1.0, abs=1e-15)


def test_vendi_and_logdet_of_all_same_and_all_different():
    same, different = np.zeros((3, 3)), 1.0 - np.eye(3)
    assert subset_mean("vendi", 3, distances=different) == pytest.approx(1.0, abs=1e-12)
    assert subset_mean("vendi", 3, distances=same) == pytest.approx(1 / 3, abs=1e-12)
    assert subset_mean("logdet", 3, distances=different) == pytest.approx(1.0, abs=1e-12)
    assert subset_mean("logdet", 3, distances=same) == pytest.approx(2 / 3, abs=1e-12)  # log 4 / (3 log 2)
