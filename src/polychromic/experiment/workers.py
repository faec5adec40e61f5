"""Runs jobs one after another, or side by side in worker processes that share the machine's cores."""

from __future__ import annotations

import logging
import multiprocessing
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from polychromic import stopping
from polychromic.errors import StoppedError, TrainingError
from polychromic.experiment.jobs import Job, JobEvent, OnEvent, carry_out
from polychromic.plain_text import log_plainly
from polychromic.processes import open_worker_pool

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
            "checkpoint is kept. Lower run.workers, training.micro_batch or evaluation.max_sequences, and run "
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
