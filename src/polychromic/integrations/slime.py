"""Set objectives in slime: rewards of the whole rollout, spread over tokens as they are (docs/integrations.md).

Written against slime 0.3: `--custom-reward-post-process-path` sees every sample with its answer before they are split
over the ranks, and `--custom-advantage-function-path` takes what it returned for the advantages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from polychromic.errors import ConfigError, DataError
from polychromic.integrations.answers import Answers
from polychromic.integrations.groups import Row, RowObjective
from polychromic.training.settings import DiversitySettings

__all__ = ["Answers", "DiversitySettings", "require_unbiased", "reward_post_process", "spread"]

RewardPostProcess = Callable[[Any, Sequence[Any]], tuple[list[float], list[float]]]


def reward_post_process(diversity: DiversitySettings, answers: Answers | None = None) -> RewardPostProcess:
    """Returns the function for `--custom-reward-post-process-path`: any baseline will do; λ is fixed.

    Samples that slime takes out (`remove_sample`) are left out of every set. Raises ConfigError with the reasons where
    slime's settings would bias the gradient, and DataError where samples do not say which prompt they answer.
    """
    objective = RowObjective(diversity, answers)

    def set_rewards(args: Any, samples: Sequence[Any]) -> tuple[list[float], list[float]]:
        require_unbiased(args)
        if any(sample.group_index is None for sample in samples):
            raise DataError("a sample has no group_index, which the data source gives to all answers to one prompt")
        rewards = [sample.get_reward_value(args) for sample in samples]
        rows = [
            Row(
                sample.group_index,
                None if sample.remove_sample else reward,
                sample.response,
                str(sample.prompt),
                {**sample.metadata, "label": sample.label},
            )
            for sample, reward in zip(samples, rewards, strict=True)
        ]
        return rewards, objective.advantages(rows).tolist()

    return set_rewards


def spread(args: Any, rollout_data: dict[str, Any]) -> None:
    """Gives every token of an answer its reward as advantage: for `--custom-advantage-function-path`."""
    require_unbiased(args)
    advantages = [
        kl.new_full(kl.shape, reward) for kl, reward in zip(rollout_data["kl"], rollout_data["rewards"], strict=True)
    ]
    rollout_data["advantages"], rollout_data["returns"] = advantages, advantages


def require_unbiased(args: Any) -> None:
    """Raises ConfigError with every setting of slime that would bias the gradient of a set objective."""
    wrong = []
    if args.normalize_advantages:
        wrong.append(
            "--normalize-advantages divides set advantages by their standard deviation, which makes the estimator "
            "biased: leave it out"
        )
    if args.custom_pg_loss_reducer_function_path is None:
        wrong.append(
            "slime's loss divides by lengths, so that a token of a long answer counts less: name a reducer that "
            "divides by a constant, as --custom-pg-loss-reducer-function-path "
            "examples.DrGRPO.custom_reducer.get_pg_loss_reducer"
        )
    if args.kl_coef:
        wrong.append("--kl-coef changes rewards of tokens, which are replaced here: use --use-kl-loss")
    if wrong:
        raise ConfigError("; ".join(wrong))
