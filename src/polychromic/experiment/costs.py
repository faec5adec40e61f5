"""Projects what a run has cost and will cost, in time and dollars."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polychromic.experiment.config import Experiment
from polychromic.files import read_derived, read_jsonl
from polychromic.ledger import Money, by_stage, duration, money, priced_duration, spent_seconds
from polychromic.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class StageCost:
    """One arm's stage over all seeds and starts. Seconds are the machine's."""

    arm: str
    stage: str
    seconds: float
    tokens: int
    money: Money


@dataclass(frozen=True, slots=True)
class Gain:
    """The price of one percent of a metric's change against the baseline: the arm's own share of the run."""

    arm: str
    metric: str
    percent: float
    seconds_per_percent: float
    dollars_per_percent: float | None


@dataclass(frozen=True, slots=True)
class RunCost:
    """Time and money spent so far, what is left to do, and the projection of the whole (None while not known)."""

    stages: tuple[StageCost, ...]
    seconds: float
    money: Money
    left: tuple[tuple[str, int, str], ...]
    """(arm, seed, stage) of all work that has not ended."""
    left_seconds: float | None
    left_dollars: float | None
    gains: tuple[Gain, ...]
    left_by_preflight: bool = False
    """True where the time left is preflight's estimate, because some stage has never been timed."""


def run_cost(experiment: Experiment, folder: RunFolder) -> RunCost:
    """Reads the ledger, the heartbeat of a running start, and the comparison if there is one."""
    rows = read_jsonl(folder.ledger)
    everything = [*rows, *(read_derived(folder.heartbeat) or [])]
    comparison = read_derived(folder.comparison)
    seconds = spent_seconds(everything)
    left = left_to_do(experiment, folder)
    left_seconds = projected_seconds(left, everything)
    worked = spent_seconds([row for row in everything if row["arm"]])
    is_projected = left_seconds is not None
    if not is_projected:
        left_seconds = _left_by_preflight(folder, worked)
    price = experiment.budget.dollars_per_hour
    stages = tuple(
        StageCost(arm, stage, spent_seconds(rows), sum(row["tokens"] for row in rows), money(rows, price))
        for (arm, stage), rows in by_stage(everything).items()
    )
    return RunCost(
        stages=stages,
        seconds=seconds,
        money=money(everything, price),
        left=tuple(left),
        left_seconds=left_seconds,
        left_dollars=None if left_seconds is None else experiment.budget.dollars(left_seconds),
        gains=tuple(_gains(comparison, stages)) if comparison else (),
        left_by_preflight=not is_projected and left_seconds is not None,
    )


def left_to_do(experiment: Experiment, folder: RunFolder) -> list[tuple[str, int, str]]:
    """Lists every (arm, seed, stage) that has not ended."""
    settings = experiment.evaluation
    wanted = settings.num_prompts * settings.num_samples * len(settings.sampling)
    left = []
    for arm, seed in experiment.jobs:
        if not experiment.arm(arm).untrained and not folder.arm(arm, seed).is_trained:
            left.append((arm, seed, "train"))
        if num_samples(folder, arm, seed) < wanted:
            left.append((arm, seed, "evaluate"))
    return left


def num_samples(folder: RunFolder, arm: str, seed: int) -> int:
    """Counts the rows written so far."""
    path = folder.arm(arm, seed).generations
    return path.read_bytes().count(b"\n") if path.exists() else 0


