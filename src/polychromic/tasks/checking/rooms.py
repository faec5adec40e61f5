"""Opens processes for code that a model wrote: on this machine, or behind a wall of the user's choice.

A *room* keeps what is slow to start (a process that is forked for each candidate, or a container with one in it) and
opens one fresh process after another. `LocalRoom` is the room on this machine; `containers.WalledRoom` is the other.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from polychromic.tasks.checking.family import Keeper, Process, ProcessFailedError

Kind = Literal["execute", "session"]
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


class Executor(Protocol):
    """One fresh process for one candidate. `around` are words for what surrounds it, beside what it says itself."""

    around: tuple[str, ...]

    def execute(self, kind: Kind, request: Mapping[str, Any], seconds: float, most_bytes: int) -> Any:
        """Sends a request and returns what the code made the process say. Raises ProcessFailedError with the reason
        where nothing comes."""
        ...

    def end(self) -> None:
        """Ends the process and everything that it started, and removes its folder."""
        ...


class Room(Protocol):
    """Opens processes, one at a time. Use it from one thread."""

    def open(self) -> Executor:
        """Starts a process that has met no code."""
        ...

    def close(self) -> None:
        """Ends all processes."""
        ...


class LocalRoom:
    """Forks a process on this machine that has met no code; with `own_files`, code reaches no files but its own where
    the system can hold it to that."""

    def __init__(self, *, own_files: bool = True) -> None:
        self._own_files = own_files
        self._folder = tempfile.mkdtemp(prefix="polychromic-")
        self._keeper: Keeper | None = None
        self._process = os.getpid()
        self._clean = weakref.finalize(self, _remove, self._folder, self._process)
        _rooms.add(self)

    def open(self) -> LocalExecutor:
        """Forks the keeper; one that was killed meanwhile is replaced once."""
        try:
            process = self._kept().fork()
        except ProcessFailedError:
            self._keeper = None
            process = self._kept().fork()
        shared = Path(self._folder)  # code runs as the same user, who may have closed or removed it
        shared.mkdir(exist_ok=True)
        shared.chmod(0o700)
        return LocalExecutor(process, self._kept(), tempfile.mkdtemp(dir=self._folder))

    def close(self) -> None:
        """Ends all processes and removes the folder."""
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
        self._clean()

    @property
    def keeper(self) -> int | None:
        """Returns the number of the process that is forked, where there is one below this process."""
        return None if self._keeper is None or self._process != os.getpid() else self._keeper.process

    def _kept(self) -> Keeper:
        if self._keeper is None:
            kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
            kept |= {"POLYCHROMIC_WRITABLE": self._folder} if self._own_files else {}
            self._keeper = Keeper(kept, apart=True)
        return self._keeper


class LocalExecutor:
    """A fork of a room's keeper, with an empty folder of its own."""

    def __init__(self, process: Process, keeper: Keeper, folder: str) -> None:
        self._process, self._keeper, self._folder = process, keeper, folder
        self.around: tuple[str, ...] = ()

    def execute(self, kind: Kind, request: Mapping[str, Any], seconds: float, most_bytes: int) -> Any:
        """Does as `Executor.execute`."""
        return self._process.execute({**request, "folder": self._folder}, seconds, most_bytes, kind)

    def end(self) -> None:
        """Does as `Executor.end`."""
        self._process.end()
        self._keeper.clear()
        _remove_all(self._folder)


_rooms: weakref.WeakSet[LocalRoom] = weakref.WeakSet()


def keepers() -> set[int]:
    """Returns the processes below this one that only wait to be forked."""
    return {room.keeper for room in _rooms if room.keeper is not None}


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a fork that ends leaves its parent's folder alone
        _remove_all(folder)


def _remove_all(folder: str) -> None:
    """Removes a folder, also where code has closed folders in it to its user, who is ours."""
    shutil.rmtree(folder, ignore_errors=True)
    top = Path(folder)
    if top.is_dir():
        top.chmod(0o700)
        for place, folders, _ in os.walk(folder):
            for path in (Path(place) / name for name in folders):
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)
