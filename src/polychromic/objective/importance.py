"""Corrects the policy gradient for generations that another policy than the trained one has drawn.

A sampling engine computes log-probabilities in its own way, so what it samples from is a policy μ near the trained π.
Every weight here is a ratio π/μ, cut at a cap (truncated importance sampling, Ionides 2008): below the cap it makes an
expectation over μ one over π, at the cap it trades a little of that for bounded variance.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import torch

ImportanceLevel = Literal["token", "generation", "group"]
"""The span whose tokens' ratios are multiplied. `generation`: exact for the mean reward; in the score of a set the
other members stay μ's. `group`: exact for every set score, with the largest variance. `token`: least variance and never
exact, since it ignores how the tokens before shifted (Yao et al., 2025, https://fengyao.notion.site/off-policy-rl)."""


def importance_weights(
    logprobs_BT: torch.Tensor,
    sampled_logprobs_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    level: ImportanceLevel,
    cap: float,
    group_size: int | None = None,
) -> torch.Tensor:
    """Returns [B, T] min(π/μ, cap), without gradient: each token's own, or its generation's or group's on every token.

    logprobs_BT: of the trained policy π; sampled_logprobs_BT: of the policy μ that drew the tokens; mask_BT: 0/1.
    group_size: with level `group`, how many consecutive generations make a group.
    Raises ValueError where shapes or sizes do not fit, the cap is below 1, or the level is not known.
    """
    if sampled_logprobs_BT.shape != logprobs_BT.shape or mask_BT.shape != logprobs_BT.shape:
        raise ValueError(
            f"logprobs_BT is {tuple(logprobs_BT.shape)}, sampled_logprobs_BT {tuple(sampled_logprobs_BT.shape)} and "
            f"mask_BT {tuple(mask_BT.shape)}: expected the same [B, T]"
        )
    if not cap >= 1.0:
        raise ValueError(f"cap is {cap}, expected at least 1: a smaller one would cut weights of equal policies")
    # Padding may hold anything, and inf − inf would turn sums into nan.
    ratios_BT = (logprobs_BT.detach() - sampled_logprobs_BT).double().masked_fill(mask_BT == 0, 0.0)
    if level == "generation":
        ratios_BT = ratios_BT.sum(dim=1, keepdim=True).expand_as(ratios_BT)
    elif level == "group":
        if not group_size or len(ratios_BT) % group_size:
            raise ValueError(
                f"{len(ratios_BT)} generations are no whole groups of {group_size}: level group needs every member"
            )
        group_P = ratios_BT.sum(dim=1).view(-1, group_size).sum(dim=1)
        ratios_BT = group_P.repeat_interleave(group_size)[:, None].expand_as(ratios_BT)
    elif level != "token":
        raise ValueError(f"level is {level!r}, expected one of {', '.join(get_args(ImportanceLevel))}")
    return ratios_BT.clamp(max=math.log(cap)).exp().to(logprobs_BT.dtype)
