"""Ends work at its next safe point, with a checkpoint, after the first SIGTERM or Ctrl-C.

A second signal ends the process at once. Worker processes watch an event that passes the request on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from polychromic.errors import StoppedError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_EXIT_CODES = {"SIGTERM": 143, "SIGINT": 130}
_OTHER_EXIT_CODE = 75  # EX_TEMPFAIL: run again to continue


class _Wish:
    """The reason for which work should end, if it should; `sources` are asked too."""

    def __init__(self) -> None:
        self.reason = ""
        self.sources: list[Callable[[], bool]] = []


_wish = _Wish()


def listen() -> None:
    """Takes SIGTERM and SIGINT as wishes to stop, from now on in this process."""
    for number in _SIGNALS:
        signal.signal(number, _remember)


@contextmanager
def listening() -> Iterator[None]:
    """Listens within the block, then leaves everything as it was. Outside the main thread signals stay as they are, and
    within another such block a wish is kept for that."""
    is_outermost = signal.getsignal(signal.SIGTERM) is not _remember
    if threading.current_thread() is not threading.main_thread() or not is_outermost:
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _wish.reason = ""


def watch(source: Callable[[], bool]) -> None:
    """Stops also when `source()` says so, such as an event of the parent process."""
    _wish.sources.append(source)


def request(reason: str) -> None:
    """Asks the work of this process to stop at its next safe point."""
    _wish.reason = _wish.reason or reason


def requested() -> bool:
    """Returns whether work should end at the next safe point."""
    return bool(_wish.reason) or any(source() for source in _wish.sources)


def stop_if_requested(done: str) -> None:
    """Raises StoppedError at a safe point where the work is to end; `done` says what is kept."""
    if requested():
        reason = _wish.reason or "the run's end"
        raise StoppedError(reason, done, _EXIT_CODES.get(reason, _OTHER_EXIT_CODE))


def _remember(number: int, _frame: FrameType | None) -> None:
    if _wish.reason:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    _wish.reason = signal.Signals(number).name
