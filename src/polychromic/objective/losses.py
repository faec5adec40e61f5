"""Computes token losses from log-probabilities [B, T] of B generations of T tokens, padded, with a 0/1 mask.

Every loss is a *sum* over the generations (and tokens) it is given, so that micro-batches add up. Divide by what
the average is over: the number of prompts for a policy gradient (advantages already carry 1/N), the number of
tokens for cross-entropy, the number of generations for the KL.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

LOGITS_AT_ONCE = 1 << 25
"""Float32 logits in memory at a time: 128 MiB, and as much again for their gradient."""


def chunked_token_logprobs(
    hidden_BTD: torch.Tensor,
    head_weight_VD: torch.Tensor,
    token_ids_BT: torch.Tensor,
    *,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> torch.Tensor:
    """Returns [B, T] float32: log softmax(head_weight · hidden / temperature) at `token_ids`.

    hidden_BTD: hidden states that predict the tokens. Logits are made for `chunk_tokens` tokens at a time (by
    default as many as fit 2^25 logits) and made again in the backward pass, so that [B, T, V] never exists whole.
    Gradients reach `hidden_BTD`, and `head_weight_VD` where it is trained; second derivatives are not offered.
    Raises ValueError where shapes disagree or the temperature is not positive.
    """
    if hidden_BTD.shape[:-1] != token_ids_BT.shape or hidden_BTD.shape[-1] != head_weight_VD.shape[-1]:
        raise ValueError(
            f"hidden_BTD is {tuple(hidden_BTD.shape)}, token_ids_BT {tuple(token_ids_BT.shape)} and head_weight_VD "
            f"{tuple(head_weight_VD.shape)}: expected [B, T, D], [B, T] and [V, D]"
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected more than 0: greedy decoding has no gradient")
    chunk = chunk_tokens or max(1, LOGITS_AT_ONCE // head_weight_VD.shape[0])
    logprobs_M = _TokenLogprobs.apply(
        hidden_BTD.flatten(0, -2), head_weight_VD, token_ids_BT.flatten(), temperature, chunk
    )
    return logprobs_M.view(token_ids_BT.shape)  # type: ignore[union-attr]


class _TokenLogprobs(torch.autograd.Function):
    """Keeps only the normaliser of each of M tokens between forward and backward."""

    @staticmethod
    def forward(ctx: Any, hidden_MD, weight_VD, token_ids_M, temperature, chunk):
        logprobs, normalisers = [], []
        for hidden, ids in zip(hidden_MD.split(chunk), token_ids_M.split(chunk), strict=True):
            logits = _logits(hidden, weight_VD, temperature)
            normaliser = logits.logsumexp(dim=-1)
            logprobs.append(logits.gather(-1, ids[:, None])[:, 0] - normaliser)
            normalisers.append(normaliser)
        ctx.save_for_backward(hidden_MD, weight_VD, token_ids_M, torch.cat(normalisers))
        ctx.temperature, ctx.chunk = temperature, chunk
        return torch.cat(logprobs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_M):  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden_MD, weight_VD, token_ids_M, normaliser_M = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden_MD) if wants_hidden else None
        # Chunks add up in float32 or better, whatever the weights are kept in.
        grad_weight = torch.zeros_like(weight_VD, dtype=normaliser_M.dtype) if wants_weight else None
        for start in range(0, len(hidden_MD), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            grad_logits = _logits(hidden_MD[rows], weight_VD, ctx.temperature)
            # d logprob / d logits = onehot − softmax
            grad_logits.sub_(normaliser_M[rows, None]).exp_().neg_()
            ids = token_ids_M[rows, None]
            grad_logits.scatter_add_(-1, ids, torch.ones_like(ids, dtype=grad_logits.dtype))
            grad_logits.mul_(gradient_M[rows, None] / ctx.temperature)
            if grad_hidden is not None:
                grad_hidden[rows] = grad_logits.to(weight_VD.dtype) @ weight_VD
            if grad_weight is not None:
                grad_weight += grad_logits.T @ hidden_MD[rows].to(grad_logits.dtype)
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight_VD.dtype), None, None, None


def _logits(hidden_MD: torch.Tensor, weight_VD: torch.Tensor, temperature: float) -> torch.Tensor:
    """Returns [M, V] at least float32."""
    logits = hidden_MD.to(weight_VD.dtype) @ weight_VD.T
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).div_(temperature)


def policy_gradient_loss(
    logprobs_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    advantages_B: torch.Tensor,
    *,
    weights_BT: torch.Tensor | None = None,
    length_normalized: bool = False,
) -> torch.Tensor:
    """Returns −Σ_B A_b Σ_T log π(y_bt | y_b,<t): its gradient is −Σ_i A_i ∇log π(y_i), the score-function estimate.

    Divide by the number of prompts for the gradient of the mean objective.

    weights_BT: of tokens that another policy drew (`importance_weights`); none where the policy itself did.

    length_normalized: the mean over a generation's tokens in place of the sum (GRPO, arXiv:2402.03300). Biased:
        a token of a long generation counts less than one of a short one, so that long failures are punished too
        little and lengths drift (Dr. GRPO, arXiv:2503.20783). Offered for comparison.
    """
    _check_shapes(logprobs_BT, mask_BT, advantages_B)
    if weights_BT is not None:
        _check_same("weights_BT", weights_BT, logprobs_BT)
        logprobs_BT = logprobs_BT * weights_BT.detach()
    return -(advantages_B.detach() * _over_tokens(logprobs_BT, mask_BT, length_normalized)).sum()


def clipped_policy_gradient_loss(
    logprobs_BT: torch.Tensor,
    old_logprobs_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    advantages_B: torch.Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    length_normalized: bool = False,
) -> torch.Tensor:
    """PPO's clipped surrogate for further updates on one batch (arXiv:1707.06347, eq. 7), summed as above.

    With ρ = π/π_old of a token: −Σ min(ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A). The wider upper bound lets
    rare tokens rise (DAPO, arXiv:2503.14476, eq. 10). Where π = π_old its gradient is `policy_gradient_loss`'s;
    later updates are biased, by the clip and because ρ of one token ignores how the tokens before it shifted.
    """
    _check_shapes(logprobs_BT, mask_BT, advantages_B)
    _check_same("old_logprobs_BT", old_logprobs_BT, logprobs_BT)
    # Padding may hold anything, and exp(inf − inf) would turn the masked sum into nan.
    difference_BT = (logprobs_BT - old_logprobs_BT.detach()).masked_fill(mask_BT == 0, 0.0)
    ratio_BT = difference_BT.exp()
    advantages_B1 = advantages_B.detach()[:, None]
    clipped_BT = ratio_BT.clamp(1.0 - clip_low, 1.0 + clip_high)
    surrogate_BT = torch.minimum(ratio_BT * advantages_B1, clipped_BT * advantages_B1)
    return -_over_tokens(surrogate_BT, mask_BT, length_normalized).sum()


def cross_entropy_loss(logprobs_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Returns −Σ log-probability of the label tokens, in nats. Divide by the batch's `mask_BT.sum()` for the mean."""
    _check_shapes(logprobs_BT, mask_BT)
    return -_over_tokens(logprobs_BT, mask_BT, length_normalized=False).sum()


