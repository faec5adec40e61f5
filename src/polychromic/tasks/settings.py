"""Holds the task section of an experiment: an entry of the registry per task, and tasks named by import path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from polychromic.errors import ConfigError
from polychromic.registry import construct, is_import_path, resolve
from polychromic.tasks import code_settings  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers tasks
from polychromic.tasks.base import TASKS, Split, Task, TaskKeys, task
from polychromic.tasks.checking.checkers import BUILT_IN, FORMS
from polychromic.tasks.data.formats import Keys
from polychromic.tasks.partitions.settings import AUTO, NORMALISED, SameAnswer, SecondSameAnswer


@task("arithmetic")
class ArithmeticSettings(TaskKeys):
    """Four numbers and a target, checked exactly.

    There are 6,908 training, 860 validation and 853 test problems; the rarest would take long to draw.
    """

    train_problems: int = Field(default=4096, ge=1, le=5000)
    validation_problems: int = Field(default=200, ge=1, le=600)
    test_problems: int = Field(default=200, ge=1, le=600)
    seed: int = 0
    same_answer: Literal["regrouped", "commuted"] = "regrouped"
    """Expressions that are one answer. `regrouped`: `8-(3-2)` and `2+8-3`. `commuted`: only `8-3+2` and `2+(8-3)`."""

    units = ("characters", "expressions have no spaces")

    @property
    def data(self) -> str:
        """Says how the problems were drawn."""
        return (
            f"generated with seed {self.seed}: {self.train_problems:,} training, "
            f"{self.validation_problems:,} validation and {self.test_problems:,} test problems"
        )

    def build(self) -> Task:
        """Makes the task."""
        from polychromic.tasks.arithmetic import ArithmeticTask

        return ArithmeticTask(**self.model_dump(exclude={"name", "thinking"}))


class FileSettings(TaskKeys):
    """A task whose prompts are files of rows (docs/data.md). Paths are relative to the experiment file."""

    train: str
    validation: str
    test: str
    prompt_key: str | None = None
    """Key or column of the prompt, a text or a list of turns, where the rows have a form that is not recognised."""
    reference_key: str | None = None
    """Key or column of an answer known to be good, or of a list of them."""
    embedder: str = "minilm"
    same_answer: SameAnswer = NORMALISED
    """Rule by which answers are the same, in training and in evaluation."""
    second_same_answer: SecondSameAnswer = AUTO
    """A second partition that training never sees, and evaluation holds beside the first."""

    @property
    def has_forms(self) -> bool:
        """Returns True where answers have canonical forms."""
        return False

    @model_validator(mode="after")
    def _has_the_forms_it_names(self) -> Self:
        if "canonical" in (self.same_answer.kind, self.second_same_answer.kind) and not self.has_forms:
            raise ValueError(
                "same_answer: these answers have no canonical form, expected normalised, exact, embedding, classifier, "
                "judge or a function"
            )
        return self

    @property
    def code(self) -> Mapping[str, str]:
        """Returns the functions that say which answers are the same, where there are any."""
        return _functions(self.same_answer, self.second_same_answer)

    @property
    def services(self) -> list[str]:
        """Returns the addresses that answers are sent to."""
        return _services(self.same_answer, self.second_same_answer)

    @property
    def keys(self) -> Keys:
        """Returns the keys of rows of another form."""
        return Keys(self.prompt_key, self.reference_key)

    @property
    def files(self) -> Mapping[Split, Path]:
        """Returns the three files."""
        return {"train": Path(self.train), "validation": Path(self.validation), "test": Path(self.test)}


@task("replies")
class RepliesSettings(FileSettings):
    """Replies to posts, judged by a relevance classifier on embeddings."""

    seed: int = 0

    def build(self) -> Task:
        """Makes the task."""
        from polychromic.tasks.replies import RepliesTask

        return RepliesTask(
            **self.files,
            embedder=self.embedder,
            seed=self.seed,
            same=self.same_answer,
            second=self.second_same_answer,
            keys=self.keys,
        )


@task("custom")
class CustomSettings(FileSettings):
    """The user's own prompts and checkers."""

    checker: str | None = None
    """`exact_match`, `contains`, `rouge_l`, `regex`, `math`, `module:function` or `path/to/file.py:function`."""
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

    @property
    def code(self) -> Mapping[str, str]:
        """Returns the checkers that are named."""
        named = {"checker": self.checker, "judge": self.judge}
        return {role: name for role, name in named.items() if name is not None} | dict(super().code)

    @property
    def has_forms(self) -> bool:
        """Returns True where the checker knows canonical forms: of mathematics, and of what a pattern catches."""
        return self.checker in FORMS

    @property
    def has_checker(self) -> bool:
        """Returns True where a checker is named."""
        return self.checker is not None

    @property
    def has_judge(self) -> bool:
        """Returns True where a second checker is named."""
        return self.judge is not None

    def without_code(self) -> Self:
        """Returns the settings without the checkers that are the user's own code."""
        named = {"checker": self.checker, "judge": self.judge}
        own = {role: None for role, name in named.items() if name and name not in BUILT_IN}
        return self.model_copy(update=own)

    def build(self) -> Task:
        """Makes the task, with the processes of its checkers."""
        from polychromic.tasks.jsonl_task import CustomTask

        passed = {"same": self.same_answer, "second": self.second_same_answer, "keys": self.keys}
        others = {"name", "thinking", "same_answer", "second_same_answer", "prompt_key", "reference_key"}
        return CustomTask(**self.files, **self.model_dump(exclude=others | self.files.keys()), **passed)


