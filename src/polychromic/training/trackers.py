"""Sends training metrics on: always to metrics.jsonl, and to TensorBoard, Weights & Biases or trackio when asked."""

from __future__ import annotations

import contextlib
import importlib
import logging
import netrc
import os
import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from polychromic.errors import ConfigError
from polychromic.files import append_jsonl, read_derived, read_jsonl, strict_json, write_json, write_text
from polychromic.run_folder import ArmFolder

logger = logging.getLogger(__name__)

_LONGEST_QUEUE = 1000
_SECONDS_TO_CLOSE = 10.0
_SECONDS_TO_START = 30.0  # wandb waits 90, and a process with an unreachable server as long to end
_MOST_FAILURES = 20


class Tracker(Protocol):
    """A place that takes named numbers at a step."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records the numbers."""
        ...

    def close(self) -> None:
        """Flush."""
        ...


class MetricsFile:
    """metrics.jsonl: one row a step, the file that the report reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, step: int) -> None:
        """Drops the rows of steps after `step`, which a resumed run is going to write again."""
        if self.path.exists():
            rows = [row for row in read_jsonl(self.path) if row["step"] <= step]
            write_text(self.path, "".join(strict_json(row) + "\n" for row in rows))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Appends the row of a step."""
        append_jsonl(self.path, [{"step": step, **metrics}])


class TensorBoardTracker:
    """Event files below the arm's folder. What an earlier start wrote of steps after `steps_done` is made again, and
    TensorBoard then leaves it out."""

    def __init__(self, folder: Path, steps_done: int) -> None:
        writer = _require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(folder / "tensorboard"), purge_step=steps_done + 1)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records the numbers."""
        for name, number in metrics.items():
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        """Flush."""
        self._writer.close()


class HostedTracker:
    """Weights & Biases, or trackio, which has the same interface. Without an account wandb logs offline.

    A later start in the same folder goes on with the tracker's run, which tracking.json remembers.
    """

    def __init__(self, package: str, folder: Path, project: str, name: str) -> None:
        self._module = _require(package, package)
        known = _known_run(folder, package)
        # trackio knows a run by its name alone: another folder's run of that name is not gone on with.
        options: dict[str, Any] = {"project": project, "name": name, "resume": "allow" if known else "never"}
        if package == "wandb":
            # An interactive login prompt would hang an unattended run.
            offline = "WANDB_MODE" not in os.environ and not has_wandb_account()
            settings = self._module.Settings(init_timeout=_SECONDS_TO_START)
            options |= {"dir": str(folder), "mode": "offline" if offline else None, "settings": settings}
            known = known or uuid.uuid4().hex
            options |= {"id": known, "resume": "allow"}
        self._run = self._module.init(**options)
        _remember_run(folder, package, known or name)
        self._next = int(getattr(self._run, "step", 0))
        """The first step that wandb takes: it warns of each one that it has already."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records the numbers of a step that the tracker does not have yet."""
        if step >= self._next:
            self._module.log(dict(metrics), step=step)

    def close(self) -> None:
        """Flush."""
        self._module.finish()


def _known_run(folder: Path, package: str) -> str:
    """Returns what a tracker knows the run of this folder by; empty before its first start."""
    return (read_derived(ArmFolder(folder).tracking) or {}).get(package, "")


_REMEMBERING = threading.Lock()  # each tracker starts in a thread of its own


def _remember_run(folder: Path, package: str, run: str) -> None:
    path = ArmFolder(folder).tracking
    with _REMEMBERING:
        runs = read_derived(path) or {}
        if runs.get(package) != run:
            write_json(path, {**runs, package: run})


WANDB_ADDRESS = "https://api.wandb.ai"


def has_wandb_account() -> bool:
    """Tells whether wandb knows an account: by the environment, or by the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", WANDB_ADDRESS)).hostname or ""
    stated = os.environ.get("NETRC")
    for file in [stated] if stated else ["~/.netrc", "~/_netrc"]:
        with contextlib.suppress(OSError, UnicodeDecodeError, netrc.NetrcParseError):
            return netrc.netrc(Path(file).expanduser()).authenticators(host) is not None
    return False


class BackgroundTracker:
    """A tracker in a thread of its own: one that is slow, refused or broken neither stops training nor slows it.

    Numbers that do not fit into the queue are dropped for this tracker (metrics.jsonl has them all). The first
    failure is said; after many in a row the tracker is given up.
    """

    def __init__(self, name: str, build: Callable[[], Tracker]) -> None:
        self.name = name
        self._waiting: queue.Queue[tuple[dict[str, float], int] | None] = queue.Queue(_LONGEST_QUEUE)
        self._thread = threading.Thread(target=self._work, args=(build,), daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Hands the numbers over and returns at once."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait((dict(metrics), step))

    def close(self) -> None:
        """Give the tracker a few seconds to finish."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_SECONDS_TO_CLOSE)
        self._thread.join(_SECONDS_TO_CLOSE)
        if self._thread.is_alive():
            logger.warning("tracker %s did not finish in time; metrics.jsonl is whole", self.name)

    def _work(self, build: Callable[[], Tracker]) -> None:
        # Everything happens in this thread: some trackers keep their run in a variable of the thread.
        failures = 0
        try:
            tracker = build()
        except Exception as error:  # noqa: BLE001 - the tracker boundary: other people's services must not end a run
            logger.warning("tracker %s could not start (%s); metrics.jsonl goes on", self.name, _reason(error))
            return
        while (item := self._waiting.get()) is not None and failures < _MOST_FAILURES:
            try:
                tracker.log(*item)
                failures = 0
            except Exception as error:  # noqa: BLE001 - the tracker boundary again
                failures += 1
                if failures in (1, _MOST_FAILURES):
                    logger.warning("tracker %s failed %d times in a row: %s", self.name, failures, _reason(error))
        with contextlib.suppress(Exception):
            tracker.close()


def _reason(error: Exception) -> str:
    """Its message; its kind where it has none, such as a time-out."""
    return str(error) or type(error).__name__


def open_trackers(names: Sequence[str], folder: Path, *, project: str, run_name: str, steps_done: int) -> list[Tracker]:
    """Returns the trackers asked for, which go on after `steps_done` where an earlier start got so far.

    Raises ConfigError with the install command where a package is missing.
    """
    trackers: list[Tracker] = []
    for name in names:
        hosted = name != "tensorboard"
        _require(name if hosted else "torch.utils.tensorboard", name)
        build = (
            partial(HostedTracker, name, folder, project, run_name)
            if hosted
            else partial(TensorBoardTracker, folder, steps_done)
        )
        trackers.append(BackgroundTracker(name, build))
    return trackers


def _require(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"run.tracking: {extra} is not installed; `pip install 'polychromic[{extra}]'`, or leave it out"
        ) from error
