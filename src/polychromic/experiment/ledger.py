"""What the work took: time, tokens and dollars by arm, seed and stage, over all starts and kills of a run.

Rows of no arm are of work that all share, such as preflight. Seconds are those of a job; machine seconds are its share
of the machine's: jobs side by side add up to wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from polychromic import stopping
from polychromic.experiment.config import BudgetSettings
from polychromic.experiment.executors import Job, JobEvent
from polychromic.files import append_jsonl, read_derived, read_jsonl, write_json
from polychromic.report.work import machine_seconds, money
from polychromic.run_folder import RunFolder

_SECONDS_BETWEEN_HEARTBEATS = 10.0
_LEAST_SECONDS = 1.0  # what took less was not work: it had been done before
Key = tuple[str, int, str]
BUDGET = "its budget"


@dataclass
class _Running:
    seconds: float = 0.0
    machine_seconds: float = 0.0
    tokens: int = 0
    reached: float = 0.0
    """Share of the stage that is done, that of earlier starts included."""
    ended: bool = False
    """Whether its job went on to the next stage; the row is written when the whole job is done."""


class Ledger:
    """Follows a run through its events. Every few seconds running work is written down, so that a kill loses little."""

    def __init__(
        self, folder: RunFolder, budget: BudgetSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder
        self.budget = budget
        self.clock = clock
        self.running: dict[Key, _Running] = {}
        self._recover()
        self.finished = read_jsonl(folder.ledger)
        self.last_tick = self.last_heartbeat = clock()

    @property
    def seconds(self) -> float:
        """Machine seconds of all starts so far."""
        return spent_seconds([*self.finished, *self._rows()])

    @property
    def dollars(self) -> float | None:
        """What these cost, None without a price."""
        return spent_dollars([*self.finished, *self._rows()], self.budget)

    @property
    def reached_cap(self) -> str:
        """Which cap is reached, in words; empty while there is room."""
        return self.budget.exceeded(self.seconds, self.dollars)

    def on_event(self, event: JobEvent) -> None:
        """Take note of a job's progress, and ask the run to stop where a cap is reached."""
        self._tick()
        for (arm, seed, stage), one in self.running.items():
            one.ended |= (arm, seed) == (event.arm, event.seed) and stage != event.stage
        running = self.running.setdefault((event.arm, event.seed, event.stage), _Running())
        running.reached = event.done / event.total if event.total else running.reached
        running.tokens += round(event.metrics.get("generation/total_tokens", 0))
        if self.clock() - self.last_heartbeat >= _SECONDS_BETWEEN_HEARTBEATS:
            self.last_heartbeat = self.clock()
            write_json(self.folder.heartbeat, self._rows())
        if self.reached_cap:
            stopping.request(f"{BUDGET} ({self.reached_cap})")

    def on_done(self, job: Job, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of a finished job; its own clock is more exact than the events."""
        self._tick()
        finished = []
        for row in rows:
            running = self.running.pop((job.arm, job.seed, row["stage"]), _Running())
            share = running.machine_seconds / running.seconds if running.seconds else 1.0
            finished.append(self._priced({**row, "machine_seconds": row["seconds"] * share}))
        self._append(finished)

    def close(self) -> None:
        """Write down what was running when the work ended early."""
        self._tick()
        self._append(self._rows())
        self.running.clear()
        self.folder.heartbeat.unlink(missing_ok=True)

    def _tick(self) -> None:
        now = self.clock()
        elapsed, self.last_tick = now - self.last_tick, now
        working = [one for one in self.running.values() if not one.ended]
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
                    "seconds": one.seconds,
                    "tokens": one.tokens,
                    "machine_seconds": one.machine_seconds,
                    "reached": one.reached,
                    "interrupted": True,
                }
            )
            for (arm, seed, stage), one in self.running.items()
        ]

    def _priced(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "dollars": self.budget.dollars(row["machine_seconds"])}

    def _append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            append_jsonl(self.folder.ledger, rows)
        self.finished = read_jsonl(self.folder.ledger)

    def _recover(self) -> None:
        """A heartbeat that is still there is of a start that was killed: its work was paid for."""
        rows = read_derived(self.folder.heartbeat)
        # Equal rows at the end: the start that recovered them was killed before it could remove the heartbeat.
        if rows and read_jsonl(self.folder.ledger)[-len(rows) :] != rows:
            append_jsonl(self.folder.ledger, rows)
        self.folder.heartbeat.unlink(missing_ok=True)


@contextmanager
def paid(folder: RunFolder, budget: BudgetSettings, stage: str) -> Iterator[None]:
    """Write down what the block took, also where it ends in an error."""
    started = time.monotonic()
    try:
        yield
    finally:
        seconds = time.monotonic() - started
        if seconds >= _LEAST_SECONDS:
            row = {"arm": "", "seed": None, "stage": stage, "seconds": seconds, "tokens": 0}
            priced = {**row, "machine_seconds": seconds, "dollars": budget.dollars(seconds)}
            append_jsonl(folder.ledger, [priced])


def spent_seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    """Machine seconds of ledger rows."""
    return sum(machine_seconds(row) for row in rows)


def spent_dollars(rows: Sequence[Mapping[str, Any]], budget: BudgetSettings) -> float | None:
    """Dollars of ledger rows as `money` sums them; nothing is spent without rows, None without a price."""
    return money(rows, budget.dollars_per_hour).dollars if rows else budget.dollars(0.0)