def projected_seconds(left: Sequence[tuple[str, int, str]], rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Projects machine seconds of what is left, at the pace of the same stage so far: of the same arm where any of it
    is done.

    Of work begun, the share that is not done counts. None where a stage that is left has not been begun by any arm.
    """
    seconds: defaultdict[tuple[str, int, str], float] = defaultdict(float)
    reached: defaultdict[tuple[str, int, str], float] = defaultdict(float)
    for row in rows:
        share = row.get("reached") if row.get("interrupted") else 1.0
        if share is not None:  # rows of older runs do not say how far they came
            key = row["arm"], row["seed"], row["stage"]
            seconds[key] += spent_seconds([row])
            reached[key] = max(reached[key], share)

    def pace(stage: str, arm: str | None = None) -> float | None:
        alike = [key for key in seconds if key[2] == stage and arm in (None, key[0])]
        done = sum(reached[key] for key in alike)
        return sum(seconds[key] for key in alike) / done if done > 0 else None

    total = 0.0
    for arm, seed, stage in left:
        whole = pace(stage, arm) or pace(stage)
        if whole is None:
            return None
        total += whole * (1.0 - reached[arm, seed, stage])
    return total


def _left_by_preflight(folder: RunFolder, spent: float) -> float | None:
    """Subtracts the seconds worked from preflight's estimate of the whole run; None where it has not been made."""
    made = read_derived(folder.preflight) or {"checks": []}
    for check in made["checks"]:
        if check["name"] == "time and money" and check["figures"].get("seconds") is not None:
            return max(0.0, check["figures"]["seconds"] - spent)
    return None


def _gains(comparison: Mapping[str, Any], stages: Sequence[StageCost]) -> list[Gain]:
    """Prices every criterion's metric that clearly changed for the better, once each."""
    gains = {}
    outcomes = [outcome for level in comparison["verdict"]["levels"] for outcome in level["outcomes"]]
    for outcome in outcomes:
        arm, metric, direction = outcome["arm"], outcome["criterion"]["metric"], outcome["criterion"]["direction"]
        # An older comparison does not say whether its changes are clear.
        # A metric that was not measured has no evidence, and one of which only means are known no comparison.
        compared = (outcome["evidence"] or {}).get("comparison") or {}
        change = compared.get("relative_difference")
        if change is None or direction == "not_worse" or outcome.get("change", "better") != "better":
            continue
        percent = 100 * change * (1 if direction == "higher" else -1)
        own = [stage for stage in stages if stage.arm == arm]
        if percent <= 0 or not own:
            continue
        seconds = sum(stage.seconds for stage in own)
        priced = all(stage.money.dollars is not None and not stage.money.unpriced_seconds for stage in own)
        dollars = sum(stage.money.dollars or 0.0 for stage in own) / percent if priced else None
        gains[arm, metric] = Gain(arm, metric, percent, seconds / percent, dollars)
    return list(gains.values())


def cost_lines(cost: RunCost) -> list[str]:
    """Writes time and money by arm and stage, the total, what is left, and the price per percent of gain."""
    lines = [f"{'arm':<20} {'stage':<10} {'hours':>8} {'tokens':>14} {'dollars':>9}"]
    for stage in cost.stages:
        price = str(stage.money).removeprefix("$")
        lines.append(f"{stage.arm:<20} {stage.stage:<10} {stage.seconds / 3600:>8.3f} {stage.tokens:>14,} {price:>9}")
    spent = duration(cost.seconds)
    lines.append(f"spent: {spent}" if cost.money.dollars is None else f"spent: {spent}, {cost.money}")
    lines.append(_left(cost))
    for gain in cost.gains:
        price = priced_duration(gain.seconds_per_percent, gain.dollars_per_percent)
        lines.append(f"{gain.arm}: {gain.metric} {gain.percent:+.1f} %, {price} per percent")
    return lines


def _left(cost: RunCost) -> str:
    if not cost.left:
        return "left: nothing"
    named = ", ".join(f"{arm}/seed-{seed} {stage}" for arm, seed, stage in cost.left)
    if cost.left_seconds is None:
        return f"left: {named} (not projected: no such stage has ended yet; `polychromic preflight` estimates it)"
    spent = cost.money.dollars
    whole = None if spent is None or cost.left_dollars is None else spent + cost.left_dollars
    projected = priced_duration(cost.seconds + cost.left_seconds, whole)
    source = " (preflight's estimate)" if cost.left_by_preflight else ""
    return f"left: {priced_duration(cost.left_seconds, cost.left_dollars)}{source}, whole run {projected}: {named}"
