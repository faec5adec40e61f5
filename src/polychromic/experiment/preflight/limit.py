"""Keeps preflight within its time: checks ask how long they may take, lower their counts to it, and say so."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class TimeLimit:
    """Counts down from the start of preflight; `minutes` is the experiment's `preflight.minutes`."""

    minutes: float
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def left(self) -> float:
        """Returns the seconds that are left, 0 where the time is over."""
        return max(0.0, self.started + 60.0 * self.minutes - self.clock())

    def share(self, part: float) -> float:
        """Returns the seconds that a check may take whose part of the whole is `part`: no more than are left."""
        return min(part * 60.0 * self.minutes, self.left)

    def most(self, wanted: int, seconds_each: float, part: float) -> int:
        """Returns how many of `wanted` fit into a part of the time, at least one."""
        if seconds_each <= 0.0:
            return wanted
        return max(1, min(wanted, int(self.share(part) / seconds_each)))

    def lowered(self, did: int, wanted: int, noun: str) -> str:
        """Says what was lowered, such as "; 4 of 20 prompts, to keep preflight.minutes = 2"; "" where nothing was."""
        return (
            ""
            if did >= wanted
            else f"; {did} of {wanted} {noun}, to keep preflight.minutes = {self.minutes:g}"
        )
