"""Defines the protocol of a task and the registry of tasks; `settings` has their entries.

A task of your own needs no change here: `task: {name: mine.py:MyTask, …}` in an experiment file names a class (or
function) that makes a `Task` from the section's other keys, or a pydantic model of these keys with `build()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from polychromic.models.chat import ThinkingMode
from polychromic.records import Check, Prompt
from polychromic.seeding import child_seed
from polychromic.settings import Settings
from polychromic.tasks.checking.checkers import BUILT_IN

Split = Literal["train", "validation", "test"]


class Task(Protocol):
    """A source of prompts with the judgement that goes with them.

    `check` is the training checker and returns rewards in [0, 1]; a reward of at least `pass_threshold` passes.
    `judge` is a second checker that training never sees. A class that inherits from this one has no judge, knows no
    form that same answers share (they are compared by spelling, see `tasks.equivalence`), and takes texts for equal or
    wholly different, until it says otherwise.
    """

    name: str

    @property
    def pass_threshold(self) -> float:
        """Returns the least reward that passes."""
        ...

    def prompts(self, split: Split) -> list[Prompt]:
        """Returns all prompts of a split, in a fixed order, with unique ids."""
        ...

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """Checks each pair (prompts[i], texts[i]); a failure is a Check with a reason."""
        ...

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """Checks each pair with the evaluation-only checker; None where the task has none."""
        return None

    def cluster(self, prompt: Prompt, text: str) -> str | None:
        """Returns a form that answers share where they count as the same; None where the task knows no such form."""
        return None

    def distances(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns symmetric [N, N] distances in [0, 1] with a zero diagonal between answers to one prompt."""
        return np.array([[float(text != other) for other in texts] for text in texts])


class TaskKeys(Settings):
    """The settings of one task: its entry in the registry, which states the facts that others ask for."""

    name: str
    thinking: ThinkingMode = "auto"
    """Treatment of `<think>…</think>` before an answer: `keep` it as text, `strip` it before checking and measuring,
    or measure it `apart`; `auto` strips it for models whose chat template has it, and from files that carry it."""

    units: ClassVar[tuple[str, str] | None] = None
    """The units of text that `evaluation.tokens: auto` stands for, with the reason; None lets the texts decide."""

    @property
    def files(self) -> Mapping[Split, Path]:
        """Returns the files of JSON lines that the prompts come from."""
        return {}

    @property
    def code(self) -> Mapping[str, str]:
        """Names what is called to judge or to make the task, by role: checkers, or a task of the user's own."""
        return {}

    @property
    def services(self) -> list[str]:
        """Returns the addresses of services that answers are sent to."""
        return []

    @property
    def has_checker(self) -> bool:
        """Returns True where answers get rewards."""
        return True

    @property
    def has_judge(self) -> bool:
        """Returns True where a second checker judges too."""
        return True

    @property
    def data(self) -> str:
        """Says where the prompts come from, for the card of a model."""
        return ", ".join(f"{split} {file.name}" for split, file in self.files.items())

    def without_code(self) -> Self:
        """Returns the settings without checkers of somebody's own: enough to read what has been checked already."""
        return self

    def build(self) -> Task:
        """Makes the task; raises ConfigError, DataError or CheckerError with what is wrong."""
        raise NotImplementedError


P = TypeVar("P")
S = TypeVar("S", bound=TaskKeys)
TASKS: dict[str, type[TaskKeys]] = {}
"""The settings of each task, by its name."""


def task(name: str) -> Callable[[type[S]], type[S]]:
    """Registers the settings of a task under its name; `build` makes the task."""

    def register(settings: type[S]) -> type[S]:
        TASKS[name] = settings
        return settings

    return register


FRUITLESS_DRAWS = 1000
"""Draws in a row without a new problem after which the search ends."""
# Two tenths of all problems are kept away from training, whatever seed draws them.
_SPLIT_TENTHS: dict[Split, range] = {"validation": range(1), "test": range(1, 2), "train": range(2, 10)}


def split_of(kind: str, text: str) -> Split:
    """Returns the split of a made problem, decided by its content alone, so that no seed can leak it."""
    tenth = child_seed(f"{kind}-split", text) % 10
    return next(split for split, tenths in _SPLIT_TENTHS.items() if tenth in tenths)


def distinct(drawn: Iterable[tuple[str, P]], wanted: int) -> list[P]:
    """Returns the first `wanted` problems whose texts, drawn with them, differ; fewer where the search ends before."""
    problems: dict[str, P] = {}
    fruitless = 0
    for text, problem in drawn:
        fruitless = fruitless + 1 if text in problems else 0
        problems.setdefault(text, problem)
        if len(problems) == wanted or fruitless == FRUITLESS_DRAWS:
            break
    return list(problems.values())


def own_code(settings: TaskKeys) -> list[str]:
    """Returns what a task calls that is somebody's own code, such as `checker.py:check`."""
    return [name for name in settings.code.values() if name not in BUILT_IN]


def build_task(settings: TaskKeys) -> Task:
    """Makes the task that a section describes. Raises ConfigError, DataError or CheckerError with what is wrong."""
    return settings.build()
