"""Ways to get the estimator wrong that look right, each shown wrong by exact enumeration."""

import itertools
from math import factorial

import numpy as np
import pytest
from enumeration import (
    ToyPolicy,
    analytic_gradient,
    gradient_estimates,
    random_policy,
    relative_variance,
    set_score,
)

from polychromic.objective import set_advantages

OBJECTIVES = ["reward", "pass_at_k", "coverage", "polychromic"]


def bias(advantages_QN, outcomes_QN, weights_Q, policy, objective, set_size) -> float:
    """Largest error of the expected gradient, relative to the gradient's largest entry."""
    expected = analytic_gradient(objective, set_size, policy)
    found = weights_Q @ gradient_estimates(advantages_QN, outcomes_QN, policy)
    # A common factor could be taken up by the learning rate: only a changed direction counts as bias.
    found = found * (found @ expected) / (found @ found)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def distinct_outcomes_policy(probabilities, correct) -> ToyPolicy:
    """Every outcome is its own cluster, at distance 1 from the others."""
    m = len(probabilities)
    rewards = np.isin(np.arange(m), correct).astype(float)
    return ToyPolicy(np.array(probabilities), rewards, np.arange(m), 1.0 - np.eye(m), rewards)


MIXED = distinct_outcomes_policy([0.3, 0.25, 0.15, 0.12, 0.1, 0.08], [0, 1, 2])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_dividing_by_the_groups_standard_deviation_is_biased(objective):
    policy = random_policy(4, seed=1)
    outcomes, weights = policy.tuples(4)
    advantages = set_advantages(objective, 2, **policy.arrays(outcomes))
    deviations = advantages.std(axis=1, keepdims=True)
    divided = advantages / np.where(deviations > 0, deviations, 1.0)
    assert bias(advantages, outcomes, weights, policy, objective, 2) < 1e-10
    assert bias(divided, outcomes, weights, policy, objective, 2) > 0.01


@pytest.mark.parametrize("objective", ["pass_at_k", "coverage", "polychromic"])
def test_subtracting_the_group_mean_after_a_set_baseline_is_biased(objective):
    policy = random_policy(4, seed=1)
    outcomes, weights = policy.tuples(4)
    arrays = policy.arrays(outcomes)
    advantages = set_advantages(objective, 3, baseline="leave_one_out_minus_one", **arrays)
    centred = advantages - advantages.mean(axis=1, keepdims=True)
    assert bias(advantages, outcomes, weights, policy, objective, 3) < 1e-10
    assert bias(centred, outcomes, weights, policy, objective, 3) > 0.01


def shapley_values(objective: str, group: tuple[int, ...], policy: ToyPolicy) -> np.ndarray:
    """Σ over sets without i of |S|! (N−|S|−1)! / N! · (f(S∪i) − f(S))."""
    n = len(group)
    values = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            for chosen in itertools.combinations(others, size):
                before = tuple(group[j] for j in chosen)
                gain = set_score(objective, (*before, group[i]), policy) - set_score(objective, before, policy)
                values[i] += weight * gain
    return values


def test_shapley_values_estimate_the_average_over_all_set_sizes():
    policy, n = random_policy(3, seed=2), 3
    outcomes, weights = policy.tuples(n)
    shapley = np.array([shapley_values("pass_at_k", tuple(row), policy) for row in outcomes])
    found = weights @ gradient_estimates(shapley, outcomes, policy)
    sizes = range(1, n + 1)
    # f(S∪i) − f(S) has the gradient of J_{|S|+1} in y_i, a 1/(|S|+1) share of the whole; n generations add up.
    mixture = sum(analytic_gradient("pass_at_k", size, policy) / size for size in sizes)
    np.testing.assert_allclose(found, mixture, atol=1e-10)
    for size in sizes:
        assert bias(shapley, outcomes, weights, policy, "pass_at_k", size) > 1e-3


def variance(objective: str, baseline: str, policy: ToyPolicy = MIXED, n: int = 5, set_size: int = 4) -> float:
    outcomes, weights = policy.tuples(n)
    advantages = set_advantages(objective, set_size, baseline=baseline, **policy.arrays(outcomes))
    return relative_variance(gradient_estimates(advantages, outcomes, policy), weights)


def test_leave_one_out_minus_one_raises_the_variance_of_polychromic():
    """By a third to double: without i, mean × distinct / |S| is no lower on average."""
    ratio = variance("polychromic", "leave_one_out_minus_one") / variance("polychromic", "leave_one_out")
    assert 1.3 < ratio < 2.0


def test_leave_one_out_minus_one_lowers_the_variance_of_a_monotone_score():
    policy = distinct_outcomes_policy([0.3, 0.25, 0.15, 0.12, 0.1, 0.08], [0])
    arguments = {"policy": policy, "n": 5}
    ratio = variance("pass_at_k", "leave_one_out_minus_one", **arguments) / variance(
        "pass_at_k", "leave_one_out", **arguments
    )
    assert ratio < 0.7


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_baseline_lowers_the_variance(objective):
    assert variance(objective, "leave_one_out") < 0.5 * variance(objective, "none")
