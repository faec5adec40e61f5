"""Refuses settings of TRL under which set advantages would not follow the gradient of their objective."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polychromic.errors import ConfigError

if TYPE_CHECKING:
    from trl import GRPOConfig  # pyright: ignore[reportMissingModuleSource]

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "do_sample": (True,), "num_beams": (1,), "top_p": (1.0,), "top_k": (0, -1), "min_p": (0.0,), "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,), "repetition_penalty": (1.0,), "presence_penalty": (0.0,),
    "frequency_penalty": (0.0,), "no_repeat_ngram_size": (0,),
}  # fmt: skip
"""Keys of `generation_kwargs` that change the sampled policy, and their values under which they do not."""

UNBIASED_LOSSES = ("dr_grpo", "luspo")
_LOSSES = {
    "grpo": "divides by each generation's own length: a token of a long answer counts less",
    "sapo": "divides by each generation's own length: a token of a long answer counts less",
    "bnpo": "divides by the tokens that the batch happened to have: a batch of long answers counts less",
    "dapo": "divides by the tokens that the batch happened to have: a batch of long answers counts less",
    "cispo": "divides by the tokens that the batch happened to have: a batch of long answers counts less",
    "vespo": "divides by the tokens that the batch happened to have: a batch of long answers counts less",
}
_EXACT: dict[str, tuple[Any, str]] = {
    "multi_objective_aggregation": (
        "sum_then_normalize",
        "normalize_then_sum divides rewards by their standard deviation",
    ),
    "importance_sampling_level": ("token", "a mean over a generation's tokens makes long answers count less"),
    "mask_truncated_completions": (
        False,
        "cut generations would lose their gradient and keep their part in the baselines of the others",
    ),
    "top_entropy_quantile": (1.0, "tokens left out of the loss make its gradient another one"),
    "off_policy_mask_threshold": (None, "generations left out of the loss make its gradient another one"),
    "top_p": (1.0, "the policy that is sampled would not be the one whose gradient is taken"),
    "top_k": (0, "the policy that is sampled would not be the one whose gradient is taken"),
    "min_p": (None, "the policy that is sampled would not be the one whose gradient is taken"),
    "repetition_penalty": (1.0, "the policy that is sampled would not be the one whose gradient is taken"),
}


def require_unbiased(args: GRPOConfig) -> None:
    """Raises ConfigError with every setting that biases the gradient of a set objective, its reason and its fix.

    Sources: dividing by the standard deviation or by lengths, Dr. GRPO (arXiv:2503.20783); the set transform, PKPO
    (arXiv:2505.15201), whose advantages have their baseline already.
    """
    wrong = []
    if args.scale_rewards != "none":
        wrong.append(
            f"scale_rewards={args.scale_rewards!r} divides set advantages by their standard deviation, which makes the "
            "estimator biased: scale_rewards='none'"
        )
    if args.loss_type not in UNBIASED_LOSSES:
        reason = _LOSSES.get(args.loss_type, "is a loss that this version does not know")
        wrong.append(f"loss_type={args.loss_type!r} {reason}: loss_type='dr_grpo' (or 'luspo')")
    for name, (expected, reason) in _EXACT.items():
        value = getattr(args, name)
        if value != expected and not (name in ("top_k", "min_p") and not value):
            wrong.append(f"{name}={value!r}: {reason}: {name}={expected!r}")
    neutral = {**_NEUTRAL, "temperature": (args.temperature,)}
    for name, value in (args.generation_kwargs or {}).items():
        if name in neutral and value is not None and value not in neutral[name]:
            wrong.append(
                f"generation_kwargs[{name!r}]={value!r}: the policy that is sampled would not be the one whose "
                "gradient is taken: leave it out"
            )
    evaluated = args.num_generations_eval
    if evaluated is not None and evaluated != args.num_generations:
        wrong.append(
            f"num_generations_eval={evaluated} differs from num_generations={args.num_generations}, so that groups "
            "cannot be told apart: leave num_generations_eval out"
        )
    if wrong:
        raise ConfigError("GRPOConfig: " + "; ".join(wrong))


def reward_scale(args: GRPOConfig) -> float:
    """Returns what advantages A_i are multiplied by, so that TRL's mean over generations becomes a mean over prompts.

    The gradient is then ∇J with `luspo`, and ∇J / max_completion_length with `dr_grpo`, which divides by that
    constant always.
    """
    return float(args.num_generations)


def sum_scale(args: GRPOConfig) -> float:
    """Returns what advantages are multiplied by for the gradient ∇J itself, whichever of the two losses it is."""
    constant = args.max_completion_length if args.loss_type == "dr_grpo" else 1
    return float(args.num_generations) * float(constant or 1)
