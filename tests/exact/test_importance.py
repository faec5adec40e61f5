"""The importance correction by enumeration: expectations over what another policy draws, through the real loss."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from enumeration import analytic_gradient, random_policy, set_score

from polychromic.objective import set_advantages
from polychromic.objective.importance import importance_weights
from polychromic.objective.losses import kl_to_reference, policy_gradient_loss

N = 4
POLICY = random_policy(4, seed=1)
SAMPLER = replace(POLICY, probabilities_M=random_policy(4, seed=2).probabilities_M)
"""Same outcomes, other probabilities: ratios from 0.3 to 3."""


def corrected_gradient(objective, set_size, *, level, cap=math.inf, baseline="leave_one_out"):
    """E over every group of N that SAMPLER draws, of minus the gradient of the loss with respect to POLICY's logits."""
    outcomes_QN, probability_Q = SAMPLER.tuples(N)
    advantages_QN = set_advantages(objective, set_size, baseline=baseline, **POLICY.arrays(outcomes_QN))
    logits_M = torch.tensor(np.log(POLICY.probabilities_M), requires_grad=True)
    chosen_B1 = torch.tensor(outcomes_QN.reshape(-1, 1))
    logprobs_B1 = torch.log_softmax(logits_M, 0)[chosen_B1]
    mask_B1 = torch.ones_like(logprobs_B1)
    weights_B1 = None
    if level is not None:
        sampled_B1 = torch.tensor(np.log(SAMPLER.probabilities_M))[chosen_B1]
        options = {"level": level, "cap": cap, "group_size": N}
        weights_B1 = importance_weights(logprobs_B1, sampled_B1, mask_B1, **options)
    advantages_B = torch.tensor((advantages_QN * probability_Q[:, None]).ravel())
    policy_gradient_loss(logprobs_B1, mask_B1, advantages_B, weights_BT=weights_B1).backward()
    return -logits_M.grad.numpy()


def gradient_with_the_samplers_set_mates(objective, set_size):
    """Σ over tuples of the gradient through one member alone, its K − 1 mates drawn by SAMPLER; K times that."""
    outcomes, _ = POLICY.tuples(set_size)
    mates = SAMPLER.probabilities_M[outcomes[:, 1:]].prod(axis=1)
    weights = POLICY.probabilities_M[outcomes[:, 0]] * mates
    scores = np.array([set_score(objective, tuple(row), POLICY) for row in outcomes])
    return set_size * (weights * scores) @ POLICY.scores_MM[outcomes[:, 0]]


@pytest.mark.parametrize("level", ["token", "generation", "group"])
@pytest.mark.parametrize("baseline", ["none", "leave_one_out", "leave_one_out_minus_one"])
def test_the_gradient_of_the_mean_reward_is_that_of_the_policy(level, baseline):
    expected = analytic_gradient("reward", 1, POLICY)
    found = corrected_gradient("reward", 1, level=level, baseline=baseline)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    uncorrected = corrected_gradient("reward", 1, level=None, baseline=baseline)
    assert np.abs(uncorrected - expected).max() > 1e-2


@pytest.mark.parametrize("objective", ["coverage", "pass_at_k", "distance", "polychromic"])
def test_the_level_of_groups_is_exact_for_set_scores(objective):
    for set_size in (2, 3):
        expected = analytic_gradient(objective, set_size, POLICY)
        found = corrected_gradient(objective, set_size, level="group")
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("objective", ["coverage", "pass_at_k", "distance", "polychromic"])
def test_the_level_of_generations_leaves_set_mates_to_the_sampler(objective):
    found = corrected_gradient(objective, 3, level="generation")
    np.testing.assert_allclose(found, gradient_with_the_samplers_set_mates(objective, 3), atol=1e-12)
    assert np.abs(found - analytic_gradient(objective, 3, POLICY)).max() > 1e-3


def test_a_cap_is_the_stated_truncation():
    """At cap c the expectation is Σ_y min(π, c μ) …: written out, for the mean reward without a baseline."""
    cap = 1.5
    found = corrected_gradient("reward", 1, level="generation", cap=cap, baseline="none")
    kept_M = np.minimum(POLICY.probabilities_M, cap * SAMPLER.probabilities_M)
    expected = (kept_M * POLICY.rewards_M) @ POLICY.scores_MM
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.any(kept_M < POLICY.probabilities_M)
    at_one = corrected_gradient("reward", 1, level="generation", cap=1.0, baseline="none")
    assert np.linalg.norm(at_one - expected) > 1e-2


