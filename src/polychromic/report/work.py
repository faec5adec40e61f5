"""Sums what a run took, from its ledger: minutes, tokens and dollars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LedgerRows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Money:
    """Holds what ledger rows cost; printed, it says which part of the sum was not recorded or is missing."""

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
            share = (
                ""
                if self.at_todays_price == self.dollars
                else f"${dollars_text(self.at_todays_price)} of it "
            )
            return f"{text} ({share}at today's price: none was recorded)"
        if self.unpriced_seconds:
            return f"{text} (without {self.unpriced_seconds / 60:.1f} machine minutes that have no price)"
        return text


def money(rows: LedgerRows, dollars_per_hour: float | None = None) -> Money:
    """Returns the sum of ledger rows, each at the price of its start; rows that had none at `dollars_per_hour`."""
    recorded = [row["dollars"] for row in rows if row.get("dollars") is not None]
    unpriced = sum(machine_seconds(row) for row in rows if row.get("dollars") is None)
    if dollars_per_hour is not None:
        added = unpriced / 3600 * dollars_per_hour
        return Money(sum(recorded) + added, at_todays_price=added)
    return Money(sum(recorded), unpriced_seconds=unpriced) if recorded else Money(None)


def dollars_text(dollars: float) -> str:
    """Returns cents, and their parts where there are few of them."""
    return f"{dollars:.4f}" if 0 < dollars < 0.1 else f"{dollars:.2f}"


def machine_seconds(row: Mapping[str, Any]) -> float:
    """Returns a row's share of the machine's time; rows of older runs count their job's seconds."""
    return row.get("machine_seconds", row["seconds"])


@dataclass(frozen=True, slots=True)
class ArmWork:
    """Holds one arm's machine minutes and dollars over seeds, stages and starts; dollars None where a price is
    missing."""

    minutes: float
    dollars: float | None


def arm_work(ledger: LedgerRows, dollars_per_hour: float | None = None) -> dict[str, ArmWork]:
    """Returns what each arm took."""
    rows_by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for row in ledger:
        rows_by_arm.setdefault(row["arm"], []).append(row)
    costs = {arm: money(rows, dollars_per_hour) for arm, rows in rows_by_arm.items()}
    return {
        arm: ArmWork(_minutes(rows), None if costs[arm].unpriced_seconds else costs[arm].dollars)
        for arm, rows in rows_by_arm.items()
    }


def spent(ledger: LedgerRows, dollars_per_hour: float | None = None) -> str:
    """Returns time and money of the whole run in words; empty where nothing was spent here, as on files made
    elsewhere."""
    if not ledger:
        return ""
    minutes, cost = _minutes(ledger), money(ledger, dollars_per_hour)
    price = "" if cost.dollars is None else f", {cost}"
    if minutes < 1:
        return f"{60 * minutes:.0f} machine seconds{price}"
    if minutes < 120:
        return f"{minutes:.{0 if minutes >= 10 else 1}f} machine minutes{price}"
    return f"{minutes / 60:.1f} machine hours{price}"


def work_table(ledger: LedgerRows, dollars_per_hour: float | None = None) -> list[list[str]]:
    """Returns machine minutes, tokens, and dollars where there is a price, by arm and stage; the header first, the sum
    last."""
    stages = dict.fromkeys((row["arm"], row["stage"]) for row in ledger)
    by_stage = {key: [row for row in ledger if (row["arm"], row["stage"]) == key] for key in stages}
    priced = money(ledger, dollars_per_hour).dollars is not None

    def sums(rows: LedgerRows) -> list[str]:
        cost = [str(money(rows, dollars_per_hour)).removeprefix("$")] if priced else []
        return [f"{_minutes(rows):.1f}", f"{sum(row['tokens'] for row in rows):,}", *cost]

    header = ["arm", "stage", "machine minutes", "tokens sampled"] + (["dollars"] if priced else [])
    rows = [[arm, stage, *sums(found)] for (arm, stage), found in by_stage.items()]
    return [header, *rows, *([["all", "", *sums(ledger)]] if len(rows) > 1 else [])]


def _minutes(ledger: LedgerRows) -> float:
    return sum(map(machine_seconds, ledger)) / 60
