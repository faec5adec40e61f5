"""Puts what TRL sampled into this project's groups: prompts, answers, rewards, and which answers are the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from polychromic.diversity.equivalence import Equivalence, Normalised, Partition, TextGroup
from polychromic.errors import DataError
from polychromic.numerics import FloatArray, label_codes
from polychromic.records import Check, Finish, Generation, Group, Message, Prompt
from polychromic.tasks.base import Task

SameAnswer = Callable[[Prompt, str], Hashable]
"""Returns what answers share where they are the same; `prompt.meta` holds the other columns of the dataset's row."""


@dataclass(frozen=True)
class LabelledBy:
    """Takes answers for the same that a function gives one label."""

    function: SameAnswer

    @property
    def name(self) -> str:
        """Returns the function's name."""
        return getattr(self.function, "__qualname__", type(self.function).__qualname__)

    def form(self, prompt: Prompt, text: str) -> str | None:
        """Returns the label as text."""
        return str(self.function(prompt, text))

    def partitions(self, groups: Sequence[TextGroup]) -> list[Partition]:
        """Divides by label."""
        return [
            Partition(label_codes(self.function(prompt, text) for text in texts)) for prompt, texts in groups
        ]


def _different(texts: Sequence[str]) -> FloatArray:
    return np.array([[float(text != other) for other in texts] for text in texts])


@dataclass(frozen=True)
class Answers(Task):
    """Says what a set objective has to know of answers besides their rewards.

    same_answer: which are the same: an `Equivalence` of `polychromic.diversity`, or a function of prompt and text that
    returns a label. Case, white space and punctuation at the ends of words make no difference by default.
    distances: [N, N] in [0, 1] between the answers of one prompt, for objectives that read them.
    pass_threshold: the least reward that passes.
    """

    same_answer: Equivalence | SameAnswer = field(default_factory=Normalised)
    distance: Callable[[Sequence[str]], FloatArray] = _different
    pass_threshold: float = 1.0  # pyright: ignore[reportIncompatibleMethodOverride]
    name: str = "trl"

    @property
    def equivalence(self) -> Equivalence:
        """Returns which answers are the same."""
        same: Any = self.same_answer
        return same if hasattr(same, "partitions") else LabelledBy(same)

    def distances(self, texts: Sequence[str]) -> FloatArray:
        """Returns the distances between answers to one prompt."""
        return np.asarray(self.distance(texts), dtype=np.float64)

    def prompts(self, split: Literal["train", "validation", "test"]) -> list[Prompt]:
        """Returns none: they come from TRL's dataset."""
        return []

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """Returns no rewards: they come from TRL's reward functions."""
        return [Check(None, "rewards come from the trainer's reward functions") for _ in texts]


@dataclass(frozen=True, slots=True)
class Completion:
    """One row of what TRL sampled; the rows of all processes in order make a batch of whole groups."""

    prompt: str | Sequence[Mapping[str, Any]]
    completion: str | Sequence[Mapping[str, Any]]
    token_ids: tuple[int, ...]
    finish: Finish
    columns: Mapping[str, Any]
    logprob: float = float("nan")


def groups_of(rows: Sequence[Completion], rewards_B: FloatArray, num_samples: int) -> list[Group]:
    """Divides B rows into groups of `num_samples`, in order; rewards_B is nan where there is none.

    Raises DataError where a group holds answers to different prompts.
    """
    groups = []
    for start in range(0, len(rows), num_samples):
        members = rows[start : start + num_samples]
        prompt = prompt_of(members[0], start // num_samples)
        if any(member.prompt != members[0].prompt for member in members) or len(members) != num_samples:
            raise DataError(
                f"rows {start} to {start + num_samples - 1} of the batch are not {num_samples} answers to one prompt: "
                "set advantages need groups as GRPOTrainer's own sampler makes them"
            )
        generations = tuple(
            Generation(text_of(one.completion), one.token_ids, one.finish, one.logprob) for one in members
        )
        checks = tuple(
            Check(None, "no reward") if np.isnan(reward) else Check(float(reward))
            for reward in rewards_B[start : start + num_samples]
        )
        groups.append(Group(prompt, generations, checks))
    return groups


def prompt_of(row: Completion, number: int) -> Prompt:
    """Returns a row's prompt, with the dataset's other columns as `meta`."""
    messages = (
        (Message("user", row.prompt),)
        if isinstance(row.prompt, str)
        else tuple(Message(str(turn["role"]), text_of([turn])) for turn in row.prompt)
    )
    return Prompt(str(row.columns.get("id", number)), messages, meta=row.columns)


def text_of(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """Returns the text of a plain or conversational completion: of its last turn, parts of other kinds left out."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else None
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(str(part.get("text", "")) for part in content)


def float64_of(rewards: FloatArray) -> FloatArray:
    """Returns float32 rewards as the shortest decimals that stand for them: 0.7 again, which as float32 is less and
    would not pass a threshold of 0.7."""
    return np.asarray(rewards, dtype=np.float32).astype(str).astype(np.float64)