@task("reasoning_gym")
class PuzzleSettings(TaskKeys):
    """Puzzles of the package `reasoning-gym`, with its own scorers."""

    dataset: str
    train_problems: int = Field(default=1000, ge=0)
    validation_problems: int = Field(default=100, ge=0)
    test_problems: int = Field(default=200, ge=1)
    seed: int = 0
    options: dict[str, Any] = Field(default_factory=dict)
    """Passed on to the dataset, such as {min_numbers: 3}."""
    pass_score: float = Field(default=1.0, gt=0, le=1)
    """Least score that passes; wrong answers may earn a trace."""
    prompt: str | None = None
    """Text in place of the dataset's own question, with facts of the problem in braces: `{numbers}={target}:`."""
    seconds: float = Field(default=10.0, gt=0)

    @property
    def data(self) -> str:
        """Says how the problems were drawn."""
        return f"{self.dataset} of reasoning-gym, seed {self.seed}, {self.train_problems:,} training problems"

    @property
    def has_judge(self) -> bool:
        """Returns False: the scorer decides alone."""
        return False

    def build(self) -> Task:
        """Makes the task."""
        from polychromic.tasks.puzzles import PuzzleTask

        sizes: dict[Split, int] = {
            "train": self.train_problems, "validation": self.validation_problems, "test": self.test_problems
        }  # fmt: skip
        keys = (self.options, self.pass_score, self.seconds, self.prompt)
        return PuzzleTask(self.dataset, sizes, self.seed, *keys)


class ImportedSettings(TaskKeys):
    """A task of the user's own: `name` is its import path, and every further key is passed on to it."""

    model_config = ConfigDict(extra="allow")
    same_answer: SameAnswer | None = None
    """Rule by which answers are the same; None leaves it to the task: its `cluster`, else spelling."""
    second_same_answer: SecondSameAnswer = SecondSameAnswer(kind="none")
    """A second partition that training never sees."""

    @property
    def code(self) -> Mapping[str, str]:
        """Returns the task itself, and the functions that say which answers are the same, where there are any."""
        return {"task": self.name, **_functions(self.same_answer, self.second_same_answer)}

    @property
    def services(self) -> list[str]:
        """Returns the addresses that answers are sent to."""
        return _services(self.same_answer, self.second_same_answer)

    @property
    def data(self) -> str:
        """Names the code that the prompts come from."""
        return f"the prompts of {Path(self.name).name}"

    def build(self) -> Task:
        """Imports and makes the task. Raises ConfigError where its keys do not fit, or what it makes is no task."""
        factory, keys, kind = resolve(self.name, TASKS, "task"), self.model_extra or {}, f"task {self.name}"
        if isinstance(factory, type) and issubclass(factory, BaseModel) and hasattr(factory, "build"):
            named = {"name": self.name} if "name" in factory.model_fields else {}
            try:
                settings: Any = factory.model_validate({**named, **keys})
            except ValidationError as error:
                problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
                raise ConfigError(f"{kind}: {'; '.join(problems)}") from error
            built = settings.build()
        else:
            built = construct(factory, kind, **keys)
        missing = [
            name for name in _MEMBERS if not hasattr(type(built), name) and name not in getattr(built, "__dict__", {})
        ]
        if missing:
            raise ConfigError(
                f"{kind} makes a {type(built).__name__}, which lacks {', '.join(missing)} of polychromic.tasks.Task"
            )
        if self.same_answer:
            from polychromic.tasks.equivalence import build_equivalence

            built.equivalence = build_equivalence(self.same_answer, built)
            built.same = self.same_answer
        if self.second_same_answer.kind != "none":
            built.second = self.second_same_answer
        return built


def _functions(first: SameAnswer | None, second: SameAnswer) -> dict[str, str]:
    named = {"same_answer": first, "second_same_answer": second}
    return {key: same.kind for key, same in named.items() if same is not None and same.is_code}


def _services(*named: SameAnswer | None) -> list[str]:
    return [same.service for same in named if same is not None and same.service is not None]


_MEMBERS = ("name", "pass_threshold", "prompts", "check", "judge", "cluster", "distances")
_IMPORTED = "file.py:name or module:name"


def _entry(section: Any) -> str | None:
    """Returns the tag of a task section: its name, or that of tasks named by import path."""
    name = section.get("name") if isinstance(section, Mapping) else getattr(section, "name", None)
    return _IMPORTED if isinstance(name, str) and is_import_path(name) else name


if TYPE_CHECKING:
    TaskSettings = TaskKeys
else:
    _CHOICES = [Annotated[settings, Tag(name)] for name, settings in TASKS.items()]
    TaskSettings = Annotated[Union[*_CHOICES, Annotated[ImportedSettings, Tag(_IMPORTED)]], Discriminator(_entry)]
    """The section as a file states it: settings of the registered task of that name, or of the user's own."""
