"""Sums what work took, in machine seconds, tokens and dollars, and compares it with the caps on them.

A row of `ledger.jsonl` is of one arm, seed and stage; rows of no arm are of work that all share, such as preflight.
Seconds are those of a job; machine seconds are its share of the machine's: jobs side by side add up to wall time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Self

from pydantic import Field, model_validator

from polychromic.settings import Settings

LedgerRows = Sequence[Mapping[str, Any]]


class BudgetSettings(Settings):
    """Caps on the whole run, over all starts. At a cap the run saves its work, stops, and says what is left."""

    dollars_per_hour: float | None = Field(default=None, gt=0)
    """Price of the machine."""
    max_dollars: float | None = Field(default=None, gt=0)
    max_hours: float | None = Field(default=None, gt=0)
    """Wall hours of the machine, however many workers share it."""

    @model_validator(mode="after")
    def _dollars_have_a_price(self) -> Self:
        if self.max_dollars is not None and self.dollars_per_hour is None:
            raise ValueError("max_dollars needs dollars_per_hour, the price of the machine")
        return self

    def dollars(self, seconds: float) -> float | None:
        """Prices machine seconds; None where no price is stated."""
        return None if self.dollars_per_hour is None else seconds / 3600 * self.dollars_per_hour

    def spent_dollars(self, rows: LedgerRows) -> float | None:
        """Sums the dollars of ledger rows as `money` does; 0 without rows, None without a price."""
        return money(rows, self.dollars_per_hour).dollars if rows else self.dollars(0.0)

    def exceeded(self, seconds: float, dollars: float | None = None) -> str:
        """Names the cap that the machine seconds reach, in words; empty while none is reached.

        `dollars` where more is known of them than the price of now: earlier starts may have had another.
        """
        dollars = self.dollars(seconds) if dollars is None else dollars
        if self.max_dollars is not None and dollars is not None and dollars >= self.max_dollars:
            return f"budget.max_dollars = {self.max_dollars:g} is reached (${dollars:.4g} spent)"
        if self.max_hours is not None and seconds >= self.max_hours * 3600:
            return f"budget.max_hours = {self.max_hours:g} is reached"
        return ""


@dataclass(frozen=True, slots=True)
class Calls:
    """Sums requests to services such as a judge: how many were answered, their tokens, and the dollars of those with a
    price."""

    n: int = 0
    tokens: int = 0
    dollars: float = 0.0

    def __add__(self, other: Calls) -> Calls:
        return Calls(self.n + other.n, self.tokens + other.tokens, self.dollars + other.dollars)

    def __sub__(self, other: Calls) -> Calls:
        return Calls(self.n - other.n, self.tokens - other.tokens, self.dollars - other.dollars)

    @property
    def columns(self) -> dict[str, Any]:
        """Returns the columns of a ledger row; none where nothing was asked."""
        return {"calls": self.n, "call_tokens": self.tokens, "call_dollars": self.dollars} if self.n else {}

    @property
    def metrics(self) -> dict[str, float]:
        """Returns the metrics of a step; none where nothing was asked."""
        return {f"cost/{key}": float(value) for key, value in self.columns.items()}

    @classmethod
    def of_metrics(cls, metrics: Mapping[str, float]) -> Calls:
        """Reads the calls of a step back from its metrics."""
        n, tokens, dollars = (metrics.get(f"cost/{key}", 0.0) for key in ("calls", "call_tokens", "call_dollars"))
        return cls(round(n), round(tokens), dollars)


class _CallMeter:
    """Counts the calls of this process, as the operating system counts its seconds."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._total = Calls()

    def add(self, calls: Calls) -> None:
        with self._lock:
            self._total += calls

    def read(self) -> Calls:
        with self._lock:
            return self._total


_METER = _CallMeter()


def record_call(tokens: int, dollars: float) -> None:
    """Counts an answered request, from any thread."""
    _METER.add(Calls(1, tokens, dollars))


def calls_so_far() -> Calls:
    """Returns all calls of this process; the work between two readings made their difference."""
    return _METER.read()


