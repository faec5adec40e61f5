"""From the `task` section to the task."""

from __future__ import annotations

from pathlib import Path

from polychromic.tasks.base import Task
from polychromic.tasks.settings import ArithmeticSettings, RepliesSettings, TaskSettings


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
