"""Carries out jobs on all processes that `accelerate launch` or `torchrun` started: they train together.

The first process is the run: it alone reads the file, writes the folder, evaluates and reports. The others wait for the
arms that it trains.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from polychromic import stopping
from polychromic.errors import TrainingError
from polychromic.experiment.jobs import Job, OnEvent, arm_run, carry_out, trainable_run
from polychromic.plain_text import log_plainly
from polychromic.run_folder import RunFolder
from polychromic.seeding import deterministic
from polychromic.tasks.base import build_task

if TYPE_CHECKING:
    from polychromic.experiment.executors import OnJobDone
    from polychromic.training.parallel import Processes


def lead(jobs: Sequence[Job], workers: int, on_event: OnEvent, on_done: OnJobDone) -> None:
    """Carries out the jobs one after the other, each with the other processes; whatever `workers` says."""
    from polychromic.training.parallel import join_processes

    processes = join_processes()
    for job in jobs:
        run = trainable_run(job) if "train" in job.stages else None
        if run is not None:
            processes.from_first((job, run.baseline_quality))
        on_done(job, carry_out(job, on_event))


def dismiss() -> None:
    """Lets the other processes end: nothing is left to train."""
    from polychromic.training.parallel import join_processes

    join_processes().from_first(None)


def follow() -> None:
    """Trains with the first process until that has nothing left. Raises TrainingError where it is gone."""
    from polychromic.training.parallel import join_processes

    log_plainly(logging.ERROR)  # warnings are the first process's to say
    stopping.listen()
    processes = join_processes()
    while (message := _next_job(processes)) is not None:
        _train_along(*message)


def _next_job(processes: Processes) -> tuple[Job, tuple[float, ...]] | None:
    """Waits for a job with its baseline's quality; None when there is none left."""
    nothing: Any = None
    try:
        return processes.from_first(nothing)
    except RuntimeError as error:
        raise TrainingError(f"process {processes.rank}: the first process has ended ({error})") from error


def _train_along(job: Job, baseline_quality: tuple[float, ...]) -> None:
    from polychromic.training.base import build_trainer

    arm = job.experiment.arm(job.arm)
    run = arm_run(job.experiment, arm, job.seed, RunFolder(job.root), build_task(job.experiment.task))
    with deterministic(job.threads):
        build_trainer(arm.training.engine).train(replace(run, baseline_quality=baseline_quality))
