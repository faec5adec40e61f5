"""Ends what a checker has started, also what has left its process group: such as a daemon, or a server of its own.

Every process inherits the environment of the one that started it, so a mark there follows whatever a checker starts.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

MARK = "POLYCHROMIC_CHECKER"
_MOST_ROUNDS = 20


def kill_marked(mark: str) -> None:
    """SIGKILL to every other process with this mark, until none is found; does nothing where there is no /proc."""
    for _ in range(_MOST_ROUNDS):  # one may start another while we look
        found = marked(mark)
        for process in found:
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        if not found:
            return


def marked(mark: str) -> list[int]:
    """Ids of the other living processes with this mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        # One that has ended has an empty environment; other users' environments cannot be read.
        with suppress(OSError):
            if int(folder.name) != os.getpid() and wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found
