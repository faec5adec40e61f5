"""Set objectives in tinker-cookbook: rewards of a whole group (docs/integrations.md).

Written against tinker-cookbook 0.6: `EnvGroupBuilder.compute_group_rewards`, whose rewards are added to those of the
episodes; `compute_advantages` then subtracts their mean, and the loss is a sum over tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from polychromic.integrations.answers import Answers
from polychromic.integrations.groups import Row, RowObjective
from polychromic.training.settings import DiversitySettings

__all__ = ["Answers", "DiversitySettings", "SetRewards", "set_objective"]


def set_objective(diversity: DiversitySettings, answers: Answers | None = None) -> RowObjective:
    """Returns the objective for `SetRewards`. Raises ConfigError where subtracting a group's mean would change it."""
    return RowObjective(diversity, answers, centring="tinker-cookbook")


@dataclass
class SetRewards:
    """Stands for an EnvGroupBuilder and gives its group set advantages as rewards.

    builder: the one that makes the environments; its rewards, of episodes and of the group, are the quality.
    text_of: returns the answer of a trajectory, such as its decoded last action. prompt: what `same_answer` is shown.
    Everything has to be picklable: name functions of a module, no lambdas.
    """

    builder: Any
    objective: RowObjective
    text_of: Callable[[Any], str]
    prompt: str = ""

    async def make_envs(self) -> Sequence[Any]:
        """Returns the builder's environments."""
        return await self.builder.make_envs()

    async def compute_group_rewards(
        self, trajectory_group: list[Any], env_group: Sequence[Any]
    ) -> list[tuple[float, dict[str, float | int]]]:
        """Returns what makes each trajectory's total reward its set advantage, and metrics with its true reward."""
        of_group = await self.builder.compute_group_rewards(trajectory_group, env_group)
        of_steps = [sum(step.reward for step in one.transitions) for one in trajectory_group]
        rewards = [steps + final for steps, (final, _) in zip(of_steps, of_group, strict=True)]
        rows = [
            Row("", reward, self.text_of(one), self.prompt)
            for reward, one in zip(rewards, trajectory_group, strict=True)
        ]
        advantages = self.objective.advantages(rows).tolist()
        return [
            (advantage - steps, {**metrics, **self.objective.metrics, "quality": reward})
            for advantage, steps, reward, (_, metrics) in zip(advantages, of_steps, rewards, of_group, strict=True)
        ]

    async def cleanup(self) -> None:
        """Cleans up as the builder does."""
        await self.builder.cleanup()

    def logging_tags(self) -> list[str]:
        """Returns the builder's tags."""
        return self.builder.logging_tags()
