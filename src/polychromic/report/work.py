"""What a run took, from its ledger: minutes, tokens and dollars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LedgerRows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ArmWork:
    """One arm's machine minutes and dollars over seeds, stages and starts; dollars None without a price."""

    minutes: float
    dollars: float | None


def arm_work(ledger: LedgerRows) -> dict[str, ArmWork]:
    """What each arm took."""
    rows_by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for row in ledger:
        rows_by_arm.setdefault(row["arm"], []).append(row)
    return {arm: ArmWork(_minutes(rows), _dollars(rows)) for arm, rows in rows_by_arm.items()}


def spent(ledger: LedgerRows) -> str:
    """Time and money of the whole run in words; empty where nothing was spent here, as on files made elsewhere."""
    if not ledger:
        return ""
    minutes, dollars = _minutes(ledger), _dollars(ledger)
    price = "" if dollars is None else f", ${dollars:.2f}"
    if minutes < 1:
        return f"{60 * minutes:.0f} machine seconds{price}"
    if minutes < 120:
        return f"{minutes:.{0 if minutes >= 10 else 1}f} machine minutes{price}"
    return f"{minutes / 60:.1f} machine hours{price}"


def work_table(ledger: LedgerRows) -> list[list[str]]:
    """Machine minutes, tokens, and dollars where there is a price, by arm and stage; the header first, the sum last."""
    stages = dict.fromkeys((row["arm"], row["stage"]) for row in ledger)
    by_stage = {key: [row for row in ledger if (row["arm"], row["stage"]) == key] for key in stages}
    priced = _dollars(ledger) is not None
    header = ["arm", "stage", "machine minutes", "tokens sampled"] + (["dollars"] if priced else [])
    rows = [[arm, stage, *_sums(found, priced)] for (arm, stage), found in by_stage.items()]
    return [header, *rows, *([["all", "", *_sums(ledger, priced)]] if len(rows) > 1 else [])]


def _sums(rows: LedgerRows, priced: bool) -> list[str]:
    tokens = sum(row["tokens"] for row in rows)
    return [f"{_minutes(rows):.1f}", f"{tokens:,}", *([f"{_dollars(rows) or 0.0:.2f}"] if priced else [])]


def _minutes(ledger: LedgerRows) -> float:
    return sum(row.get("machine_seconds", row["seconds"]) for row in ledger) / 60


def _dollars(ledger: LedgerRows) -> float | None:
    known = [row["dollars"] for row in ledger if row.get("dollars") is not None]
    return sum(known) if known else None
