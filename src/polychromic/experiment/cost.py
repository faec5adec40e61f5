"""What a run has cost, what is left, and what a percent of gain costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from polychromic.experiment.config import Experiment
from polychromic.experiment.folder import RunFolder
from polychromic.experiment.ledger import spent_seconds
from polychromic.files import read_json, read_jsonl

STAGES = ("train", "evaluate")


@dataclass(frozen=True, slots=True)
class StageCost:
    """One arm's stage over all seeds and starts. Seconds are the machine's; dollars None without a price."""

    arm: str
    stage: str
    seconds: float
    tokens: int
    dollars: float | None


@dataclass(frozen=True, slots=True)
class Gain:
    """What one percent of a metric's change against the baseline cost: the arm's own share of the run."""

    arm: str
    metric: str
    percent: float
    seconds_a_percent: float
    dollars_a_percent: float | None


@dataclass(frozen=True, slots=True)
class RunCost:
    """Spent so far, what is left to do, and the projection of the whole (None where nothing is known yet)."""

    stages: tuple[StageCost, ...]
    seconds: float
    dollars: float | None
    left: tuple[tuple[str, int, str], ...]
    """(arm, seed, stage) of all work that has not ended."""
    left_seconds: float | None
    left_dollars: float | None
    gains: tuple[Gain, ...]


def run_cost(experiment: Experiment, folder: RunFolder) -> RunCost:
    """Read the ledger, the heartbeat of a running start, and the comparison if there is one."""
    rows = read_jsonl(folder.ledger)
    running = read_json(folder.heartbeat) if folder.heartbeat.exists() else []
    seconds = spent_seconds([*rows, *running])
    left = left_to_do(experiment, folder)
    left_seconds = projected_seconds(left, rows)
    price = experiment.budget.dollars
    stages = _by_stage([*rows, *running], experiment)
    return RunCost(
        stages=stages,
        seconds=seconds,
        dollars=price(seconds),
        left=tuple(left),
        left_seconds=left_seconds,
        left_dollars=None if left_seconds is None else price(left_seconds),
        gains=tuple(_gains(read_json(folder.comparison), stages)) if folder.comparison.exists() else (),
    )


def left_to_do(experiment: Experiment, folder: RunFolder) -> list[tuple[str, int, str]]:
    """Every (arm, seed, stage) that has not ended."""
    settings = experiment.evaluation
    wanted = settings.prompts * settings.samples * len(settings.sampling)
    left = []
    for arm in experiment.arms:
        for seed in experiment.seeds:
            if not experiment.arm(arm).untrained and not (folder.job(arm, seed) / "adapter").is_dir():
                left.append((arm, seed, "train"))
            if n_generations(folder, arm, seed) < wanted:
                left.append((arm, seed, "evaluate"))
    return left


def n_generations(folder: RunFolder, arm: str, seed: int) -> int:
    """Rows written so far."""
    path = folder.generations(arm, seed)
    return path.read_bytes().count(b"\n") if path.exists() else 0


def projected_seconds(
    left: Sequence[tuple[str, int, str]], rows: Sequence[Mapping[str, Any]]
) -> float | None:
    """Machine seconds of what is left, from what the same stage took elsewhere: of the same arm if any seed is done.

    Work begun counts as whole. None where a stage that is left has not been finished by any arm.
    """
    finished: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if not row.get("interrupted"):
            finished[row["arm"], row["stage"]].append(row.get("machine_seconds", row["seconds"]))
            finished["", row["stage"]].append(row.get("machine_seconds", row["seconds"]))
    total = 0.0
    for arm, _, stage in left:
        known = finished.get((arm, stage)) or finished.get(("", stage))
        if not known:
            return None
        total += fmean(known)
    return total


def _by_stage(rows: Sequence[Mapping[str, Any]], experiment: Experiment) -> tuple[StageCost, ...]:
    seconds: Counter[tuple[str, str]] = Counter()
    tokens: Counter[tuple[str, str]] = Counter()
    for row in rows:
        key = (row["arm"], row["stage"])
        seconds[key] += row.get("machine_seconds", row["seconds"])
        tokens[key] += row["tokens"]
    return tuple(
        StageCost(arm, stage, taken, tokens[arm, stage], experiment.budget.dollars(taken))
        for (arm, stage), taken in seconds.items()
    )


def _gains(comparison: Mapping[str, Any], stages: Sequence[StageCost]) -> list[Gain]:
    """Of every criterion's metric that changed for the better, once each."""
    gains = {}
    outcomes = [one for level in comparison["verdict"]["levels"] for one in level["outcomes"]]
    for outcome in outcomes:
        arm, metric, direction = (
            outcome["arm"], outcome["criterion"]["metric"], outcome["criterion"]["direction"]
        )  # fmt: skip
        change = outcome["evidence"]["comparison"]["relative_difference"]
        if change is None or direction == "not_worse":
            continue
        percent = 100 * change * (1 if direction == "higher" else -1)
        own = [one for one in stages if one.arm == arm]
        if percent <= 0 or not own:
            continue
        seconds = sum(one.seconds for one in own)
        priced = own[0].dollars is not None
        dollars = sum(one.dollars or 0.0 for one in own) if priced else None
        gains[arm, metric] = Gain(
            arm, metric, percent, seconds / percent, None if dollars is None else dollars / percent
        )
    return list(gains.values())
