"""Scores one answer to a puzzle; runs in a process of its own, whose start imports `reasoning-gym` before any answer.

The import takes seconds, on a busy machine more than one answer may take.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import reasoning_gym  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]

from polychromic.records import Prompt
from polychromic.tasks.expressions import numbers_used, parse_signed, value
from polychromic.tasks.puzzles import answer_in, made_dataset

# Scorers that hand an answer to Python, or to sympy's parser, which both execute what they read; and what an answer of
# theirs may be made of, which is nothing that can be called.
_EXPRESSIONS = {"countdown", "puzzle24"}
_EVALUATED = {
    "n_queens": re.compile(r"[_Q\s]*"),
    **dict.fromkeys(("binary_matrix", "spiral_matrix", "string_insertion"), re.compile(r"[\w\s.,'\"\[\]-]*")),
}
_FORMULAS = {"polynomial_multiplication", "simple_integration", "intermediate_integration"}
_EXPRESSION = re.compile(r"(?:[0-9]{1,9}(?![0-9])|[\s+\-(]|\*(?!\s*\*)|/(?!\s*/)|\)){1,200}")
_FORMULA = re.compile(
    r"(?:[0-9]|(?<=[0-9])\.(?=[0-9])|(?:a?(?:sin|cos|tan)h?|sec|csc|cot|exp|log|ln|sqrt|Abs|pi|[A-Za-z])\b|[\s+\-*/^(),])*"
)
_TWENTY_FOUR = 24


def scored(prompt: Prompt, text: str) -> float:
    """Returns 1.0 where the scorer of the prompt's dataset passes the text."""
    made: Any = prompt.meta
    answer = answer_in(text)
    name, options, seed, size = made["dataset"]
    pattern = _EXPRESSION if name in _EXPRESSIONS else _FORMULA if name in _FORMULAS else _EVALUATED.get(name)
    if pattern is not None and not pattern.fullmatch(answer):
        return 0.0
    dataset = made_dataset(name, options, seed, size)
    entry = dataset[made["index"]]
    if name in _EXPRESSIONS and not _uses_the_numbers(answer, entry["metadata"]):
        return 0.0
    return float(dataset.score_answer(answer, entry) >= made["pass_score"])


def _uses_the_numbers(answer: str, facts: Mapping[str, Any]) -> bool:
    """Tells whether an expression is made of the puzzle's numbers and has exactly its value: the scorer of puzzle24
    passes any four numbers, and that of countdown what is close."""
    try:
        expression = parse_signed(answer)
        is_value = value(expression) == facts.get("target", _TWENTY_FOUR)
    except (ValueError, ZeroDivisionError, RecursionError):
        return False
    return is_value and numbers_used(expression) == sorted(facts["numbers"])
