"""Puts what TRL sampled into this project's groups: prompts, answers and rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polychromic.errors import DataError
from polychromic.numerics import FloatArray
from polychromic.records import Check, Finish, Generation, Group, Message, Prompt


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
