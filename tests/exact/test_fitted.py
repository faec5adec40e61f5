"""The fitted baseline is unbiased for any coefficients that the group had no part in, and for cross-fitted ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
from enumeration import (
    analytic_gradient,
    expected_estimate,
    gradient_estimates,
    random_policy,
    relative_variance,
)

from polychromic.objective import (
    OBJECTIVES,
    FittedBaseline,
    TrackRecord,
    baseline_equations,
    cross_fitted_coefficients,
    set_advantages,
    softmax_gram,
)

SCORES = [(entry.name, gate) for entry in OBJECTIVES.values() for gate in entry.gate_rules]


@pytest.mark.parametrize("coefficients", [{0: 0.3, 1: -2.0, 2: 0.7, 3: 5.0}, {3: 1e3}, {}])
@pytest.mark.parametrize(("objective", "gate"), SCORES)
def test_unbiased_for_any_fixed_coefficients(objective, gate, coefficients):
    policy = random_policy(4, seed=11)
    policy = policy.passing() if gate == "passing" else policy
    for set_size in (2, 4):
        found = expected_estimate(
            objective, set_size, 4, policy, gate=gate, baseline="fitted", coefficients=coefficients
        )
        np.testing.assert_allclose(found, analytic_gradient(objective, set_size, policy, gate), atol=1e-10, rtol=0)


def softmax_score_gram(policy, outcomes_QN):
    probabilities = policy.probabilities_M
    return softmax_gram(probabilities[outcomes_QN], outcomes_QN, float(probabilities @ probabilities))


def test_softmax_gram_is_the_inner_product_of_the_scores():
    policy = random_policy(5, seed=4)
    outcomes, _ = policy.tuples(2)
    scores = policy.scores_MM[outcomes]
    np.testing.assert_allclose(softmax_score_gram(policy, outcomes), scores @ scores.swapaxes(1, 2), atol=1e-14)


@pytest.mark.parametrize("objective", ["pass_at_k", "polychromic"])
def test_two_prompts_cross_fitted_are_unbiased(objective):
    """Sums over all pairs of groups of two prompts: each is fitted on the other, and on nothing of its own."""
    n, set_size = 3, 2
    prompts = [random_policy(3, seed=21), random_policy(3, seed=22, sharpness=2.0)]
    outcomes, weights = prompts[0].tuples(n)
    q = len(outcomes)
    weights_QQ = np.outer(weights, prompts[1].tuples(n)[1])
    equations = [
        baseline_equations(
            objective,
            set_size,
            score_gram=softmax_score_gram(policy, outcomes),
            **policy.arrays(outcomes),
        )
        for policy in prompts
    ]
    for p, policy in enumerate(prompts):
        other = equations[1 - p]
        total = np.zeros(3)
        for row in range(q):
            pair = replace(
                other,
                matrix_PMM=np.stack([equations[p].matrix_PMM[row], other.matrix_PMM[row]]),
                target_PM=np.stack([equations[p].target_PM[row], other.target_PM[row]]),
            )
            mix = {size: column[0] for size, column in cross_fitted_coefficients(pair).items()}
            advantages = set_advantages(
                objective, set_size, baseline="fitted", coefficients=mix, **policy.arrays(outcomes)
            )
            pair_weights = weights_QQ[:, row] if p == 0 else weights_QQ[row]
            total += pair_weights @ gradient_estimates(advantages, outcomes, policy)
        np.testing.assert_allclose(total, analytic_gradient(objective, set_size, policy), atol=1e-10, rtol=0)


def test_coefficients_fitted_on_the_group_itself_are_biased():
    """Why cross-fitting: the same equations, solved for the very group they come from."""
    policy, n, set_size = random_policy(4, seed=11), 4, 2
    outcomes, weights = policy.tuples(n)
    equations = baseline_equations("coverage", set_size, **policy.arrays(outcomes))
    total = np.zeros(4)
    for row in range(len(outcomes)):
        twice = [row, row]
        own = replace(equations, matrix_PMM=equations.matrix_PMM[twice], target_PM=equations.target_PM[twice])
        mix = {size: column[0] for size, column in cross_fitted_coefficients(own).items()}
        group = {name: values[[row]] for name, values in policy.arrays(outcomes).items()}
        advantages = set_advantages("coverage", set_size, baseline="fitted", coefficients=mix, **group)
        total += weights[row] * gradient_estimates(advantages, outcomes[[row]], policy)[0]
    assert np.abs(total - analytic_gradient("coverage", set_size, policy)).max() > 1e-3


@pytest.mark.parametrize("objective", ["reward", "pass_at_k", "coverage", "polychromic"])
def test_the_limit_of_much_data_has_the_least_variance_of_any_mix(objective):
    """Fitted on every group with its probability, no neighbouring mix and no published baseline does better."""
    policy, n, set_size = random_policy(4, seed=31, binary=True), 5, 3
    outcomes, weights = policy.tuples(n)
    arrays = policy.arrays(outcomes)
    equations = baseline_equations(objective, set_size, score_gram=softmax_score_gram(policy, outcomes), **arrays)
    with_an_empty_one = np.concatenate([[0.0], weights])
    everything = [0, *range(len(weights))]
    weighted = replace(
        equations,
        matrix_PMM=equations.matrix_PMM[everything] * with_an_empty_one[:, None, None],
        target_PM=equations.target_PM[everything] * with_an_empty_one[:, None],
    )
    fitted = cross_fitted_coefficients(weighted, prior_groups=1e-6)
    mix = {size: column[0] for size, column in fitted.items()}

    def variance(**options) -> float:
        advantages = set_advantages(objective, set_size, **arrays, **options)
        return relative_variance(gradient_estimates(advantages, outcomes, policy), weights)

    least = variance(baseline="fitted", coefficients=mix)
    for baseline in ("none", "leave_one_out", "leave_one_out_minus_one"):
        assert least <= variance(baseline=baseline) + 1e-9
    for size, value in mix.items():
        for step in (-0.05, 0.05):
            assert least <= variance(baseline="fitted", coefficients={**mix, size: value + step}) + 1e-6


def test_without_coefficients_it_is_leave_one_out():
    policy = random_policy(4, seed=1)
    arrays = policy.arrays(policy.tuples(4)[0])
    np.testing.assert_allclose(
        set_advantages("coverage", 3, baseline="fitted", **arrays),
        set_advantages("coverage", 3, baseline="leave_one_out", **arrays),
        atol=1e-15,
    )


def batches_of(policy, correct, n_batches, rng, *, objective="distance", n=8, set_size=4, set_sizes=None):
    """Equations of batches of 8 groups that the policy sampled; every outcome is at distance 1 from the others."""
    rewards = np.isin(np.arange(len(policy)), correct).astype(float)
    for _ in range(n_batches):
        outcomes = rng.choice(len(policy), (8, n), p=policy)
        yield baseline_equations(
            objective,
            set_size,
            rewards=rewards[outcomes],
            clusters=outcomes,
            distances=(outcomes[:, :, None] != outcomes[:, None, :]).astype(float),
            gates=rewards[outcomes],
            score_gram=softmax_gram(policy[outcomes], outcomes, float(policy @ policy)),
            set_sizes=set_sizes,
        )


MIXED = np.array([0.30, 0.25, 0.15, 0.12, 0.10, 0.08])
COLLAPSED = np.array([0.85, 0.05, 0.04, 0.03, 0.02, 0.01])


def after(batches, **options):
    fit = FittedBaseline(**options)
    for batch in batches:
        fit = fit.update(batch)
    return fit


def test_it_starts_as_leave_one_out_and_its_state_survives_json():
    assert FittedBaseline().coefficients is None
    fits = [after(batches_of(MIXED, [0, 1, 2], n, np.random.default_rng(5))) for n in (1, 2, 5)]
    leave_one_out = {size: float(size == 4) for size in range(8)}
    assert fits[0].coefficients == leave_one_out, "no fit has met a later batch yet"
    assert fits[1].coefficients == leave_one_out, "one later batch is as likely luck"
    assert fits[2].coefficients != leave_one_out
    for fit in fits:
        again = FittedBaseline.from_state(json.loads(json.dumps(fit.to_state())))
        assert again == fit
        assert again.coefficients == fit.coefficients
    stubborn = after(batches_of(MIXED, [0, 1, 2], 5, np.random.default_rng(5)), prior_groups=1e12)
    assert stubborn.coefficients == pytest.approx(leave_one_out, abs=1e-6)


def test_the_record_of_earlier_fits_decides_how_far_a_fit_is_followed():
    """A plain fit, where signal is rare, lost a quarter to leave_one_out; where there is much it is followed.

    Without the constant, which pays even there.
    """

    def trust(policy, correct, seed):
        rng = np.random.default_rng(seed)
        return after(batches_of(policy, correct, 16, rng, set_sizes=range(1, 8))).record.trust

    trusted = [trust(MIXED, [0, 1, 2], seed) for seed in range(5)]
    doubted = [trust(COLLAPSED, [1, 3, 5], seed) for seed in range(20)]
    assert min(trusted) > 0.8
    assert np.mean(doubted) < 0.25


def test_the_constant_serves_where_all_others_fail():
    """Then every leave-one-out mean is 0, and without a constant nothing is taken off the one that passes."""
    fit = after(batches_of(COLLAPSED, [1, 3, 5], 32, np.random.default_rng(0), objective="pass_at_k"))
    assert fit.coefficients is not None
    assert fit.coefficients[0] > 0.02
    alone = {"rewards": [1.0, *[0.0] * 7], "baseline": "fitted"}
    with_constant = set_advantages("pass_at_k", 4, coefficients=fit.coefficients, **alone)
    assert with_constant[0] < set_advantages("pass_at_k", 4, rewards=alone["rewards"])[0]


def test_trust_is_the_step_that_would_have_paid():
    prior, direction = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    matrix = np.diag([2.0, 1.0])

    def record(slopes):
        found = TrackRecord()
        for slope in slopes:
            found = found.after(direction, prior, matrix, np.array([slope, 1.0]), decay=1.0)
        return found

    assert TrackRecord().trust == 0.0
    assert record([3.0] * 9).trust == 1.0  # best step 3/2, savings 4 each: t = 3
    assert record([1.5] * 9).trust == pytest.approx(0.75)  # best step 3/4, savings 1 each: t = 3
    assert record([1.5] * 2).trust == pytest.approx(0.75 * (2**0.5 - 1))  # the same, seen twice: t = √2
    assert record([1.5]).trust == 0.0  # and once: t = 1, as likely noise
    assert record([0.9] * 9).trust == 0.0  # going all the way would have cost 0.2 each


def test_old_batches_are_forgotten():
    first, second = batches_of(MIXED, [0, 1, 2], 2, np.random.default_rng(6))
    forgetful = FittedBaseline(decay=0.0).update(first).update(second)
    assert forgetful.matrix == FittedBaseline().update(second).matrix
    assert FittedBaseline().update(first).update(second).matrix != forgetful.matrix
