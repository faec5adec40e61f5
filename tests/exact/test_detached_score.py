"""The bug this project comes from: a diversity score turned into a float trains nothing, at any weight."""

import pytest
import torch

from polychromic.objective import gradient_share, set_advantages
from polychromic.objective.losses import cross_entropy_loss, policy_gradient_loss

WEIGHTS = [0.3, 1.0, 2.0, 100.0]


@pytest.fixture
def setup():
    logits = torch.randn(6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    return logits, torch.tensor([[0], [2], [2]]), torch.tensor([0, 1, 1, 3, 5])


def quality_loss(logits, labels):
    return cross_entropy_loss(logits.log_softmax(-1)[labels], torch.ones(labels.shape))


def distances_of(samples):
    return (samples[:, None] != samples[None, :]).double()


def gradient(loss, logits):
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


@pytest.mark.parametrize("weight", WEIGHTS)
def test_subtracting_a_detached_score_leaves_the_gradient_bit_identical(setup, weight):
    logits, labels, samples = setup
    with torch.inference_mode():
        score = float(distances_of(samples).mean())
    assert score > 0
    combined = quality_loss(logits, labels) - weight * score
    assert combined.item() != quality_loss(logits, labels).item()  # the loss moves, and so does its "share"
    assert torch.equal(gradient(combined, logits), gradient(quality_loss(logits, labels), logits))
    assert gradient_share(quality_norm=1.0, diversity_norm=0.0) == 0.0


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_score_function_term_moves_it(setup, weight):
    logits, labels, samples = setup
    advantages = set_advantages("distance", 2, distances=distances_of(samples))
    logprobs = logits.log_softmax(-1)[samples][:, None]
    diversity = policy_gradient_loss(logprobs, torch.ones_like(logprobs), advantages.float())
    combined = quality_loss(logits, labels) + weight * diversity
    difference = gradient(combined, logits) - gradient(quality_loss(logits, labels), logits)
    torch.testing.assert_close(difference, weight * gradient(diversity, logits), rtol=1e-4, atol=1e-5)
    assert difference.norm() > 0.01 * weight
