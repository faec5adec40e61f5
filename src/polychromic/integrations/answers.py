"""Says which answers are the same and how far apart they are, where no task of an experiment file does."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from polychromic.diversity.equivalence import Equivalence, Normalised, Partition, TextGroup
from polychromic.numerics import FloatArray, label_codes
from polychromic.records import Check, Prompt
from polychromic.tasks.base import Task

SameAnswer = Callable[[Prompt, str], Hashable]
"""Returns what answers share where they are the same; `prompt.meta` holds the other columns of the trainer's data."""


@dataclass(frozen=True)
class LabelledBy:
    """Takes answers for the same that a function gives one label; those that it gives None or nan are of one kind."""

    function: SameAnswer

    @property
    def name(self) -> str:
        """Returns the function's name."""
        return getattr(self.function, "__qualname__", type(self.function).__qualname__)

    def form(self, prompt: Prompt, text: str) -> str | None:
        """Returns the label as text."""
        return str(self._label(prompt, text))

    def partitions(self, groups: Sequence[TextGroup]) -> list[Partition]:
        """Divides by label."""
        return [Partition(label_codes(self._label(prompt, text) for text in texts)) for prompt, texts in groups]

    def _label(self, prompt: Prompt, text: str) -> Hashable:
        label = self.function(prompt, text)
        # No nan is equal to another: each answer without a number would count as one more kind of answer.
        return "nan" if label != label else label  # noqa: PLR0124


def _different(texts: Sequence[str]) -> FloatArray:
    return np.array([[float(text != other) for other in texts] for text in texts])


@dataclass(frozen=True)
class Answers(Task):
    """Says what a set objective has to know of answers besides their rewards.

    same_answer: which are the same: an `Equivalence` of `polychromic.diversity`, or a function of prompt and text that
    returns a label, where None is one like any other: all answers without a number, say, are then one kind of answer,
    and earn nothing by being many. Case, white space and punctuation at the ends of words make no difference by
    default.
    distance: returns [N, N] in [0, 1] between the answers of one prompt, for objectives that read them.
    pass_threshold: the least reward that passes.
    """

    same_answer: Equivalence | SameAnswer = field(default_factory=Normalised)
    distance: Callable[[Sequence[str]], FloatArray] = _different
    pass_threshold: float = 1.0  # pyright: ignore[reportIncompatibleMethodOverride]
    name: str = "answers"

    @property
    def equivalence(self) -> Equivalence:
        """Returns which answers are the same."""
        same: Any = self.same_answer
        return same if hasattr(same, "partitions") else LabelledBy(same)

    def distances(self, texts: Sequence[str]) -> FloatArray:
        """Returns the distances between answers to one prompt."""
        return np.asarray(self.distance(texts), dtype=np.float64)

    def prompts(self, split: Literal["train", "validation", "test"]) -> list[Prompt]:
        """Returns none: they come from the trainer's own data."""
        return []

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """Returns no rewards: they come from the trainer."""
        return [Check(None, "rewards come from the trainer's reward functions") for _ in texts]
