"""Carries out jobs, in this process or in workers."""

from __future__ import annotations

import logging
import math
import multiprocessing
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from polychromic import stopping
from polychromic.errors import ConfigError, StoppedError, TrainingError
from polychromic.experiment.config import Arm, Experiment
from polychromic.files import read_jsonl
from polychromic.plain_text import log_plainly
from polychromic.processes import open_worker_pool
from polychromic.run_folder import RunFolder
from polychromic.sampling.base import build_sampler
from polychromic.seeding import deterministic
from polychromic.tasks.base import build_task

if TYPE_CHECKING:
    from polychromic.evaluation.collect import CollectionPlan
    from polychromic.models.loading import LanguageModel
    from polychromic.tasks.base import Task


def in_order_of_need(experiment: Experiment, arms: Sequence[str]) -> list[list[str]]:
    """The arms in one or two waves: those whose floor follows the baseline come after it."""
    followers = [arm for arm in arms if experiment.arm(arm).diversity.follows_baseline]
    first = [arm for arm in arms if arm not in followers]
    return [wave for wave in (first, followers) if wave]


def is_measured_from(experiment: Experiment, arm: str) -> bool:
    """Whether the floor of another arm follows this one."""
    others = [experiment.arm(name).diversity for name in experiment.arms if name != arm]
    return arm == experiment.comparison.baseline and any(other.follows_baseline for other in others)


def baseline_quality(experiment: Experiment, arm: str, seed: int, folder: RunFolder) -> tuple[float, ...]:
    """The baseline's quality at each step of this seed, empty for an arm that does not follow it.

    Mean reward, or minus the cross-entropy of validation references: nan at steps that did not measure it.
    Raises ConfigError where the baseline has not been trained yet, or not with a look at validation references.
    """
    if not experiment.arm(arm).diversity.follows_baseline:
        return ()
    baseline = experiment.comparison.baseline
    trained = folder.arm(baseline, seed)
    if not trained.is_trained:
        raise ConfigError(
            f"arms.{arm}: diversity.floor_margin is measured from the trained arm {baseline!r}, and {trained.adapter} "
            f"does not exist; train it first: --arm {baseline} --seed {seed}"
        )
    key = experiment.arm(arm).loss.quality_key
    quality = tuple(-row.get(key, math.nan) for row in read_jsonl(trained.metrics))
    if all(map(math.isnan, quality)):
        raise ConfigError(
            f"arms.{arm}: diversity.floor_margin is measured from {key} of {trained.metrics}, which has none: "
            f"the arm {baseline!r} was trained without another arm that follows it; start anew with --fresh"
        )
    return quality


Stage = Literal["train", "evaluate"]


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Progress of a job: steps or generations done of all, with the step's metrics while training.

    A stage's first event, before its model is loaded, has a total of 0: work begins here, and so does its price.
    """

    arm: str
    seed: int
    stage: Stage
    done: int
    total: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Job:
    """One arm with one seed and the stages to carry out."""

    experiment: Experiment
    arm: str
    seed: int
    root: Path
    stages: tuple[Stage, ...] = ("train", "evaluate")
    threads: int | None = None
    """Threads to split work over: the run's own number, since the last bits of a sum depend on it. None: as it is."""


OnEvent = Callable[[JobEvent], None]


