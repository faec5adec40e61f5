"""Spreads jobs over this process, over worker processes, or over whatever a user brings."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from polychromic import stopping
from polychromic.errors import ConfigError, StoppedError, TrainingError
from polychromic.experiment.jobs import Job, JobEvent, OnEvent, carry_out
from polychromic.plain_text import log_plainly
from polychromic.processes import open_worker_pool
from polychromic.registry import resolve
from polychromic.sampling.base import close_engines

LedgerRows = list[dict[str, Any]]
OnJobDone = Callable[[Job, LedgerRows], None]
Executor = Callable[[Sequence[Job], int, OnEvent, OnJobDone], None]
"""Called as `executor(jobs, workers, on_event, on_done)`: carries out all jobs (`carry_out`), up to `workers` side by
side, and calls `on_done` in this process with the ledger rows of each as it ends. The first error is raised."""

_events: Any = None  # the queue to the parent, set in each worker by _start_worker


def build_executor(name: str) -> Executor:
    """Returns the executor of that name, or the function that `file.py:name` or `module:name` names.

    Raises ConfigError where there is none, or its package is not installed.
    """
    if name == "ray" and find_spec("ray") is None:
        raise ConfigError(
            "run.executor: ray needs the package ray; pip install 'polychromic[ray]', or set run.executor=processes"
        )
    return resolve(name, EXECUTORS, "executor", noun="function")


def local(jobs: Sequence[Job], workers: int, on_event: OnEvent, on_done: OnJobDone) -> None:
    """Carries out the jobs one after the other in this process, whatever `workers` says."""
    for job in jobs:
        on_done(job, carry_out(job, on_event))


def processes(jobs: Sequence[Job], workers: int, on_event: OnEvent, on_done: OnJobDone) -> None:
    """Carries out the jobs in worker processes, spread over the GPUs of the machine where there are several; what has
    not started when one fails is not begun."""
    workers = min(workers, len(jobs))
    if workers <= 1:
        local(jobs, workers, on_event, on_done)
        return
    close_engines()  # of preflight's samplers: each worker starts its own, and there may be no room for one more
    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    stop: Any = context.Event()
    places: Any = context.SimpleQueue()
    for number in range(workers):
        places.put(_gpu_of(number))
    pool = open_worker_pool(workers, _start_worker, (events, stop, places))
    try:
        pending: dict[Future[LedgerRows], Job] = {pool.submit(_work, job): job for job in jobs}
        while pending:
            finished, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
            if stopping.requested():
                stop.set()
            with suppress(queue.Empty):
                while True:
                    on_event(events.get_nowait())
            for future in finished:
                on_done(pending.pop(future), _result(future))
    finally:
        # What is still running may stop too: it continues from its checkpoint.
        stop.set()
        late = _close(pool, events)
    for event in late:
        on_event(event)


def _close(pool: ProcessPoolExecutor, events: Any) -> list[JobEvent]:
    """Ends the pool; returns the events that had not been read. A worker ends only once all of its own are."""
    closing = threading.Thread(target=pool.shutdown, kwargs={"cancel_futures": True})
    closing.start()
    late = []
    while closing.is_alive() or not events.empty():
        with suppress(queue.Empty):
            late.append(events.get(timeout=0.1))
    return late


def _result(future: Future[LedgerRows]) -> LedgerRows:
    """Returns the ledger rows of a job; raises StoppedError where it was asked to stop, TrainingError where it died."""
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


def _gpu_of(worker: int) -> str | None:
    """Returns what a worker's CUDA_VISIBLE_DEVICES shall be: of several GPUs each gets one, in turn; None leaves it."""
    import torch

    there = torch.cuda.device_count()
    if there < 2:
        return None
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = stated.split(",") if stated else [str(number) for number in range(there)]
    return names[worker % there]


def _start_worker(events: Any, stop: Any, places: Any) -> None:
    global _events  # noqa: PLW0603  # one queue per process, set once before any work
    _events = events
    gpu = places.get()
    if gpu is not None:  # before CUDA is first used here, which is when it is read
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    log_plainly(logging.WARNING)
    stopping.listen()
    stopping.watch(stop.is_set)


def _work(job: Job) -> LedgerRows:
    return carry_out(job, _events.put)


def ray(jobs: Sequence[Job], workers: int, on_event: OnEvent, on_done: OnJobDone) -> None:
    """Carries out the jobs as tasks of a Ray cluster (`experiment/cluster/ray_tasks.py`)."""
    from polychromic.experiment.cluster.ray_tasks import run_on_ray

    run_on_ray(jobs, workers, on_event, on_done)


EXECUTORS: Mapping[str, Executor] = {"local": local, "processes": processes, "ray": ray}
