"""What a task is: prompts, a checker, and when two answers count as the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from polychromic.records import Check, Prompt

Split = Literal["train", "validation", "test"]


class Task(Protocol):
    """A source of prompts with the judgement that goes with them.

    `check` is the training checker and returns rewards in [0, 1]; a reward of at least `pass_threshold` passes.
    `judge` is a second checker that training never sees (None where the task has none).
    """

    name: str

    @property
    def pass_threshold(self) -> float:
        """The least reward that passes."""
        ...

    def prompts(self, split: Split) -> list[Prompt]:
        """All prompts of a split, in a fixed order, with unique ids."""
        ...

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """The checker's word on each pair (prompts[i], texts[i]); a failure is a Check with a reason."""
        ...

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """The evaluation-only checker's word on each pair, or None where the task has no judge."""
        ...

    def cluster(self, prompt: Prompt, text: str) -> str | None:
        """A canonical form: answers with one form count as the same. None where the task knows no such form."""
        ...

    def distances(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Symmetric [N, N] distances in [0, 1] with a zero diagonal between answers to one prompt."""
        ...