def carry_out(job: Job, on_event: OnEvent) -> list[dict[str, Any]]:
    """Do a job's stages, continuing what an earlier start left; returns the ledger rows of the work done now."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # loading bars would tear the run's own progress
    arm = job.experiment.arm(job.arm)
    ledger = []
    for stage in job.stages:
        stopping.stop_if_requested(f"what was done before {job.arm}/seed-{job.seed} {stage} is kept")
        started = time.monotonic()
        work = _train if stage == "train" else _evaluate
        with deterministic(job.threads):
            tokens = work(job, arm, on_event)
        if tokens is not None:
            seconds = time.monotonic() - started
            ledger.append(
                {"arm": job.arm, "seed": job.seed, "stage": stage, "seconds": seconds, "tokens": tokens}
            )
    return ledger


def _train(job: Job, arm: Arm, on_event: OnEvent) -> int | None:
    """Train the arm; the number of sampled tokens, or None where nothing was left to do."""
    from polychromic.training.artifacts import is_trained
    from polychromic.training.base import ArmRun, build_trainer

    run = ArmRun(
        experiment=job.experiment.name,
        arm=arm.name,
        seed=job.seed,
        folder=RunFolder(job.root).arm(arm.name, job.seed).root,
        task=build_task(job.experiment.task),
        model=arm.model,
        training=arm.training,
        diversity=arm.diversity,
        tracking=tuple(job.experiment.run.tracking),
        thinking=job.experiment.task.thinking,
        sampling=job.experiment.sampling,
        baseline_quality=baseline_quality(job.experiment, arm.name, job.seed, RunFolder(job.root)),
        is_measured_from=is_measured_from(job.experiment, arm.name),
    )
    if arm.untrained or is_trained(run.folder):
        return None
    on_event(_beginning(job, "train"))
    tokens = 0

    def on_step(done: int, total: int, metrics: Mapping[str, float]) -> None:
        nonlocal tokens
        tokens += round(metrics.get("generation/total_tokens", 0))
        on_event(JobEvent(arm.name, job.seed, "train", done, total, metrics))

    build_trainer(arm.training.trainer).train(run, on_step)
    if not is_trained(run.folder):
        raise TrainingError(
            f"the trainer {arm.training.trainer} ended without a finished adapter in {run.folder}; docs/run-folder.md "
            "says what it has to write"
        )
    return tokens


def _evaluate(job: Job, arm: Arm, on_event: OnEvent) -> int | None:
    """Sample the evaluation prompts and score their references; the number of tokens sampled now, or None where
    nothing was left to do."""
    from polychromic.evaluation.collect import collect
    from polychromic.experiment.compare import score_references
    from polychromic.training.artifacts import adapter_digest

    folder = RunFolder(job.root)
    task = build_task(job.experiment.task)
    plan = collection_plan(job.experiment, job.arm, job.seed, folder, task)

    @cache
    def load_model() -> LanguageModel:
        from polychromic.models.loading import load_language_model
        from polychromic.models.selfcheck import check_on_prompts
        from polychromic.training.artifacts import add_model_check

        on_event(_beginning(job, "evaluate"))
        if arm.untrained:
            start = arm.model.adapter.start_from
            adapter = Path(start) if start else None
        else:
            adapter_digest(
                folder.arm(arm.name, job.seed).root
            )  # answers of damaged weights look like any others
            adapter = folder.arm(arm.name, job.seed).adapter
        language_model = load_language_model(arm.model, adapter=adapter, trainable=False)
        check = check_on_prompts(
            language_model,
            plan.prompts,
            max_new_tokens=plan.sampling_settings[0].max_new_tokens,
            trains=False,
        )
        add_model_check(folder.arm(arm.name, job.seed).root, "evaluate", check)
        return language_model

    worked, sampled = False, 0

    def on_chunk(done: int, total: int, tokens: int) -> None:
        nonlocal worked, sampled
        worked = True
        sampled += tokens
        metrics = {"generation/total_tokens": float(tokens)}
        on_event(JobEvent(arm.name, job.seed, "evaluate", done, total, metrics))
        stopping.stop_if_requested(f"{arm.name}/seed-{job.seed} keeps its {done} generations")

    collect(
        plan,
        lambda: build_sampler(
            job.experiment.sampling,
            load_model(),
            max_decode_batch=plan.max_decode_batch,
            thinking=job.experiment.task.thinking,
            verbalized=arm.verbalized,
        ),
        task,
        folder.arm(arm.name, job.seed).generations,
        on_chunk,
    )
    # Verbalized prompts are not those that the references answer.
    if arm.verbalized is None:
        worked |= score_references(
            folder.arm(arm.name, job.seed).references, plan.prompts, load_model, plan.adapter
        )
    return sampled if worked else None


def _beginning(job: Job, stage: Stage) -> JobEvent:
    return JobEvent(job.arm, job.seed, stage, 0, 0, {})


def collection_plan(
    experiment: Experiment, arm: str, seed: int, folder: RunFolder, task: Task
) -> CollectionPlan:
    """What is sampled. Arms share the random numbers of a prompt: what differs between them is the policy.

    Raises DataError where the arm is not trained, or its adapter is not what training wrote.
    """
    from polychromic.evaluation.collect import CollectionPlan
    from polychromic.training.artifacts import adapter_digest

    settings = experiment.evaluation
    untrained = experiment.arm(arm).untrained
    return CollectionPlan(
        prompts=tuple(task.prompts(settings.split)[: settings.num_prompts]),
        samples=settings.num_samples,
        sampling_settings=tuple(settings.sampling_parameters()),
        names=(experiment.name, seed),
        max_decode_batch=settings.max_decode_batch,
        adapter=None if untrained else adapter_digest(folder.arm(arm, seed).root, may_be_gone=True),
    )


OnJobDone = Callable[[Job, list[dict[str, Any]]], None]

_events: Any = None  # the queue to the parent, set in each worker by _start_worker


def run_jobs(jobs: Sequence[Job], workers: int, on_event: OnEvent, on_done: OnJobDone) -> None:
    """Carry out all jobs; the first error stops what has not started and is raised."""
    workers = min(workers, len(jobs))
    if workers <= 1:
        for job in jobs:
            on_done(job, carry_out(job, on_event))
        return
    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    stop: Any = context.Event()
    pool = open_worker_pool(workers, _start_worker, (events, stop))
    try:
        pending: dict[Future[list[dict[str, Any]]], Job] = {pool.submit(_work, job): job for job in jobs}
        while pending:
            finished, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            if stopping.requested():
                stop.set()
            _drain(events, on_event)
            for future in finished:
                on_done(pending.pop(future), _result(future))
    finally:
        # What is still running may stop too: it continues from its checkpoint.
        stop.set()
        pool.shutdown(cancel_futures=True)


def _result(future: Future[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The ledger rows of a job; raises StoppedError where it was asked to stop, TrainingError where it died."""
    try:
        return future.result()
    except StoppedError as stopped:
        stopping.stop_if_requested(stopped.done)  # the worker knows that it should stop, this process why
        raise
    except BrokenProcessPool as error:
        raise TrainingError(
            "a worker process was ended from outside, often because memory ran out; everything up to its last "
            "checkpoint is kept. Lower run.workers, training.micro_batch_size or evaluation.max_decode_batch, and run "
            "again to continue"
        ) from error


def _start_worker(events: Any, stop: Any) -> None:
    global _events  # noqa: PLW0603  # one queue a process, set once before any work
    _events = events
    log_plainly(logging.WARNING)
    stopping.listen()
    stopping.watch(stop.is_set)


def _work(job: Job) -> list[dict[str, Any]]:
    return carry_out(job, _send)


def _send(event: JobEvent) -> None:
    _events.put(event)


def _drain(events: Any, on_event: OnEvent) -> None:
    while True:
        try:
            on_event(events.get_nowait())
        except queue.Empty:
            return
