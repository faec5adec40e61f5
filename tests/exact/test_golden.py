"""Literal values from the papers and by hand."""

from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest

from polychromic.objective import set_advantages, subset_mean


def test_pkpo_theorem_2_two_of_four_pass_at_two():
    """PKPO (arXiv:2505.15201): n = 4, c = 2, k = 2 gives 1/2 and 1/3, and ±1/12 after mean-centring."""
    rewards = np.array([1.0, 0.0, 1.0, 0.0])
    advantages_N = set_advantages("pass_at_k", 2, rewards=rewards, baseline="none")
    np.testing.assert_allclose(advantages_N, [1 / 2, 1 / 3, 1 / 2, 1 / 3], atol=1e-15)
    np.testing.assert_allclose(advantages_N - advantages_N.mean(), np.array([1, -1, 1, -1]) / 12, atol=1e-15)


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


def pkpo_s(i, k, members, rewards):
    """PKPO's S(i, k, I): Σ over the k-subsets of I that hold i of their best reward, over C(|I|, k)."""
    sets = [one for one in combinations(members, k) if i in one]
    return sum(max(rewards[j] for j in one) for one in sets) / comb(len(members), k)


def test_pkpo_sloo_is_a_mix_and_poly_epo_is_leave_one_out_up_to_a_constant():
    """PKPO, eq. 29: `sloo` takes Σ_{j≠i} S(j, k, all but i) / (n − 1) off, which is n/(n − 1) times what is due."""
    rewards, n, k = [0.1, 0.9, 0.4, 0.4, 0.0, 0.7], 6, 3
    everyone = range(n)
    sloo = [
        pkpo_s(i, k, everyone, rewards)
        - sum(pkpo_s(j, k, [m for m in everyone if m != i], rewards) for j in everyone if j != i) / (n - 1)
        for i in everyone
    ]
    mixed = set_advantages("pass_at_k", k, rewards=rewards, baseline="fitted", coefficients={k: n / (n - 1)})
    np.testing.assert_allclose(mixed, sloo, atol=1e-14)
    leave_one_out = set_advantages("pass_at_k", k, rewards=rewards)
    assert sum(leave_one_out) == pytest.approx(0.0, abs=1e-14)
    assert abs(sum(sloo)) > 0.1
    # Poly-EPO: the mean over the sets with i minus the mean over all sets.
    with_i = set_advantages("pass_at_k", k, rewards=rewards, baseline="none") * n / k
    marginal = with_i - subset_mean("pass_at_k", k, rewards=rewards)
    np.testing.assert_allclose(leave_one_out, k / n * marginal / (1 - k / n), atol=1e-14)


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
    assert subset_mean("distance", 3, distances=distances, gates=[1.0, 1.0, 0.0], gate="passing") == pytest.approx(
        1.0, abs=1e-15
    )


def test_vendi_and_logdet_of_all_same_and_all_different():
    same, different = np.zeros((3, 3)), 1.0 - np.eye(3)
    assert subset_mean("vendi", 3, distances=different) == pytest.approx(1.0, abs=1e-12)
    assert subset_mean("vendi", 3, distances=same) == pytest.approx(1 / 3, abs=1e-12)
    assert subset_mean("logdet", 3, distances=different) == pytest.approx(1.0, abs=1e-12)
    assert subset_mean("logdet", 3, distances=same) == pytest.approx(2 / 3, abs=1e-12)  # log 4 / (3 log 2)
