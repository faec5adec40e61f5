"""One process at a time works on a run folder. A dead owner's lock is free at once: the system holds it.

What `.owner.json` says is for people alone: a process id may be another's by now, or one of another machine.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from polychromic.errors import ConfigError, DataError
from polychromic.experiment.folder import RunFolder
from polychromic.files import read_json, write_json


@contextmanager
def hold(folder: RunFolder) -> Iterator[None]:
    """Hold the folder's lock. Raises ConfigError that names the owner where another process has it."""
    from filelock import FileLock, Timeout

    folder.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{folder.root}: {_owner(folder)}; wait for it, or use another place with --out"
        ) from None
    try:
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(folder.owner, {"pid": os.getpid(), "host": socket.gethostname(), "started": started})
        yield
    finally:
        with suppress(OSError):  # such as of a disk that has become read-only: what counts is the lock
            folder.owner.unlink(missing_ok=True)
        lock.release()


def _owner(folder: RunFolder) -> str:
    try:
        owner = read_json(folder.owner)
        return f"process {owner['pid']} on {owner['host']} works on this run since {owner['started']}"
    except (DataError, KeyError, TypeError):  # it is just starting or ending, or is of an earlier version
        return "another process works on this run"