def two_token_policies():
    """Log-probabilities [9, 2] of all sequences of two of three tokens, of π (a function of logits), μ and a third."""
    generator = torch.Generator().manual_seed(0)
    first_V, second_VV = (torch.randn(shape, generator=generator).double() for shape in ((3,), (3, 3)))
    logits = torch.cat([first_V, second_VV.flatten()]).requires_grad_()
    sequences = list(itertools.product(range(3), repeat=2))

    def logprobs(values):
        first, second = values[:3].log_softmax(0), values[3:].view(3, 3).log_softmax(1)
        return torch.stack([torch.stack([first[a], second[a, b]]) for a, b in sequences])

    others = [logits.detach() + 0.5 * torch.randn(12, generator=generator).double() for _ in range(2)]
    return logits, logprobs(logits), *map(logprobs, others)


def test_over_several_tokens_generations_are_exact_and_tokens_are_not():
    logits, logprobs_BT, sampled_BT, _ = two_token_policies()
    rewards_B = torch.rand(9, generator=torch.Generator().manual_seed(1)).double()
    mask_BT = torch.ones(9, 2)
    value = (logprobs_BT.sum(1).exp() * rewards_B).sum()
    [expected] = torch.autograd.grad(value, logits, retain_graph=True)
    found = {}
    for level in ("token", "generation"):
        weights_BT = importance_weights(logprobs_BT, sampled_BT, mask_BT, level=level, cap=math.inf)
        loss = policy_gradient_loss(logprobs_BT, mask_BT, rewards_B * sampled_BT.sum(1).exp(), weights_BT=weights_BT)
        [gradient] = torch.autograd.grad(-loss, logits, retain_graph=True)
        found[level] = gradient
    torch.testing.assert_close(found["generation"], expected, atol=1e-12, rtol=0)
    assert (found["token"] - expected).abs().max() > 1e-2


def test_the_kl_of_another_policys_generations_is_the_kl_of_the_policy():
    logits, logprobs_BT, sampled_BT, reference_BT = two_token_policies()
    mask_BT = torch.ones(9, 2)
    weights_BT = importance_weights(logprobs_BT, sampled_BT, mask_BT, level="generation", cap=math.inf)
    kl = (logprobs_BT.sum(1).exp() * (logprobs_BT - reference_BT).sum(1)).sum()
    [expected] = torch.autograd.grad(kl, logits, retain_graph=True)
    probability_B1 = sampled_BT.sum(1).exp()[:, None]
    estimate = kl_to_reference(logprobs_BT, reference_BT, mask_BT, weights_BT=weights_BT * probability_B1)
    torch.testing.assert_close(estimate, kl, atol=1e-12, rtol=0)
    [found] = torch.autograd.grad(estimate, logits)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_padding_may_hold_anything():
    logprobs_BT = torch.tensor([[-1.0, -math.inf], [-1.0, -2.0]], requires_grad=True)
    sampled_BT = torch.tensor([[-1.5, -math.inf], [-1.0, -2.0]])
    mask_BT = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    weights_BT = importance_weights(logprobs_BT, sampled_BT, mask_BT, level="generation", cap=10.0)
    torch.testing.assert_close(weights_BT[0], torch.full((2,), math.exp(0.5)))
    policy_gradient_loss(logprobs_BT, mask_BT, torch.ones(2), weights_BT=weights_BT).backward()
    assert torch.isfinite(logprobs_BT.grad).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cap": 0.5}, "cap is 0.5, expected at least 1"),
        ({"level": "sequence"}, "level is 'sequence', expected one of token, generation, group"),
        ({"level": "group", "group_size": 2}, "3 generations are no whole groups of 2"),
        ({"sampled_logprobs_BT": torch.zeros(1, 2)}, r"expected the same \[B, T\]"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    keys = {"sampled_logprobs_BT": torch.zeros(3, 2), "level": "token", "cap": 2.0, **change}
    with pytest.raises(ValueError, match=message):
        importance_weights(torch.zeros(3, 2), mask_BT=torch.ones(3, 2), **keys)
