"""Scores one answer to a puzzle; runs in a process of its own, whose start imports `reasoning-gym` before any answer.

The import takes seconds, on a busy machine more than one answer may take.
"""

from __future__ import annotations

import re
from typing import Any

import reasoning_gym  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]

from polychromic.records import Prompt
from polychromic.tasks.puzzles import answer_in, made_dataset

# Scorers that hand an answer to sympy's parser, which executes what it reads.
_EVALUATED = {"countdown", "puzzle24"}
_EXPRESSION = re.compile(r"(?:\d{1,9}|[\s+\-(]|\*(?!\s*\*)|/(?!\s*/)|\)){1,200}")


def scored(prompt: Prompt, text: str) -> float:
    """Returns 1.0 where the scorer of the prompt's dataset passes the text."""
    made: Any = prompt.meta
    answer = answer_in(text)
    name, options, seed, size = made["dataset"]
    if name in _EVALUATED and not _EXPRESSION.fullmatch(answer):
        return 0.0
    dataset = made_dataset(name, options, seed, size)
    return float(dataset.score_answer(answer, dataset[made["index"]]) >= made["pass_score"])
