"""Holds the sections of an experiment file that say how the work is carried out: none of them changes a result."""

from __future__ import annotations

from pydantic import Field, field_validator

from polychromic.registry import is_import_path
from polychromic.settings import Settings

BUILT_IN_EXECUTORS = ("local", "processes", "ray")


class PreflightSettings(Settings):
    """The checks before the work."""

    minutes: float = Field(default=2.0, gt=0)
    """The time that all checks together may take. It is kept by lowering counts (prompts, answers, timed steps), and
    each check says what it lowered; loading a model takes what it takes."""


class RaySettings(Settings):
    """The cluster of `executor: ray`, and what each task asks of it."""

    address: str | None = None
    """`auto` or `HOST:PORT` of a running cluster whose machines all see the run folder at the same path; null
    starts one on this machine, with `run.workers` tasks at a time, which ends with the run."""
    cpus: float = Field(default=1.0, gt=0)
    """Cores of a task. Threads are those of the run's first start, on any machine: the last bits of a sum depend on
    them."""
    gpus: float = Field(default=0.0, ge=0)
    """GPUs of a task; 1 where models are trained on one: Ray hides them from tasks that ask for none."""
    retries: int = Field(default=3, ge=0)
    """Times that a task is started again, from its last checkpoint, after its machine or process was lost."""
    evaluation_shards: int = Field(default=1, ge=1)
    """Tasks that the evaluation of one arm and seed is spread over."""


class RunSettings(Settings):
    """The work's place: workers, executor, preflight and trackers."""

    workers: int = Field(default=1, ge=1)
    """Arms and seeds trained side by side, each with its share of the cores; of several GPUs each takes one."""
    executor: str = "processes"
    """Carries out arms and seeds: `local`, `processes`, `ray`, or a function of your own, `file.py:name` or
    `module:name`."""
    ray: RaySettings = Field(default_factory=RaySettings)
    preflight: bool = True
    """Check model, data, checker, gradients, memory and cost before the work begins."""
    tracking: list[str] = Field(default_factory=list)
    """Beside metrics.jsonl: any of `tensorboard`, `wandb`, `trackio`. Without an account (`WANDB_API_KEY` or `wandb
    login`) wandb logs offline."""

    @field_validator("executor")
    @classmethod
    def _executor_has_a_name(cls, executor: str) -> str:
        if executor not in BUILT_IN_EXECUTORS and not is_import_path(executor):
            raise ValueError(
                f"{executor!r} is not known; expected {', '.join(BUILT_IN_EXECUTORS)}, file.py:name or module:name"
            )
        return executor

    @field_validator("tracking")
    @classmethod
    def _known_trackers(cls, tracking: list[str]) -> list[str]:
        if unknown := sorted(set(tracking) - {"tensorboard", "wandb", "trackio"}):
            raise ValueError(f"unknown tracker {unknown[0]!r}, expected tensorboard, wandb or trackio")
        return tracking
