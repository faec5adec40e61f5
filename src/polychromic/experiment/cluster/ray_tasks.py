"""Carries out jobs as tasks of a Ray cluster: on this machine, or on any whose machines see the run folder.

Training of one arm with one seed is a task; its evaluation is spread over as many as the file says, and a last one puts
their answers together. A task whose process or machine is lost is started again by Ray and continues from its
checkpoint, as any second start does. Progress comes back, and the wish to stop goes out, through one small actor.
"""

from __future__ import annotations

import logging
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polychromic import stopping
from polychromic.errors import ConfigError, PolychromicError, StoppedError, TrainingError
from polychromic.experiment.jobs import Job, JobEvent, OnEvent, carry_out
from polychromic.experiment.settings import RaySettings
from polychromic.plain_text import log_plainly
from polychromic.run_folder import RunFolder

if TYPE_CHECKING:
    from polychromic.experiment.executors import LedgerRows, OnJobDone

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 60.0  # for a checkpoint; what has not ended by then is ended
_LEAST_OBJECT_STORE = 80_000_000  # nothing large is passed: tasks read and write the run folder


def run_on_ray(jobs: Sequence[Job], workers: int, on_event: OnEvent, on_done: OnJobDone) -> None:
    """Carries out the jobs on the cluster that `run.ray` names. The first error is raised; what runs then stops at its
    next safe point, and nothing of it is left on the cluster."""
    if not jobs:
        return
    ray, settings = _ray(), jobs[0].experiment.run.ray
    warn_of_hidden_gpus(settings)
    with _cluster(ray, settings, min(workers, len(jobs) * settings.evaluation_shards)):
        mailbox = ray.remote(_Mailbox).options(num_cpus=0, max_restarts=-1).remote()
        submitted = [_submit(ray, job, settings, mailbox) for job in jobs]
        try:
            _follow(ray, jobs, submitted, mailbox, on_event, on_done)
        finally:
            _end(ray, [reference for references in submitted for reference in references], mailbox)


def warn_of_hidden_gpus(settings: RaySettings) -> None:
    """Warns where this machine has a GPU and no task asks for one: Ray then hides it from them all."""
    import torch

    if settings.gpus == 0 and torch.cuda.is_available():
        logger.warning(
            "run.ray.gpus is 0: Ray hides GPUs from tasks that ask for none, so that they train and sample on the CPU; "
            "set run.ray.gpus=1"
        )


def _ray() -> Any:
    import ray  # pyright: ignore[reportMissingImports]

    return ray


@contextmanager
def _cluster(ray: Any, settings: RaySettings, workers: int) -> Iterator[None]:
    """Connects to the stated cluster, or starts one here for the block. Where this program is connected already, as
    inside a Ray job, that cluster is used and left as it is."""
    if ray.is_initialized():
        yield
        return
    place = None
    if settings.address is not None:
        _require_answer(settings.address)
        try:
            _connect(ray, address=settings.address)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_answer(settings.address, error) from error
    else:
        place = Path(tempfile.mkdtemp(prefix="polychromic-ray-"))
        _connect(
            ray,
            num_cpus=max(1, round(workers * settings.cpus)),
            include_dashboard=False,
            object_store_memory=_LEAST_OBJECT_STORE,
            _temp_dir=str(place),
            _system_config={"worker_niceness": 0},  # as processes started without Ray have it
        )
    try:
        yield
    finally:
        ray.shutdown()
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)


def _connect(ray: Any, **options: Any) -> None:
    """Connects quietly, and keeps this program's own answer to SIGTERM, which Ray would replace: a checkpoint."""
    own = signal.getsignal(signal.SIGTERM)
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, own)


def _require_answer(address: str) -> None:
    """Raises ConfigError where nothing listens at HOST:PORT, for which Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"run.ray.address: no cluster answers at {address} ({str(error).splitlines()[0][:120]}); start one (`ray start "
        "--head`), or leave the address out for one on this machine"
    )


class _Mailbox:
    """Keeps progress until it is fetched, and the wish to stop."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []
        self.stopped = False

    def put(self, event: JobEvent) -> None:
        """Keeps an event."""
        self.events.append(event)

    def take(self) -> list[JobEvent]:
        """Hands out the events since the last call."""
        events, self.events = self.events, []
        return events

    def stop(self) -> None:
        """Asks all tasks to stop."""
        self.stopped = True

    def is_stopped(self) -> bool:
        """Tells tasks whether to stop."""
        return self.stopped


