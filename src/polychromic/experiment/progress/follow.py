"""Follows a run through the events of its jobs: writes the ledger, and projects the time that is left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from polychromic import stopping
from polychromic.experiment.jobs import Job, JobEvent
from polychromic.files import append_jsonl, read_derived, read_jsonl, write_json
from polychromic.ledger import BudgetSettings, Calls, calls_so_far, spent_seconds
from polychromic.run_folder import RunFolder

Key = tuple[str, int, str]
"""Arm, seed and stage."""
_SECONDS_BETWEEN_HEARTBEATS = 10.0
_LEAST_SECONDS = 1.0  # what took less was not work: it had been done before
BUDGET = "its budget"


@dataclass
class _Running:
    seconds: float = 0.0
    machine_seconds: float = 0.0
    tokens: int = 0
    reached: float = 0.0
    """Share of the stage that is done, that of earlier starts included."""
    calls: Calls = field(default_factory=Calls)
    ended: bool = False
    """True once its job went on to the next stage; the row is written when the whole job is done."""


class Ledger:
    """Follows a run through its events. Every few seconds running work is written down, so that a kill loses little."""

    def __init__(self, folder: RunFolder, budget: BudgetSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self.budget = budget
        self.clock = clock
        self.running: dict[Key, _Running] = {}
        self.done: set[tuple[str, int]] = set()  # arm and seed of jobs whose rows are written
        self._recover()
        self.finished = read_jsonl(folder.ledger)
        self.last_tick = self.last_heartbeat = clock()

    @property
    def seconds(self) -> float:
        """Sums the machine seconds of all starts so far."""
        return spent_seconds([*self.finished, *self._rows()])

    @property
    def dollars(self) -> float | None:
        """Sums what these cost; None without a price."""
        return self.budget.spent_dollars([*self.finished, *self._rows()])

    @property
    def reached_cap(self) -> str:
        """Names the cap that is reached, in words; empty while none is."""
        return self.budget.exceeded(self.seconds, self.dollars)

    def on_event(self, event: JobEvent) -> None:
        """Takes note of a job's progress, and asks the run to stop where a cap is reached."""
        self._tick()
        if (event.arm, event.seed) in self.done:
            return  # it took another way than the job's end, and a longer one
        for (arm, seed, stage), stage_progress in self.running.items():
            stage_progress.ended |= (arm, seed) == (event.arm, event.seed) and stage != event.stage
        running = self.running.setdefault((event.arm, event.seed, event.stage), _Running())
        running.reached = event.done / event.total if event.total else running.reached
        running.tokens += round(event.metrics.get("generation/total_tokens", 0))
        running.calls += Calls.of_metrics(event.metrics)
        if self.clock() - self.last_heartbeat >= _SECONDS_BETWEEN_HEARTBEATS:
            self.last_heartbeat = self.clock()
            write_json(self.folder.heartbeat, self._rows())
        if self.reached_cap:
            stopping.request(f"{BUDGET} ({self.reached_cap})")

    def on_done(self, job: Job, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the rows of a finished job; its own clock is more exact than the events."""
        self._tick()
        self.done.add((job.arm, job.seed))
        finished = []
        for row in rows:
            running = self.running.pop((job.arm, job.seed, row["stage"]), _Running())
            share = running.machine_seconds / running.seconds if running.seconds else 1.0
            # Where processes share a job its row has the calls of the first alone, and its events those of all.
            calls = running.calls.columns if running.calls.n > row.get("calls", 0) else {}
            finished.append(self._priced({**row, **calls, "machine_seconds": row["seconds"] * share}))
        self._append(finished)

    def close(self) -> None:
        """Writes down what was running when the work ended early."""
        self._tick()
        self._append(self._rows())
        self.running.clear()
        self.folder.heartbeat.unlink(missing_ok=True)

    def _tick(self) -> None:
        now = self.clock()
        elapsed, self.last_tick = now - self.last_tick, now
        working = [stage_progress for stage_progress in self.running.values() if not stage_progress.ended]
        for running in working:
            running.seconds += elapsed
            running.machine_seconds += elapsed / len(working)

    def _rows(self) -> list[dict[str, Any]]:
        return [
            self._priced(
                {
                    "arm": arm,
                    "seed": seed,
                    "stage": stage,
                    "seconds": stage_progress.seconds,
                    "tokens": stage_progress.tokens,
                    "machine_seconds": stage_progress.machine_seconds,
                    "reached": stage_progress.reached,
                    "interrupted": True,
                    **stage_progress.calls.columns,
                }
            )
            for (arm, seed, stage), stage_progress in self.running.items()
        ]

    def _priced(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "dollars": self.budget.dollars(row["machine_seconds"])}

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            append_jsonl(self.folder.ledger, rows)
        self.finished = read_jsonl(self.folder.ledger)

    def _recover(self) -> None:
        """Adds the heartbeat of a start that was killed to the ledger: its work was paid for."""
        rows = read_derived(self.folder.heartbeat)
        # Equal rows at the end: the start that recovered them was killed before it could remove the heartbeat.
        if rows and read_jsonl(self.folder.ledger)[-len(rows) :] != rows:
            append_jsonl(self.folder.ledger, rows)
        self.folder.heartbeat.unlink(missing_ok=True)


@contextmanager
def paid(folder: RunFolder, budget: BudgetSettings, stage: str, *, calls_only: bool = False) -> Iterator[None]:
    """Writes down what the block took, also where it ends in an error; `calls_only` where it called a service."""
    started, before = time.monotonic(), calls_so_far()
    try:
        yield
    finally:
        seconds, calls = time.monotonic() - started, calls_so_far() - before
        if calls.n or (seconds >= _LEAST_SECONDS and not calls_only):
            row = {"arm": "", "seed": None, "stage": stage, "seconds": seconds, "tokens": 0, **calls.columns}
            priced = {**row, "machine_seconds": seconds, "dollars": budget.dollars(seconds)}
            append_jsonl(folder.ledger, [priced])


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
        """Returns seconds per step or generation; None before the second event."""
        units = self.done - self.first_done
        return (self.last_time - self.first_time) / units if units > 0 else None


class Projection:
    """Follows events; `left` are the stages that had not ended when the run started, `workers` go side by side."""

    def __init__(self, left: Iterable[Key], workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.left = set(left)
        self.workers = max(1, workers)
        self.clock = clock
        self.paces: dict[Key, _Pace] = {}

    def on_event(self, event: JobEvent) -> None:
        """Takes note of a job's progress."""
        key, now = (event.arm, event.seed, event.stage), self.clock()
        pace = self.paces.get(key)
        if pace is None:
            self.paces[key] = _Pace(event.done, now, event.done, event.total, now)
        else:
            pace.done, pace.total, pace.last_time = event.done, event.total, now
            pace.tokens += event.metrics.get("generation/total_tokens", 0.0)
        measured = {name: value for name, value in event.metrics.items() if not math.isnan(value)}
        self.paces[key].metrics.update(measured)
        if event.done >= event.total:
            self.left.discard(key)

    def latest_metrics(self, event: JobEvent) -> dict[str, float]:
        """Returns the last known value of every metric of the event's job and stage: some are measured now and then."""
        return self.paces[event.arm, event.seed, event.stage].metrics

    def tokens_per_second(self, event: JobEvent) -> float | None:
        """Returns the sampled tokens per second of the event's job and stage; None before the second event."""
        pace = self.paces.get((event.arm, event.seed, event.stage))
        if pace is None or pace.tokens == 0 or pace.last_time == pace.first_time:
            return None
        return pace.tokens / (pace.last_time - pace.first_time)

    def seconds_left(self) -> float | None:
        """Projects the wall seconds of all that is left; None while some stage has never been timed."""
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
