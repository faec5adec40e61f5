"""Token losses: values and gradients against direct formulas, exact expectations on a two-token policy, memory."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from polychromic.objective.losses import (
    chunked_token_logprobs,
    clipped_policy_gradient_loss,
    cross_entropy_loss,
    kl_to_reference,
    policy_gradient_loss,
)


def head_and_hidden(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 5, 8, generator=generator, dtype=dtype, requires_grad=True)
    head = torch.randn(11, 8, generator=generator, dtype=dtype, requires_grad=True)
    return hidden, head, torch.randint(0, 11, (3, 5), generator=generator)


@pytest.mark.parametrize("chunk", [None, 1, 4, 100])
def test_chunked_logprobs_and_their_gradients_are_the_log_softmax(chunk):
    hidden, head, ids = head_and_hidden()
    found = chunked_token_logprobs(hidden, head, ids, temperature=0.7, chunk_tokens=chunk)
    direct = torch.log_softmax(hidden @ head.T / 0.7, -1).gather(-1, ids[..., None])[..., 0]
    torch.testing.assert_close(found, direct)
    weights = torch.randn_like(direct)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), (hidden, head)),
        torch.autograd.grad((direct * weights).sum(), (hidden, head)),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_gradcheck():
    hidden, head, ids = head_and_hidden()
    assert torch.autograd.gradcheck(lambda h, w: chunked_token_logprobs(h, w, ids, chunk_tokens=4), (hidden, head))


def test_a_frozen_head_gets_no_gradient_and_low_precision_gives_float32():
    hidden, head, ids = head_and_hidden(torch.bfloat16)
    head.requires_grad_(requires_grad=False)
    found = chunked_token_logprobs(hidden, head, ids)
    assert found.dtype == torch.float32
    found.sum().backward()
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16
    assert head.grad is None


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation, forward or backward, has made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_operation_makes_more_logits_than_a_chunk():
    """B·T·V is 24,000 here, a chunk of logits 3,000; the largest tensor of all is the head's own gradient, V·D."""
    hidden = torch.randn(2, 12, 4, requires_grad=True)
    head = torch.randn(1000, 4, requires_grad=True)
    ids = torch.randint(0, 1000, (2, 12))
    with LargestTensor() as chunked:
        chunked_token_logprobs(hidden, head, ids, chunk_tokens=3).sum().backward()
    assert chunked.elements == 4000
    with LargestTensor() as whole:
        torch.log_softmax(hidden @ head.T, -1).gather(-1, ids[..., None]).sum().backward()
    assert whole.elements == 24000


def test_shapes_that_disagree_are_named():
    hidden, head, ids = head_and_hidden()
    with pytest.raises(ValueError, match=r"hidden_BTD is \(3, 5, 8\), token_ids_BT \(3, 4\)"):
        chunked_token_logprobs(hidden, head, ids[:, :4])
    with pytest.raises(ValueError, match=r"temperature is 0.0, expected more than 0"):
        chunked_token_logprobs(hidden, head, ids, temperature=0.0)
    with pytest.raises(ValueError, match="mask_BT"):
        cross_entropy_loss(torch.zeros(2, 3), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="advantages_B is \\(2, 2\\), expected one for each of 2"):
        policy_gradient_loss(torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2, 2))
    one_row, rows = torch.zeros(1, 3), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"old_logprobs_BT is \(1, 3\), expected \(2, 3\)"):
        clipped_policy_gradient_loss(rows, one_row, torch.ones(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"reference_logprobs_BT is \(1, 3\), expected \(2, 3\)"):
        kl_to_reference(rows, one_row, torch.ones(2, 3))


LOGPROBS = torch.tensor([[-0.5, -1.0, -2.0], [-0.25, -3.0, float("-inf")]])
MASK = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])


def test_literal_values():
    advantages = torch.tensor([2.0, -1.0])
    assert policy_gradient_loss(LOGPROBS, MASK, advantages).item() == pytest.approx(2 * 3.5 - 3.25)
    assert policy_gradient_loss(LOGPROBS, MASK, advantages, length_normalized=True).item() == pytest.approx(
        2 * 3.5 / 3 - 3.25 / 2
    )
    assert cross_entropy_loss(LOGPROBS, MASK).item() == pytest.approx(6.75)