def _submit(ray: Any, job: Job, settings: RaySettings, mailbox: Any) -> list[Any]:
    """Submits the tasks of a job; returns their references, the one that ends the job last."""
    task = ray.remote(_work).options(
        num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=settings.retries, retry_exceptions=False
    )
    n = settings.evaluation_shards
    if n == 1 or "evaluate" not in job.stages:
        return [task.remote(job, mailbox)]
    before = [task.remote(replace(job, stages=("train",)), mailbox)] if "train" in job.stages else []
    evaluation = replace(job, stages=("evaluate",))
    shards = [task.remote(replace(evaluation, shard=(number, n)), mailbox, *before) for number in range(n)]
    return [*before, *shards, task.remote(evaluation, mailbox, *shards)]


def _work(job: Job, mailbox: Any, *before: LedgerRows | PolychromicError) -> LedgerRows | PolychromicError:
    """Carries out a job in a worker of the cluster; an error for people is returned, so that Ray takes for lost only
    what was lost. before: what the tasks that this one waits for returned."""
    failed = next((one for one in before if isinstance(one, PolychromicError)), None)
    if failed is not None:
        return failed
    if not RunFolder(job.root).provenance.exists():
        return TrainingError(
            f"{socket.gethostname()} does not see the run folder {job.root}: every machine of the cluster has to, at "
            "one path; put runs on storage that all share and name it with --out"
        )
    log_plainly(logging.WARNING)
    stopping.watch(_wish(mailbox))
    try:
        return carry_out(job, mailbox.put.remote)
    except PolychromicError as error:
        return error


def _wish(mailbox: Any) -> Callable[[], bool]:
    """Returns a function that asks the mailbox whether to stop, at most twice a second: steps may be short."""
    ray = _ray()
    stopped, asked = False, -_POLL_SECONDS

    def is_stopped() -> bool:
        nonlocal stopped, asked
        if not stopped and time.monotonic() - asked >= _POLL_SECONDS:
            asked = time.monotonic()
            try:
                stopped = ray.get(mailbox.is_stopped.remote(), timeout=30)
            except ray.exceptions.RayError:  # the run that asked for this is gone
                stopped = True
        return stopped

    return is_stopped


def _follow(
    ray: Any,
    jobs: Sequence[Job],
    submitted: Sequence[Sequence[Any]],
    mailbox: Any,
    on_event: OnEvent,
    on_done: OnJobDone,
) -> None:
    """Passes events on until every job has ended."""
    pending = {references[-1]: number for number, references in enumerate(submitted)}
    while pending:
        finished, _ = ray.wait(list(pending), timeout=_POLL_SECONDS)
        if stopping.requested():
            ray.get(mailbox.stop.remote())
        for event in ray.get(mailbox.take.remote()):
            on_event(event)
        for reference in finished:
            number = pending.pop(reference)
            rows = [row for one in submitted[number] for row in _result(ray, one)]
            on_done(jobs[number], rows)


def _result(ray: Any, reference: Any) -> LedgerRows:
    """Returns the ledger rows of a task; raises its error, and TrainingError where it was lost too often."""
    try:
        result = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        raise TrainingError(
            "a task was lost more often than run.ray.retries allows, often because memory ran out; everything up to "
            "its last checkpoint is kept. Lower run.workers, training.micro_batch_size or evaluation.max_decode_batch "
            "and run again to continue"
        ) from error
    if isinstance(result, StoppedError):
        stopping.stop_if_requested(result.done)  # the task knows that it should stop, this process why
    if isinstance(result, PolychromicError):
        raise result
    return result


def _end(ray: Any, references: Sequence[Any], mailbox: Any) -> None:
    """Stops what still runs: at its next safe point, and after a while at once."""
    _, running = ray.wait(list(references), num_returns=len(references), timeout=0)
    if running:
        with suppress(ray.exceptions.RayError):
            ray.get(mailbox.stop.remote(), timeout=_GRACE_SECONDS)
        _, running = ray.wait(running, num_returns=len(running), timeout=_GRACE_SECONDS)
    for reference in running:
        ray.cancel(reference, force=True, recursive=True)
    ray.kill(mailbox)
