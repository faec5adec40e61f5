"""How fast a run goes and what is left of it, from its own events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from polychromic.experiment.jobs import JobEvent

Key = tuple[str, int, str]
"""Arm, seed and stage."""


@dataclass
class _Pace:
    """One stage of one job since this start: from its first event, which is where its units begin to be timed."""

    first_done: int
    first_time: float
    done: int
    total: int
    last_time: float
    tokens: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def seconds_a_unit(self) -> float | None:
        """None before the second event."""
        units = self.done - self.first_done
        return (self.last_time - self.first_time) / units if units > 0 else None


class Projection:
    """Follows events; `left` are the stages that had not ended when the run started, `workers` go side by side."""

    def __init__(
        self, left: Iterable[Key], workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.left = set(left)
        self.workers = max(1, workers)
        self.clock = clock
        self.paces: dict[Key, _Pace] = {}

    def on_event(self, event: JobEvent) -> None:
        """Take note of a job's progress."""
        key, now = (event.arm, event.seed, event.stage), self.clock()
        pace = self.paces.get(key)
        if pace is None:
            self.paces[key] = _Pace(event.done, now, event.done, event.total, now)
        else:
            pace.done, pace.total, pace.last_time = event.done, event.total, now
            pace.tokens += event.metrics.get("generation/total_tokens", 0.0)
        self.paces[key].metrics.update(event.metrics)
        if event.done >= event.total:
            self.left.discard(key)

    def latest_metrics(self, event: JobEvent) -> dict[str, float]:
        """The last known value of every metric of the event's job and stage: some are measured now and then."""
        return self.paces[event.arm, event.seed, event.stage].metrics

    def tokens_a_second(self, event: JobEvent) -> float | None:
        """Sampled tokens a second of the event's job and stage; None before there is anything to go by."""
        pace = self.paces.get((event.arm, event.seed, event.stage))
        if pace is None or pace.tokens == 0 or pace.last_time == pace.first_time:
            return None
        return pace.tokens / (pace.last_time - pace.first_time)

    def seconds_left(self) -> float | None:
        """Wall seconds of all that is left; None while some stage has never been timed."""
        total, longest = 0.0, 0.0
        for key in self.left:
            seconds = self._seconds_of(key)
            if seconds is None:
                return None
            total, longest = total + seconds, max(longest, seconds)
        return max(total / self.workers, longest)

    def _seconds_of(self, key: Key) -> float | None:
        alike = [pace for (_, _, stage), pace in self.paces.items() if stage == key[2]]
        timed = [pace.seconds_a_unit for pace in alike if pace.seconds_a_unit is not None]
        if not timed:
            return None
        mean = sum(timed) / len(timed)
        own = self.paces.get(key)
        if own is None:
            return mean * max(pace.total for pace in alike)
        return (own.seconds_a_unit or mean) * (own.total - own.done)