@dataclass(frozen=True, slots=True)
class Money:
    """The cost of ledger rows; printed, it says which part of the sum was not recorded or is missing."""

    dollars: float | None
    """None without any price."""
    at_todays_price: float = 0.0
    """Dollars of the sum for rows that recorded none, at the price that the experiment states now."""
    unpriced_seconds: float = 0.0
    """Machine seconds that are in no sum: their rows recorded no price and none is stated."""

    def __str__(self) -> str:
        if self.dollars is None:
            return "–"
        text = f"${dollars_text(self.dollars)}"
        if self.at_todays_price:
            share = "" if self.at_todays_price == self.dollars else f"${dollars_text(self.at_todays_price)} of it "
            return f"{text} ({share}at today's price: none was recorded)"
        if self.unpriced_seconds:
            return f"{text} (without {self.unpriced_seconds / 60:.1f} machine minutes that have no price)"
        return text


def money(rows: LedgerRows, dollars_per_hour: float | None = None) -> Money:
    """Sums ledger rows, each at the price of its start; rows that had none at `dollars_per_hour`. What services were
    paid for calls is added."""
    recorded = [row["dollars"] for row in rows if row.get("dollars") is not None]
    recorded += [row["call_dollars"] for row in rows if row.get("call_dollars")]
    unpriced = spent_seconds([row for row in rows if row.get("dollars") is None])
    if dollars_per_hour is not None:
        added = unpriced / 3600 * dollars_per_hour
        return Money(sum(recorded) + added, at_todays_price=added)
    return Money(sum(recorded), unpriced_seconds=unpriced) if recorded else Money(None)


def dollars_text(dollars: float) -> str:
    """Writes dollars in cents, and in parts of them where there are few."""
    return f"{dollars:.4f}" if 0 < dollars < 0.1 else f"{dollars:.2f}"


def spent_seconds(rows: LedgerRows) -> float:
    """Sums the machine seconds of ledger rows; rows of older runs count their job's seconds."""
    return sum(row.get("machine_seconds", row["seconds"]) for row in rows)


def by_stage(rows: LedgerRows) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Groups ledger rows by arm and stage, in the order in which those first stand there."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["stage"]), []).append(row)
    return groups


@dataclass(frozen=True, slots=True)
class ArmWork:
    """One arm's machine minutes and dollars over seeds, stages and starts; dollars None where a price is missing."""

    minutes: float
    dollars: float | None


def arm_work(ledger: LedgerRows, dollars_per_hour: float | None = None) -> dict[str, ArmWork]:
    """Sums what each arm took."""
    rows_by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for (arm, _), rows in by_stage(ledger).items():
        rows_by_arm.setdefault(arm, []).extend(rows)
    costs = {arm: money(rows, dollars_per_hour) for arm, rows in rows_by_arm.items()}
    return {
        arm: ArmWork(spent_seconds(rows) / 60, None if costs[arm].unpriced_seconds else costs[arm].dollars)
        for arm, rows in rows_by_arm.items()
    }


def spent(ledger: LedgerRows, dollars_per_hour: float | None = None) -> str:
    """Says time and money of the whole run in words; empty where nothing was spent here, as on files made elsewhere."""
    if not ledger:
        return ""
    minutes, cost = spent_seconds(ledger) / 60, money(ledger, dollars_per_hour)
    price = "" if cost.dollars is None else f", {cost}"
    if minutes < 1:
        return f"{60 * minutes:.0f} machine seconds{price}"
    if minutes < 120:
        return f"{minutes:.{0 if minutes >= 10 else 1}f} machine minutes{price}"
    return f"{minutes / 60:.1f} machine hours{price}"


def work_table(ledger: LedgerRows, dollars_per_hour: float | None = None) -> list[list[str]]:
    """Tabulates machine minutes, tokens and dollars by arm and stage; the header comes first, the sum last."""
    priced = money(ledger, dollars_per_hour).dollars is not None

    def sums(rows: LedgerRows) -> list[str]:
        cost = [str(money(rows, dollars_per_hour)).removeprefix("$")] if priced else []
        return [f"{spent_seconds(rows) / 60:.1f}", f"{sum(row['tokens'] for row in rows):,}", *cost]

    header = ["arm", "stage", "machine minutes", "tokens sampled"] + (["dollars"] if priced else [])
    rows = [[arm, stage, *sums(rows)] for (arm, stage), rows in by_stage(ledger).items()]
    return [header, *rows, *([["all", "", *sums(ledger)]] if len(rows) > 1 else [])]


def duration(seconds: float) -> str:
    """Writes seconds in the unit that reads best, such as `7.1 min`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def priced_duration(seconds: float, dollars: float | None) -> str:
    """Writes time, and what it costs where there is a price: `7.1 min, $0.31`."""
    return duration(seconds) if dollars is None else f"{duration(seconds)}, ${dollars_text(dollars)}"
