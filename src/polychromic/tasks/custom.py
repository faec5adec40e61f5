"""The user's own task: prompts from JSON lines, checked by a built-in checker or by a Python function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from polychromic.records import Check, Prompt
from polychromic.tasks.checkers import BUILT_IN, run_checker
from polychromic.tasks.files import FileTask
from polychromic.tasks.isolation import isolated_checker


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
        checker_seconds: float = 10.0,
        checker_memory_gb: float = 8.0,
        checker_recheck: bool = True,
    ):
        super().__init__(train, validation, test, embedder)
        self.pass_threshold = pass_threshold
        self._check, self._judge = (
            checker_runner(
                name, seconds=checker_seconds, memory_gb=checker_memory_gb, recheck=checker_recheck
            )
            if name
            else None
            for name in (checker, judge)
        )

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """The training checker's word; an exception or an impossible value is a Check with the reason."""
        if self._check is None:
            return [Check(None, "task.checker is not set")] * len(texts)
        return self._check(prompts, texts)

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """The second checker's word, or None where none is named."""
        return self._judge(prompts, texts) if self._judge else None


def checker_runner(
    name: str, *, seconds: float, memory_gb: float, recheck: bool
) -> Callable[[Sequence[Prompt], Sequence[str]], list[Check]]:
    """Runs the named checker on pairs: built-in ones here, the user's own code in a process of its own."""
    if name in BUILT_IN:
        return partial(run_checker, BUILT_IN[name])
    return isolated_checker(name, seconds=seconds, memory_gb=memory_gb, recheck=recheck).run
