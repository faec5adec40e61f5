"""From the `task` section to the task."""

from __future__ import annotations

from pathlib import Path

from polychromic.tasks.base import Task
from polychromic.tasks.checkers import BUILT_IN
from polychromic.tasks.settings import ArithmeticSettings, CustomSettings, RepliesSettings, TaskSettings


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
    from polychromic.tasks.custom import CustomTask

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
