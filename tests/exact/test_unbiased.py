"""The expected estimator is the gradient: every objective, set size and baseline, summed over all outcome tuples."""

import numpy as np
import pytest
from enumeration import (
    analytic_gradient,
    expected_estimate,
    objective_value,
    random_policy,
)

from polychromic.objective import OBJECTIVES, set_advantages, subset_mean

# A kernel score of one generation without a gate is a constant, whose gradient of zero anything would estimate.
SCORES = [
    (entry.name, gate)
    for entry in OBJECTIVES.values()
    for gate in entry.gate_rules
    if entry.closed_form or gate != "none"
]
BASELINES = ["none", "leave_one_out", "leave_one_out_minus_one", "fitted"]


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize(("objective", "gate"), SCORES)
def test_expected_estimator_is_the_gradient_at_every_set_size(objective, gate, baseline):
    n = 5 if OBJECTIVES[objective].closed_form else 4
    policy = random_policy(4, seed=1)
    policy = policy.passing() if gate == "passing" else policy
    largest = n - 1 if baseline == "leave_one_out" else n
    for set_size in range(OBJECTIVES[objective].smallest_set, largest + 1):
        expected = analytic_gradient(objective, set_size, policy, gate)
        found = expected_estimate(objective, set_size, n, policy, gate=gate, baseline=baseline)
        np.testing.assert_allclose(found, expected, atol=1e-10, rtol=0)
        assert np.abs(expected).max() > 1e-4  # a zero gradient would be estimated by anything


@pytest.mark.parametrize(("outcomes", "n", "set_size"), [(4, 6, 4), (5, 5, 3), (6, 4, 2), (7, 4, 3)])
@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if OBJECTIVES[name].closed_form])
def test_other_policies_and_group_sizes(objective, outcomes, n, set_size):
    policy = random_policy(outcomes, seed=outcomes + n, binary=True, sharpness=1.5)
    expected = analytic_gradient(objective, set_size, policy)
    np.testing.assert_allclose(expected_estimate(objective, set_size, n, policy), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(("objective", "gate"), SCORES)
def test_subset_mean_is_unbiased_for_the_objective(objective, gate):
    policy = random_policy(4, seed=3)
    policy = policy.passing() if gate == "passing" else policy
    outcomes, weights = policy.tuples(4)
    for set_size in range(OBJECTIVES[objective].smallest_set, 5):
        means = subset_mean(objective, set_size, gate=gate, **policy.arrays(outcomes))
        assert weights @ means == pytest.approx(objective_value(objective, set_size, policy, gate), abs=1e-12)


def test_missing_rewards_leave_the_estimator_unbiased():
    """A checker that fails on a third of the generations, whatever they are, only makes N smaller."""
    policy = random_policy(4, seed=5)
    outcomes, weights = policy.tuples(4)
    arrays = policy.arrays(outcomes)
    arrays["rewards"] = arrays["rewards"].copy()
    arrays["rewards"][:, 1] = np.nan
    advantages = set_advantages("coverage", 2, **arrays)
    assert np.all(advantages[:, 1] == 0.0)
    found = weights @ np.einsum("qn,qnm->qm", advantages, policy.scores_MM[outcomes])
    np.testing.assert_allclose(found, analytic_gradient("coverage", 2, policy), atol=1e-10, rtol=0)
