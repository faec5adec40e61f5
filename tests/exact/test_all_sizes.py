"""Every objective and gate × every group size to 6 × every set size × every baseline, over all groups of a policy.

Groups are summed as multisets with the number of their orders, which the first test allows: 7 outcomes and N = 6 are
117,649 tuples but 1,716 multisets.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from enumeration import ToyPolicy, gradient_estimates, random_policy, set_score

from polychromic.objective import OBJECTIVES, kernel_scores, set_advantages

SCORES = [(entry.name, gate) for entry in OBJECTIVES.values() for gate in entry.gate_rules]
BASELINES = ["none", "leave_one_out", "leave_one_out_minus_one", "fitted"]


@cache
def policy_for(outcomes: int, gate: str, *, binary: bool = False) -> ToyPolicy:
    policy = random_policy(outcomes, seed=outcomes, binary=binary)
    return replace(policy, gates_M=(np.arange(outcomes) % 3 > 0) * 1.0) if gate == "passing" else policy


@cache
def gradient(objective: str, set_size: int, policy: ToyPolicy, gate: str) -> np.ndarray:
    """∇J_K with respect to the logits, from the definition of f."""
    outcomes, weights = policy.multisets(set_size)
    scores = np.array([set_score(objective, tuple(row), policy, gate) for row in outcomes])
    return (weights * scores) @ policy.scores_MM[outcomes].sum(axis=1)


def mix(n: int) -> dict[int, float]:
    """Coefficients that are nobody's optimum, over every set size."""
    return {size: (-1.0) ** size * (0.3 + size) for size in range(n)}


def expected(objective, gate, policy, n, set_size, baseline) -> np.ndarray:
    outcomes, weights = policy.multisets(n)
    options = {"coefficients": mix(n)} if baseline == "fitted" else {}
    advantages = set_advantages(objective, set_size, gate=gate, baseline=baseline, **policy.arrays(outcomes), **options)
    return weights @ gradient_estimates(advantages, outcomes, policy)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize(("objective", "gate"), SCORES)
def test_advantages_move_with_their_generations(objective, gate, baseline):
    """Lets a multiset stand for all its orders."""
    policy = policy_for(5, gate)
    group = np.array([0, 3, 3, 1, 4, 0])
    options = {"coefficients": mix(6)} if baseline == "fitted" else {}
    for order in ([5, 4, 3, 2, 1, 0], [2, 0, 4, 1, 5, 3]):
        straight, shuffled = (
            set_advantages(objective, 3, gate=gate, baseline=baseline, **policy.arrays(one[None]), **options)
            for one in (group, group[order])
        )
        np.testing.assert_allclose(shuffled[0], straight[0][order], atol=1e-13)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
@pytest.mark.parametrize(("objective", "gate"), SCORES)
def test_the_expected_estimator_is_the_gradient(objective, gate, n):
    policy = policy_for(4, gate)
    for set_size in range(OBJECTIVES[objective].smallest_set, n + 1):
        exact = gradient(objective, set_size, policy, gate)
        if set_size > 1:  # a set of one has no diversity without a gate
            assert np.abs(exact).max() > 1e-4  # a zero gradient would be estimated by anything
        for baseline in BASELINES if set_size < n else set(BASELINES) - {"leave_one_out"}:
            found = expected(objective, gate, policy, n, set_size, baseline)
            np.testing.assert_allclose(found, exact, atol=1e-10, rtol=0, err_msg=f"K={set_size}, {baseline}")


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("objective", "gate"), [one for one in SCORES if OBJECTIVES[one[0]].closed_form])
def test_seven_outcomes_in_groups_of_six(objective, gate, binary):
    policy = policy_for(7, gate, binary=binary)
    exact = gradient(objective, 4, policy, gate)
    for baseline in BASELINES:
        found = expected(objective, gate, policy, 6, 4, baseline)
        np.testing.assert_allclose(found, exact, atol=1e-10, rtol=0, err_msg=baseline)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if not OBJECTIVES[name].closed_form])
def test_sampled_subsets_are_unbiased_for_every_draw(objective, baseline, monkeypatch):
    """Two sampled pairs in place of all six: whatever they are, they know nothing of the generations."""
    monkeypatch.setattr(kernel_scores, "MAX_SUBSETS", 3)
    monkeypatch.setattr(kernel_scores, "SAMPLED_SUBSETS", 2)
    policy, n = policy_for(4, "product"), 4
    outcomes, weights = policy.tuples(n)
    options = {"coefficients": mix(n)} if baseline == "fitted" else {}
    for seed in range(3):
        advantages = np.concatenate(
            [
                set_advantages(
                    objective,
                    2,
                    baseline=baseline,
                    generator=np.random.default_rng(seed),
                    **policy.arrays(row[None]),
                    **options,
                )
                for row in outcomes
            ]
        )
        found = weights @ gradient_estimates(advantages, outcomes, policy)
        np.testing.assert_allclose(found, gradient(objective, 2, policy, "product"), atol=1e-10, rtol=0)
