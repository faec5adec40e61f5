"""Makes the equivalence that a task section states, and the second one that training never sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from polychromic.diversity.embedders import HashedNgramEmbedder, load_embedder
from polychromic.diversity.equivalence import (
    Embedded,
    Equivalence,
    Exact,
    Normalised,
    Partition,
    SpellingAside,
    TextGroup,
    calibrated_distance,
    normalised_form,
)
from polychromic.errors import ConfigError
from polychromic.numerics import label_codes
from polychromic.records import Prompt
from polychromic.tasks.base import Task
from polychromic.tasks.partitions.settings import SameAnswer

DISTANCE = 0.25
_CALIBRATION_PROMPTS = 500


class TaskForms:
    """Takes answers for the same that the task gives one form; what it has no form for is compared by spelling."""

    name = "the task's canonical form"

    def __init__(self, task: Task) -> None:
        self._task = task

    def form(self, prompt: Prompt, text: str) -> str | None:
        """Returns the task's form, or the normalised text."""
        form = self._task.cluster(prompt, text)
        return normalised_form(text) if form is None else form

    def partitions(self, groups: Sequence[TextGroup]) -> list[Partition]:
        """Divides by form."""
        return [Partition(label_codes(self.form(prompt, text) for text in texts)) for prompt, texts in groups]


def equivalence_of(task: Task) -> Equivalence:
    """Returns the task's equivalence: the stated one, else its canonical forms, else normalised texts."""
    stated = getattr(task, "equivalence", None)
    if stated is not None:
        return stated
    return Normalised() if type(task).cluster is Task.cluster else TaskForms(task)


def second_equivalence_of(task: Task, embedder: str | None) -> Equivalence | None:
    """Makes the second equivalence that the task states, which training never sees; None where it has none.

    `embedder` is that of evaluation, which a second partition by meaning takes unless another is stated.
    """
    second = getattr(task, "second", None)
    same = second.beside(getattr(task, "same", None), embedder) if second is not None else None
    return build_equivalence(same, task) if same is not None else None


def build_equivalence(same: SameAnswer, task: Any) -> Equivalence:
    """Makes the equivalence that a task section states. Raises CheckerError where a function cannot be called."""
    if same.is_code:
        from polychromic.tasks.partitions.function import FunctionEquivalence

        return FunctionEquivalence(same.kind, same.seconds, same.rule)
    if same.kind == "classifier":
        from polychromic.tasks.partitions.classifier import ClassifierEquivalence

        return ClassifierEquivalence(same)
    if same.kind == "judge":
        from polychromic.tasks.partitions.judge import JudgeEquivalence

        return JudgeEquivalence(same)
    return _KINDS[same.kind](same, task)


class LazyEmbedded:
    """Embeds with the task's embedder or the stated one, loaded and calibrated on training references when it is first
    used."""

    def __init__(self, same: SameAnswer, task: Any) -> None:
        self._same = same
        self._task = task

    @property
    def name(self) -> str:
        """Returns the distance and the weights of the embedder."""
        return self.embedded.name

    def form(self, prompt: Prompt, text: str) -> str | None:
        """Returns None: what is close is decided in the whole group."""
        return None

    def partitions(self, groups: Sequence[TextGroup]) -> list[Partition]:
        """Divides by distance of the embeddings."""
        return self.embedded.partitions(groups)

    @cached_property
    def embedded(self) -> Embedded:
        """Loads the embedder, and calibrates the distance where that is asked for."""
        own = self._same.embedder
        embedder = load_embedder(own) if own else getattr(self._task, "embedder", None) or load_embedder()
        if isinstance(embedder, HashedNgramEmbedder):
            embedder = SpellingAside(embedder)  # to n-grams capital letters are other letters
        distance = self._same.distance or DISTANCE
        if distance != "calibrated":
            return Embedded(embedder, distance)
        references = [prompt.references for prompt in self._task.prompts("train")[:_CALIBRATION_PROMPTS]]
        try:
            distance = calibrated_distance(embedder, references)
        except ValueError as error:
            raise ConfigError(f"task.same_answer.distance is calibrated: {error}; state a distance") from error
        return Embedded(embedder, distance, ", calibrated on references")


_KINDS: dict[str, Callable[[SameAnswer, Any], Equivalence]] = {
    "normalised": lambda same, task: Normalised(),
    "exact": lambda same, task: Exact(),
    "canonical": lambda same, task: TaskForms(task),
    "embedding": LazyEmbedded,
}
