"""The user's own task: prompts from JSON lines, checked by a built-in checker or by a Python function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polychromic.records import Check, Prompt
from polychromic.tasks.checkers import load_checker, run_checker
from polychromic.tasks.files import FileTask


class CustomTask(FileTask):
    """Prompts with the checkers that the experiment file names.

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
    ):
        super().__init__(train, validation, test, embedder)
        self.pass_threshold = pass_threshold
        self._check = load_checker(checker) if checker else None
        self._judge = load_checker(judge) if judge else None

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """The training checker's word; an exception or an impossible value is a Check with the reason."""
        if self._check is None:
            return [Check(None, "task.checker is not set")] * len(texts)
        return run_checker(self._check, prompts, texts)

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """The second checker's word, or None where none is named."""
        return run_checker(self._judge, prompts, texts) if self._judge else None
