"""Set objectives in prime-rl: an algorithm that scores a group (docs/integrations.md).

Written against its main branch of autumn 2026: `Algorithm.score_group` gets the episodes of one prompt and writes
advantages with `assign_advantages`. There is no setting that names an algorithm of the user's own, so it takes the
place of a built-in one.
"""

from __future__ import annotations

from typing import Any

from polychromic.integrations.answers import Answers
from polychromic.integrations.groups import Row, RowObjective
from polychromic.training.settings import DiversitySettings

__all__ = ["Answers", "DiversitySettings", "set_algorithm"]


def set_algorithm(diversity: DiversitySettings, answers: Answers | None = None) -> type:
    """Returns a class for `ALGORITHM_CLASSES` of `prime_rl.orchestrator.algo`: any baseline will do; λ is fixed.

    `same_answer` finds the task's data as `prompt.meta["task"]`. Traces that failed are in no set.
    """
    from prime_rl.orchestrator.algo.base import (  # pyright: ignore[reportMissingImports]
        Algorithm,
        iter_trainable_traces,
    )
    from prime_rl.orchestrator.algo.routing import assign_advantages  # pyright: ignore[reportMissingImports]

    objective = RowObjective(diversity, answers)

    class SetAlgorithm(Algorithm):
        async def score_group(self, episodes: list[Any]) -> None:
            traces = [trace for _, trace in iter_trainable_traces(episodes)]
            rows = [Row("", trace.reward, trace.last_reply, columns={"task": trace.task.data}) for trace in traces]
            for trace, advantage in zip(traces, objective.advantages(rows).tolist(), strict=True):
                assign_advantages(trace, advantage)

    return SetAlgorithm
