"""Tasks from the user's own files: their prompts, checkers by name, and distances of meaning.

A row of a file holds `prompt` (a text) or `messages` (a list of {"role", "content"}, ending with the turn to be
answered); optionally `references` (a list of texts), or one `reference`, `completion` or `chosen`; a last assistant
turn in `messages` is a reference too; optionally `id` or `task_id` (unique in the file) and `meta` (an object). Other
keys are kept in the meta. Rows of other forms are recognised (`tasks/data/formats.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polychromic.diversity.embedders import Embedder, load_embedder
from polychromic.diversity.semantic import cosine_distances
from polychromic.records import NO_CHECKER, Check, Prompt
from polychromic.tasks.base import Split
from polychromic.tasks.checking.answers import with_patterns
from polychromic.tasks.checking.checkers import BUILT_IN, FORMS, RUN_APART, run_checker
from polychromic.tasks.checking.isolation import isolated_checker
from polychromic.tasks.data.formats import NO_KEYS, Keys
from polychromic.tasks.data.prompts import load_prompts
from polychromic.tasks.equivalence import build_equivalence
from polychromic.tasks.partitions.settings import AUTO, NORMALISED, SameAnswer, SecondSameAnswer


class FileTask:
    """Reads prompts from three files and measures distances of meaning; subclasses add the checkers."""

    def __init__(
        self,
        train: Path,
        validation: Path,
        test: Path,
        embedder: str,
        same: SameAnswer,
        second: SecondSameAnswer = AUTO,
        keys: Keys = NO_KEYS,
    ):
        self._keys = keys
        self._files: dict[Split, Path] = {"train": train, "validation": validation, "test": test}
        self._embedder_name = embedder
        self._loaded: dict[Split, list[Prompt]] = {}
        self.same, self.second = same, second
        self.equivalence = build_equivalence(same, self)

    def prompts(self, split: Split) -> list[Prompt]:
        """Reads all prompts of a split; raises DataError that lists every bad line."""
        if split not in self._loaded:
            self._loaded[split] = load_prompts(self._files[split], self._keys)
        return list(self._loaded[split])

    def cluster(self, prompt: Prompt, text: str) -> str | None:
        """Returns None: which answers are the same is the `equivalence`'s to say."""
        return None

    def distances(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Returns 1 − cosine of the embeddings, opposed meanings counted as 1."""
        return np.minimum(cosine_distances(self.embedder.encode(texts)), 1.0)

    @cached_property
    def embedder(self) -> Embedder:
        """Loads the sentence embedder when it is first used."""
        return load_embedder(self._embedder_name)


class CustomTask(FileTask):
    """Joins the prompts with the checkers that the experiment file names.

    Without a checker no generation has a reward, which training from references without a gate does not need.
    Raises CheckerError at once where a checker cannot be loaded.
    """

    name = "custom"

    def __init__(
        self,
        train: Path,
        validation: Path,
        test: Path,
        checker: str | None = None,
        judge: str | None = None,
        pass_threshold: float = 0.5,
        embedder: str = "minilm",
        checker_seconds: float = 10.0,
        checker_memory_gb: float = 8.0,
        checker_recheck: bool = True,
        same: SameAnswer = NORMALISED,
        second: SecondSameAnswer = AUTO,
        keys: Keys = NO_KEYS,
    ):
        forms = FORMS[checker or ""] if same.kind == "canonical" else same.kind
        super().__init__(train, validation, test, embedder, same.model_copy(update={"kind": forms}), second, keys)
        self.same = same
        self.pass_threshold = pass_threshold
        self._has_patterns = checker == "regex"
        isolated = partial(
            isolated_checker, seconds=checker_seconds, memory_gb=checker_memory_gb, recheck=checker_recheck
        )
        built_in = {
            name: partial(run_checker, function) for name, function in BUILT_IN.items() if name not in RUN_APART
        }
        self._check, self._judge = (
            None if not name else built_in.get(name) or isolated(name).run for name in (checker, judge)
        )

    def prompts(self, split: Split) -> list[Prompt]:
        """Reads all prompts of a split; of patterns, for the checker `regex`, only those are references that are
        answers."""
        if self._has_patterns and split not in self._loaded:
            self._loaded[split] = [with_patterns(prompt) for prompt in super().prompts(split)]
        return super().prompts(split)

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """Runs the training checker; an exception or an impossible value is a Check with the reason."""
        if self._check is None:
            return [Check(None, NO_CHECKER)] * len(texts)
        return self._check(prompts, texts)

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """Runs the second checker, where one is named."""
        return self._judge(prompts, texts) if self._judge else None