def test_the_ratio_is_clipped_further_up_than_down():
    old = torch.zeros(1, 2)
    logprobs = torch.log(torch.tensor([[1.5, 0.5]]))
    mask = torch.ones(1, 2)

    def loss(advantage):
        return clipped_policy_gradient_loss(logprobs, old, mask, torch.tensor([advantage])).item()

    assert loss(1.0) == pytest.approx(-(1.28 + 0.5))
    assert loss(-1.0) == pytest.approx(1.5 + 0.8)


def test_at_the_sampling_policy_the_clipped_gradient_is_the_policy_gradient():
    logprobs = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    mask = (torch.arange(6) < torch.tensor([[6], [3], [1], [4]])).double()
    advantages = torch.randn(4, dtype=torch.float64)
    clipped = clipped_policy_gradient_loss(logprobs, logprobs.detach(), mask, advantages)
    plain = policy_gradient_loss(logprobs, mask, advantages)
    torch.testing.assert_close(torch.autograd.grad(clipped, logprobs)[0], torch.autograd.grad(plain, logprobs)[0])


@pytest.fixture
def two_token_policies():
    """Logits of the first token [V] and of the second given the first [V, V], for a policy and its reference."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return [draw(3).requires_grad_(), draw(3, 3).requires_grad_()], [draw(3), draw(3, 3)]


def token_logprobs(logits, sequences):
    first, second = (one.log_softmax(-1) for one in logits)
    return torch.stack([torch.stack([first[a], second[a, b]]) for a, b in sequences])


def test_kl_value_and_gradient_are_unbiased(two_token_policies):
    """Expectation over all nine sequences against KL(π ‖ π_ref) and its gradient by autograd."""
    policy, reference = two_token_policies
    sequences = list(itertools.product(range(3), repeat=2))
    logprobs = token_logprobs(policy, sequences)
    reference_logprobs = token_logprobs(reference, sequences)
    weights = logprobs.sum(-1).exp()
    exact = (weights * (logprobs - reference_logprobs).sum(-1)).sum()
    mask = torch.ones(1, 2)
    losses = [kl_to_reference(logprobs[[q]], reference_logprobs[[q]], mask) for q in range(len(sequences))]
    expected_value = sum(w.detach() * loss.detach() for w, loss in zip(weights, losses, strict=True))
    torch.testing.assert_close(expected_value, exact.detach())
    assert min(loss.item() for loss in losses) >= 0
    expected = sum(w.detach() * loss for w, loss in zip(weights, losses, strict=True))
    for found, gradient in zip(
        torch.autograd.grad(expected, policy, retain_graph=True),
        torch.autograd.grad(exact, policy),
        strict=True,
    ):
        torch.testing.assert_close(found, gradient)


def test_backpropagating_k3_itself_would_be_biased(two_token_policies):
    policy, reference = two_token_policies
    sequences = list(itertools.product(range(3), repeat=2))
    logprobs, reference_logprobs = token_logprobs(policy, sequences), token_logprobs(reference, sequences)
    weights = logprobs.sum(-1).exp()
    delta = logprobs - reference_logprobs
    exact = torch.autograd.grad((weights * delta.sum(-1)).sum(), policy, retain_graph=True)[0]
    k3 = (torch.exp(-delta) - 1 + delta).sum(-1)
    naive = torch.autograd.grad((weights.detach() * k3).sum(), policy)[0]
    assert (naive - exact).norm() > 0.1 * exact.norm()


def test_kl_ignores_padding_and_vanishes_at_the_reference():
    logprobs = LOGPROBS.clone().requires_grad_()
    loss = kl_to_reference(logprobs, LOGPROBS, MASK)
    assert loss.item() == 0.0
    assert torch.autograd.grad(loss, logprobs)[0].abs().max() == 0.0
