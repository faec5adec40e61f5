"""Holds the settings of tasks in which a model writes Python, and of the sandbox that judges it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from polychromic.settings import Settings
from polychromic.tasks.base import Split, Task, TaskKeys, task

if TYPE_CHECKING:
    from polychromic.tasks.checking.sandbox import Place


class SandboxSettings(Settings):
    """Place where programs run: `sandbox: local`, `docker` or `podman`, or one of them with its keys (docs/code.md)."""

    kind: Literal["local", "docker", "podman", "command"] = "local"
    image: str = "python:3.12-slim"
    """Of a container; its Python, of 3.11 or later, needs no packages."""
    options: tuple[str, ...] = ()
    """More options for `docker run` or `podman run`, such as --runtime=runsc."""
    command: tuple[str, ...] = ()
    """Of `command`: the words before `python …`, such as bwrap with its options. They hand standard input and output
    on; `{modules}` in them is a folder that has to be readable inside."""
    python: str | None = None
    """The Python inside; else `python3` in a container, and the one that runs Polychromic behind a command."""
    memory_gb: float = Field(default=2.0, gt=0)
    """Memory of a container as a whole."""

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_its_keys_alone(self) -> Self:
        if (self.kind == "command") != bool(self.command):
            raise ValueError(
                "kind command needs command, a list of words" if self.kind == "command" else
                f"command is read with kind command, not with {self.kind}"
            )  # fmt: skip
        # A run's resolved file states every key: what is its default says nothing.
        changed = [
            key
            for key in ("image", "memory_gb", "options")
            if getattr(self, key) != type(self).model_fields[key].default
        ]
        if changed and self.kind in ("local", "command"):
            raise ValueError(f"{', '.join(changed)}: read with docker and podman, not with {self.kind}")
        return self

    def place(self) -> Place:
        """Returns where code runs."""
        from polychromic.tasks.checking.sandbox import LOCAL, Wall

        if self.kind == "local":
            return LOCAL
        return Wall(self.kind, self.image, self.options, self.command, self.python, self.memory_gb)


class CodeKeys(TaskKeys):
    """Settings that all tasks share in which tests run the answers."""

    seconds: float = Field(default=10.0, gt=0)
    """Longest time for one answer, all its tests together."""
    memory_gb: float = Field(default=1.0, gt=0)
    sandbox: SandboxSettings = SandboxSettings()
    """Place where answers are executed."""
    same_answer: Literal["form", "behaviour"] = "form"
    """Programs that are the same: those of one canonical syntax tree (`form`), or that do the same on every probe
    (`behaviour`, docs/code.md)."""

    units = ("code", "answers are programs")

    @property
    def has_judge(self) -> bool:
        """Returns False: tests decide alone."""
        return False

    def problems(self) -> Mapping[Split, Any]:
        """Loads the problems by split."""
        raise NotImplementedError

    def build(self) -> Task:
        """Makes the task."""
        from polychromic.tasks.checking.sandbox import Limits
        from polychromic.tasks.code import CodeTask

        limits = Limits(seconds=self.seconds, memory_gb=self.memory_gb)
        return CodeTask(self.name, self.problems(), limits, self.same_answer, self.sandbox.place())


@task("humaneval")
@task("mbpp")
@task("mbpp_sanitized")
class BenchmarkSettings(CodeKeys):
    """A benchmark that ships with the package."""

    @property
    def data(self) -> str:
        """Names the benchmark."""
        return f"the {self.name} problems that ship with the package"

    def problems(self) -> Mapping[Split, Any]:
        """Loads the problems by split."""
        from polychromic.tasks.code import load_benchmark

        return load_benchmark(self.name)


@task("code")
class OwnCodeSettings(CodeKeys):
    """The user's own problems in Python. Paths are relative to the experiment file."""

    train: str | None = None
    validation: str | None = None
    test: str | None = None

    @property
    def files(self) -> Mapping[Split, Path]:
        """The files that are named."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: Path(file) for split, file in named.items() if file is not None}  # type: ignore[misc]

    def problems(self) -> Mapping[Split, Any]:
        """Loads the problems by split."""
        from polychromic.tasks.code import load_problems

        return {split: load_problems(file) for split, file in self.files.items()}


@task("functions")
class FunctionsSettings(CodeKeys):
    """Short Python functions on numbers and texts, made with their tests from a seed (docs/code.md)."""

    train_problems: int = Field(default=4096, ge=1, le=10_000)
    validation_problems: int = Field(default=200, ge=1, le=1000)
    test_problems: int = Field(default=200, ge=1, le=1000)
    seed: int = 0

    @property
    def data(self) -> str:
        """Says how the problems were drawn."""
        return (
            f"generated with seed {self.seed}: {self.train_problems:,} training, "
            f"{self.validation_problems:,} validation and {self.test_problems:,} test problems"
        )

    def problems(self) -> Mapping[Split, Any]:
        """Makes the problems by split."""
        from polychromic.tasks.code.functions import make_problems

        sizes: dict[Split, int] = {
            "train": self.train_problems, "validation": self.validation_problems, "test": self.test_problems
        }  # fmt: skip
        return {split: make_problems(split, size, self.seed) for split, size in sizes.items()}
