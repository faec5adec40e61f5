"""Holds the sections of an experiment file that say how the work is carried out: none of them changes a result."""

from __future__ import annotations

from pydantic import Field, field_validator

from polychromic.registry import is_import_path
from polychromic.settings import Settings


class PreflightSettings(Settings):
    """The checks before the work."""

    minutes: float = Field(default=2.0, gt=0)
    """The time that all checks together may take. It is kept by lowering counts (prompts, answers, timed steps), and
    each check says what it lowered; loading a model takes what it takes."""


class RunSettings(Settings):
    """The work's place: workers, executor, preflight and trackers."""

    workers: int = Field(default=1, ge=1)
    """Arms and seeds trained side by side on a CPU, each with its share of the cores."""
    executor: str = "processes"
    """Carries out arms and seeds: `local`, `processes`, or a function of your own, `file.py:name` or `module:name`."""
    preflight: bool = True
    """Check model, data, checker, gradients, memory and cost before the work begins."""
    tracking: list[str] = Field(default_factory=list)
    """Beside metrics.jsonl: any of `tensorboard`, `wandb`, `trackio`."""

    @field_validator("executor")
    @classmethod
    def _executor_has_a_name(cls, executor: str) -> str:
        if executor not in ("local", "processes") and not is_import_path(executor):
            raise ValueError(
                f"{executor!r} is not known; expected local, processes, file.py:name or module:name"
            )
        return executor

    @field_validator("tracking")
    @classmethod
    def _known_trackers(cls, tracking: list[str]) -> list[str]:
        if unknown := sorted(set(tracking) - {"tensorboard", "wandb", "trackio"}):
            raise ValueError(f"unknown tracker {unknown[0]!r}, expected tensorboard, wandb or trackio")
        return tracking
