"""What a run took, from its ledger: minutes, tokens and dollars."""

from __future__ import annotations

from collections import defaultdict
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
    """Time and money of the whole run in words."""
    minutes, dollars = _minutes(ledger), _dollars(ledger)
    price = "" if dollars is None else f", ${dollars:.2f}"
    return f"{minutes:.0f} minutes{price}" if minutes < 120 else f"{minutes / 60:.1f} hours{price}"


def work_table(ledger: LedgerRows) -> list[list[str]]:
    """Job minutes, tokens, and dollars where there is a price, by arm and stage; the header first."""
    minutes: defaultdict[tuple[str, str], float] = defaultdict(float)
    tokens: defaultdict[tuple[str, str], int] = defaultdict(int)
    dollars: defaultdict[tuple[str, str], float] = defaultdict(float)
    for row in ledger:
        key = (row["arm"], row["stage"])
        minutes[key] += row["seconds"] / 60
        tokens[key] += row["tokens"]
        dollars[key] += row.get("dollars") or 0.0
    priced = _dollars(ledger) is not None
    rows = [
        [arm, stage, f"{minutes[arm, stage]:.1f}", f"{tokens[arm, stage]:,}"]
        + ([f"{dollars[arm, stage]:.2f}"] if priced else [])
        for arm, stage in minutes
    ]
    return [["arm", "stage", "minutes", "tokens sampled"] + (["dollars"] if priced else []), *rows]


def _minutes(ledger: LedgerRows) -> float:
    return sum(row.get("machine_seconds", row["seconds"]) for row in ledger) / 60


def _dollars(ledger: LedgerRows) -> float | None:
    known = [row["dollars"] for row in ledger if row.get("dollars") is not None]
    return sum(known) if known else None
