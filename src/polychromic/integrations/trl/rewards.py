"""Returns set advantages as rewards, for a GRPOTrainer that stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from polychromic.errors import ConfigError, DataError
from polychromic.integrations.answers import Answers
from polychromic.integrations.sets import SetObjective, require_centred, require_fixed
from polychromic.integrations.trl.config import require_unbiased, reward_scale
from polychromic.integrations.trl.observing import Completion, groups_of
from polychromic.training.parallel import ALONE, Processes, join_processes
from polychromic.training.settings import DiversitySettings

if TYPE_CHECKING:
    from trl import GRPOConfig  # pyright: ignore[reportMissingModuleSource]

RewardFunction = Callable[..., Sequence[float | None]]
"""As TRL calls it: `function(prompts=…, completions=…, completion_ids=…, **columns)`, one reward a completion."""

_INSTEAD = ", or polychromic.integrations.trl.SetGRPOTrainer, which sets the advantages themselves"
_NO_COLUMNS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")


def group_reward(
    args: GRPOConfig,
    quality: RewardFunction,
    diversity: DiversitySettings,
    answers: Answers | None = None,
    *,
    processes: Processes | None = None,
) -> RewardFunction:
    """Returns a reward function whose group-centred rewards are the advantages of J = J_quality + λ J_diversity.

    Leave-one-out advantages of every objective sum to zero in a group, so TRL's own mean changes nothing; the factor
    `reward_scale` makes its mean over generations one over prompts. quality: the rewards, in [0, 1] or None; what it
    returns, distinct answers and the set score are logged by TRL's `log_metric`. Groups that lie on several processes
    are gathered. Raises ConfigError with the reasons where TRL's settings or these would bias the gradient.
    """
    require_unbiased(args)
    require_centred(diversity, "TRL", _INSTEAD)
    require_fixed(diversity, _INSTEAD)
    num_samples = args.num_generations
    if num_samples is None or num_samples <= diversity.set_size:
        raise ConfigError(
            f"num_generations is {num_samples}, and leave-one-out advantages of sets of {diversity.set_size} need "
            "more: raise num_generations or lower set_size"
        )
    objective = SetObjective(diversity, answers or Answers())
    scale = reward_scale(args)
    calls = 0

    def set_reward(
        prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Any], **columns: Any
    ) -> list[float]:
        nonlocal calls
        rewards = quality(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
        if len(rewards) != len(completions):
            raise DataError(
                f"the reward function gave {len(rewards)} rewards for {len(completions)} completions: it has to give "
                "one for each, None where it cannot tell"
            )
        rows = _rows(prompts, completions, completion_ids, columns)
        given = np.array([np.nan if reward is None else reward for reward in rewards], dtype=np.float64)
        together, start = ALONE, 0
        if len(rows) % num_samples:
            together = processes or join_processes()
            rows, given, start = _gathered(together, rows, given)
        groups = groups_of(rows, given, num_samples)
        signals = objective.signals(groups, together)
        batch = objective.advantages(groups, signals, calls)
        calls += 1
        if (log := columns.get("log_metric")) is not None:
            log("train/reward", float(np.nanmean(signals.rewards_PN)))
            log("train/diversity_score", batch.sampled.advantages.score)
            log("groups/clusters", signals.mean_clusters)
        return (scale * batch.total())[start : start + len(prompts)].tolist()

    set_reward.__name__ = f"{diversity.objective.rpartition(':')[2]}_set_reward"
    return set_reward


def _rows(
    prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Any], columns: Mapping[str, Any]
) -> list[Completion]:
    data = {key: values for key, values in columns.items() if key not in _NO_COLUMNS and isinstance(values, list)}
    return [
        Completion(prompt, completion, tuple(ids), "stop", {key: values[index] for key, values in data.items()})
        for index, (prompt, completion, ids) in enumerate(zip(prompts, completions, completion_ids, strict=True))
    ]


def _gathered(processes: Processes, rows: list[Completion], rewards_B: Any) -> tuple[list[Completion], Any, int]:
    """Returns the rows and rewards of all processes one after the other, and where this one's begin."""
    parts = processes.by_process((rows, rewards_B))
    everything = [row for part, _ in parts for row in part]
    start = sum(len(part) for part, _ in parts[: processes.rank])
    return everything, np.concatenate([rewards for _, rewards in parts]), start
