"""Generation rows gathered into groups: all answers to one prompt under one way of sampling."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from polychromic.records import GenerationRow, SamplingParameters

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """N answers to one prompt. Arrays [N]; rewards and judgements are nan where their checker failed.

    `forms` are keys of answers that count as the same, None where the task has none. `errors` are the reasons of
    missing rewards. `n_missing` answers were asked for and not given: they are in none of the arrays.
    """

    prompt_id: str
    texts: list[str]
    rewards: Floats
    judgements: Floats
    n_tokens: Floats
    truncated: Floats
    forms: list[str] | None
    errors: list[str]
    n_missing: int = 0

    def __len__(self) -> int:
        return len(self.texts)


def group_rows(
    rows: Sequence[GenerationRow], *, has_forms: bool | None = None
) -> dict[str, list[AnswerGroup]]:
    """Groups by sampling label in order of first appearance, each list sorted by prompt id.

    `has_forms` says whether the task tells equal answers by their forms (None: it does where a row carries one).
    Raises ValueError where a prompt has two rows of one index under one way of sampling.
    """
    # One table has one notion of equal answers: task forms where any row carries one.
    has_forms = carry_forms(rows) if has_forms is None else has_forms
    gathered: defaultdict[SamplingParameters, defaultdict[str, list[GenerationRow]]]
    gathered = defaultdict(lambda: defaultdict(list))
    for row in rows:
        gathered[row.sampling][row.prompt_id].append(row)
    groups: dict[str, list[AnswerGroup]] = {}
    for sampling, prompts in gathered.items():
        if sampling.label in groups:
            raise ValueError(
                f"rows sampled at {sampling.label} have different token limits; expected one way of sampling a label"
            )
        groups[sampling.label] = [
            _group(name, members, has_forms) for name, members in sorted(prompts.items())
        ]
    return groups


def carry_forms(rows: Iterable[GenerationRow]) -> bool:
    """Whether the task told the form of any answer."""
    return any(row.cluster is not None for row in rows)


def _group(prompt_id: str, rows: list[GenerationRow], has_forms: bool) -> AnswerGroup:
    rows = sorted(rows, key=lambda row: row.index)
    for first, second in pairwise(rows):
        if first.index == second.index:
            raise ValueError(
                f"prompt {prompt_id!r} has two generations of index {first.index} at {first.sampling.label}; "
                "expected each once (were two files joined?)"
            )
    reasons = [row.error or "no reason given" for row in rows if row.reward is None]
    n_asked = len(rows)
    rows = [row for row in rows if row.finish != "missing"]
    return AnswerGroup(
        prompt_id,
        [row.text for row in rows],
        _scores([row.reward for row in rows]),
        _scores([row.judge for row in rows]),
        np.array([row.n_tokens for row in rows], dtype=np.float64),
        np.array([row.finish == "length" for row in rows], dtype=np.float64),
        [row.text if row.cluster is None else row.cluster for row in rows] if has_forms else None,
        reasons,
        n_asked - len(rows),
    )


def _scores(scores: list[float | None]) -> Floats:
    return np.array(scores, dtype=np.float64)
