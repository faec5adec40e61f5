"""Task protocol, the task section of an experiment, and `build_task`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from polychromic.models.chat import ThinkingMode
from polychromic.records import Check, Prompt
from polychromic.settings import Settings
from polychromic.tasks.checkers import BUILT_IN

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


class TaskKeys(Settings):
    """What every task may say."""

    thinking: ThinkingMode = "auto"
    """What becomes of `<think>…</think>` before an answer: `keep` it as text, `strip` it before checking and measuring,
    or measure it `apart`; `auto` strips it for models whose chat template has it, and from files that carry it."""


class ArithmeticSettings(TaskKeys):
    """Four numbers and a target, checked exactly.

    There are 6,908 training, 860 validation and 853 test problems; the rarest would take long to draw.
    """

    name: Literal["arithmetic"]
    train_problems: int = Field(default=4096, ge=1, le=5000)
    validation_problems: int = Field(default=200, ge=1, le=600)
    test_problems: int = Field(default=200, ge=1, le=600)
    seed: int = 0
    same_answer: Literal["regrouped", "commuted"] = "regrouped"
    """What counts as one answer. `regrouped`: `8-(3-2)` and `2+8-3` do. `commuted`: only `8-3+2` and `2+(8-3)` do."""


class FileSettings(TaskKeys):
    """A task whose prompts are JSON lines. Paths are relative to the experiment file."""

    train: str
    validation: str
    test: str


class RepliesSettings(FileSettings):
    """Replies to posts, judged by a relevance classifier on embeddings."""

    name: Literal["replies"]
    embedder: str = "minilm"
    seed: int = 0


class CustomSettings(FileSettings):
    """The user's own prompts and checkers."""

    name: Literal["custom"]
    checker: str | None = None
    """`exact_match`, `contains`, `rouge_l`, `module:function` or `path/to/file.py:function`."""
    judge: str | None = None
    """A second checker, used in evaluation only."""
    checker_seconds: float = Field(default=10.0, gt=0)
    """Longest time for one text. A checker of the user's runs in a process of its own, which is ended after that."""
    checker_memory_gb: float = Field(default=8.0, gt=0)
    """Most address space of that process."""
    checker_recheck: bool = True
    """Ask for some verdicts again in a process that has met no other answer, and stop where they differ. False is for a
    checker that is meant to vary, or to remember."""
    pass_threshold: float = Field(default=0.5, ge=0, le=1)
    embedder: str = "minilm"


TaskSettings = Annotated[ArithmeticSettings | RepliesSettings | CustomSettings, Field(discriminator="name")]


def named_code(settings: TaskSettings) -> list[str]:
    """The checkers of a task that are somebody's own code, such as `checker.py:check`."""
    checkers = [settings.checker, settings.judge] if isinstance(settings, CustomSettings) else []
    return [name for name in checkers if name is not None and name not in BUILT_IN]


def without_code(settings: TaskSettings) -> TaskSettings:
    """The task without checkers that are somebody's own code: enough to read what has been checked already."""
    named = named_code(settings)
    if not isinstance(settings, CustomSettings) or not named:
        return settings
    dropped = {key: None for key in ("checker", "judge") if getattr(settings, key) in named}
    return settings.model_copy(update=dropped)


def build_task(settings: TaskSettings) -> Task:
    """The task that a section describes. Raises ConfigError, DataError or CheckerError with what is wrong."""
    if isinstance(settings, ArithmeticSettings):
        from polychromic.tasks.arithmetic import ArithmeticTask

        return ArithmeticTask(
            settings.train_problems,
            settings.validation_problems,
            settings.test_problems,
            settings.seed,
            settings.same_answer,
        )
    files = {
        "train": Path(settings.train),
        "validation": Path(settings.validation),
        "test": Path(settings.test),
    }
    if isinstance(settings, RepliesSettings):
        from polychromic.tasks.replies import RepliesTask

        return RepliesTask(**files, embedder=settings.embedder, seed=settings.seed)
    from polychromic.tasks.jsonl_task import CustomTask

    return CustomTask(
        **files,
        checker=settings.checker,
        judge=settings.judge,
        pass_threshold=settings.pass_threshold,
        embedder=settings.embedder,
        checker_seconds=settings.checker_seconds,
        checker_memory_gb=settings.checker_memory_gb,
        checker_recheck=settings.checker_recheck,
    )
