"""The `task` section of an experiment file, one class a domain."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from polychromic.models.thinking import ThinkingMode
from polychromic.settings import Settings


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