def kl_to_reference(
    logprobs_BT: torch.Tensor,
    reference_logprobs_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    weights_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns Σ_B estimate of KL(π ‖ π_ref) of whole generations sampled from π. Divide by the number of generations.

    weights_BT: of tokens that another policy drew (`importance_weights`); none where π itself did.

    Value: Σ_T exp(−δ) − 1 + δ with δ = log π − log π_ref of the sampled token; unbiased and never negative
    ("k3", Schulman 2020, http://joschu.net/blog/kl-approx.html).
    Gradient: not k3's own, whose expectation is the gradient of KL(π_ref ‖ π) token by token (Tang & Munos,
    arXiv:2506.09477), but Σ_T (δ_t + Σ_{s>t} k3_s) ∇log π(y_t): the score-function gradient of KL(π ‖ π_ref), in
    which each token answers for its own δ and, through the low-variance k3, for all that follow it. Unbiased.
    """
    _check_shapes(logprobs_BT, mask_BT)
    _check_same("reference_logprobs_BT", reference_logprobs_BT, logprobs_BT)
    with torch.no_grad():
        delta_BT = (logprobs_BT - reference_logprobs_BT).masked_fill(mask_BT == 0, 0.0)
        k3_BT = torch.expm1(-delta_BT) + delta_BT
        following_BT = _sums_to_the_end(k3_BT) - k3_BT
        credit_BT = delta_BT + following_BT
        if weights_BT is not None:
            _check_same("weights_BT", weights_BT, logprobs_BT)
            k3_BT, credit_BT = k3_BT * weights_BT, credit_BT * weights_BT
    surrogate = _over_tokens(logprobs_BT * credit_BT, mask_BT, length_normalized=False).sum()
    return k3_BT.sum() + surrogate - surrogate.detach()


def _sums_to_the_end(values_BT: torch.Tensor) -> torch.Tensor:
    """Returns for each token the sum of its value and of all values behind it.

    By shifted additions, log₂ T of them: torch has no cumulative sum on CUDA that adds in one order.
    """
    sums_BT, shift = values_BT, 1
    while shift < values_BT.shape[-1]:
        sums_BT = sums_BT + torch.nn.functional.pad(sums_BT[:, shift:], (0, shift))
        shift *= 2
    return sums_BT


def _over_tokens(values_BT: torch.Tensor, mask_BT: torch.Tensor, length_normalized: bool) -> torch.Tensor:
    """Sums (or averages) over the real tokens; padding is filled, not multiplied, so that an inf there does no harm."""
    total_B = values_BT.masked_fill(mask_BT == 0, 0.0).sum(dim=-1)
    return total_B / mask_BT.sum(dim=-1).clamp(min=1) if length_normalized else total_B


def _check_shapes(logprobs_BT: torch.Tensor, mask_BT: torch.Tensor, advantages_B: torch.Tensor | None = None) -> None:
    if logprobs_BT.ndim != 2 or mask_BT.shape != logprobs_BT.shape:
        raise ValueError(
            f"logprobs_BT is {tuple(logprobs_BT.shape)} and mask_BT {tuple(mask_BT.shape)}: expected [B, T] both"
        )
    if advantages_B is not None and advantages_B.shape != logprobs_BT.shape[:1]:
        raise ValueError(
            f"advantages_B is {tuple(advantages_B.shape)}, expected one for each of {len(logprobs_BT)} generations; "
            "flatten [P, N] to [P·N]"
        )


def _check_same(name: str, other_BT: torch.Tensor, logprobs_BT: torch.Tensor) -> None:
    """Refuses other shapes: broadcasting would compare every generation with one of them, and say nothing."""
    if other_BT.shape != logprobs_BT.shape:
        raise ValueError(
            f"{name} is {tuple(other_BT.shape)}, expected {tuple(logprobs_BT.shape)} like logprobs_BT: "
            "log-probabilities of the same tokens"
        )
