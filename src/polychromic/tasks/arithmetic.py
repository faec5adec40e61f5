"""Sets arithmetic with many right answers: four numbers and a target; use each number once. Checked exactly."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from polychromic.errors import ConfigError
from polychromic.numerics import FloatArray, label_codes
from polychromic.records import Check, Prompt, as_messages
from polychromic.seeding import child_seed
from polychromic.tasks.base import FRUITLESS_DRAWS, Split, distinct, split_of
from polychromic.tasks.expressions import (
    Expression,
    Leaf,
    Operation,
    canonical,
    commuted,
    numbers_used,
    parse,
    render,
    value,
)

SameAnswer = Literal["regrouped", "commuted"]
_FORMS = {"regrouped": canonical, "commuted": commuted}

SMALLEST_TARGET, LARGEST_TARGET = 1, 20


@dataclass(frozen=True, slots=True)
class Problem:
    """Four numbers from 1 to 9 (sorted) and a whole-number target."""

    numbers: tuple[int, ...]
    target: int

    @property
    def text(self) -> str:
        """Returns the prompt that the model sees, such as `1,4,6,8=24:`."""
        return f"{','.join(map(str, self.numbers))}={self.target}:"


@lru_cache(maxsize=16)
def _distinct_problems(split: Split, wanted: int, seed: int) -> tuple[Prompt, ...]:
    problems = distinct(((problem.text, problem) for problem, _ in random_problems(split, seed)), wanted)
    if len(problems) < wanted:
        raise ConfigError(
            f"task: {wanted} {split} problems asked for, and the {FRUITLESS_DRAWS} draws after the {len(problems)}th "
            "found no other; ask for fewer"
        )
    return tuple(
        Prompt(
            f"{split}-{index:05d}",
            as_messages(problem.text),
            meta={"numbers": list(problem.numbers), "target": problem.target},
        )
        for index, problem in enumerate(problems)
    )


@dataclass(frozen=True)
class ArithmeticTask:
    """Problems drawn from random expressions, hence always solvable.

    reward: 1 for an expression that uses each number once and equals the target, else 0.
    same_answer: what counts as one answer: `regrouped`, up to the order and grouping of + − and × ÷ chains, or
        `commuted`, up to swapped operands of + and × alone.
    """

    train_problems: int = 4096
    validation_problems: int = 200
    test_problems: int = 200
    seed: int = 0
    same_answer: SameAnswer = "regrouped"

    name = "arithmetic"
    pass_threshold = 1.0

    def __post_init__(self) -> None:
        for key in ("train_problems", "validation_problems", "test_problems"):
            if getattr(self, key) < 1:
                raise ConfigError(f"task.{key}: expected at least 1 problem, got {getattr(self, key)}")

    def prompts(self, split: Split) -> list[Prompt]:
        """Returns distinct problems of a split."""
        wanted = {"train": self.train_problems, "validation": self.validation_problems}.get(split, self.test_problems)
        return list(_distinct_problems(split, wanted, self.seed))

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """Checks each answer exactly."""
        return [
            Check(float(solve_or_none(prompt, text) is not None)) for prompt, text in zip(prompts, texts, strict=True)
        ]

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """Returns None: an exact checker needs no second opinion."""
        return None

    def cluster(self, prompt: Prompt, text: str) -> str:
        """Returns the form that same answers share; unreadable answers are one cluster each, by their text."""
        try:
            return _FORMS[self.same_answer](parse(text))
        except ValueError:
            return f"unreadable:{text}"

    def distances(self, texts: Sequence[str]) -> FloatArray:
        """Returns 0 between two writings of one expression, else 1."""
        codes = label_codes(self.cluster(_NO_PROMPT, text) for text in texts)
        return (codes[:, None] != codes[None, :]).astype(np.float64)


_NO_PROMPT = Prompt("", as_messages(""))


def solve_or_none(prompt: Prompt, text: str) -> Expression | None:
    """Returns the expression that `text` writes if it solves the prompt's problem, else None."""
    meta: Any = prompt.meta
    try:
        expression = parse(text)
        right = numbers_used(expression) == sorted(meta["numbers"]) and value(expression) == meta["target"]
    except (ValueError, ZeroDivisionError):
        return None
    return expression if right else None


def random_problems(split: Split, *names: str | int) -> Iterator[tuple[Problem, str]]:
    """Yields problems without end of a split, each with one random solution, drawn by the child seed of `names`.

    Problems with more solutions come more often.
    """
    draw = random.Random(child_seed("arithmetic", split, *names))
    while True:
        numbers = [draw.randint(1, 9) for _ in range(4)]
        expression = _random_expression([Leaf(number) for number in numbers], draw)
        try:
            result = value(expression)
        except ZeroDivisionError:
            continue
        if result.denominator == 1 and SMALLEST_TARGET <= result <= LARGEST_TARGET:
            problem = Problem(tuple(sorted(numbers)), int(result))
            if split_of("arithmetic", problem.text) == split:
                yield problem, render(expression)


def _random_expression(parts: list[Expression], draw: random.Random) -> Expression:
    """Joins random pairs with random operations until one expression is left."""
    while len(parts) > 1:
        draw.shuffle(parts)
        parts.append(Operation(draw.choice("+-*/"), parts.pop(), parts.pop()))
    return parts[0]
