"""Divides sampled groups into same answers and gives them the advantages of J = J_quality + λ J_diversity, whoever
samples and trains."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from polychromic.diversity.equivalence import Equivalence, Exact, Normalised, Partition, TextGroup
from polychromic.errors import ConfigError
from polychromic.ledger import Calls, calls_so_far
from polychromic.models.logprobs import TokenSequence
from polychromic.numerics import BoolArray, FloatArray
from polychromic.objective import FittedBaseline, find_objective, set_advantages
from polychromic.records import Group
from polychromic.tasks.base import Task
from polychromic.tasks.equivalence import TaskForms
from polychromic.training.parallel import ALONE, Processes
from polychromic.training.rollouts import (
    GroupSignals,
    diversity_advantages,
    diversity_signal,
    gate_part,
    group_signals,
    has_gate_part,
    joined_signals,
    learn_from,
)
from polychromic.training.settings import BaselineName, DiversitySettings

_MOST_AT_ONCE = 16


class Division:
    """Takes groups as they are sampled and gives their partitions once all are there; a `with` block ends its threads.

    Where the objective reads no clusters, an equivalence that costs something (a model, a service, a process of the
    user's own) is not asked; forms and spellings are, for the curve of different answers. One that `waits` for a
    service is asked at once, in a thread for each call of `add`, while the caller samples on; others are asked for all
    groups together, in `partitions`.
    """

    def __init__(self, equivalence: Equivalence, *, reads_clusters: bool) -> None:
        self._equivalence = equivalence
        self.is_asked = reads_clusters or isinstance(equivalence, TaskForms | Normalised | Exact)
        self.waits = self.is_asked and bool(getattr(equivalence, "waits", False))
        """Says if it pays to hand in groups bit by bit."""
        self._groups: list[TextGroup] = []
        self._started: list[Future[list[Partition]]] = []
        self._pool = ThreadPoolExecutor(_MOST_AT_ONCE) if self.waits else None
        self._calls_before = calls_so_far()
        self.seconds = 0.0
        """Spent in `partitions`: what the step has waited for labels."""

    def add(self, groups: Sequence[TextGroup]) -> None:
        """Takes further groups."""
        if self._pool is not None:
            self._started.append(self._pool.submit(self._equivalence.partitions, list(groups)))
        else:
            self._groups += groups

    def partitions(self) -> list[Partition] | None:
        """Returns the partitions of all groups, in the order in which they came; None where nothing is asked."""
        started = time.perf_counter()
        if not self.is_asked:
            return None
        if self._pool is None:
            partitions = self._equivalence.partitions(self._groups)
        else:
            partitions = [partition for future in self._started for partition in future.result()]
        self.seconds = time.perf_counter() - started
        return partitions

    def metrics(self, processes: Processes = ALONE) -> dict[str, float]:
        """Returns the seconds that this process waited for labels, and what calls of services cost in all of them; none
        where nothing was asked."""
        if not self.is_asked:
            return {}
        calls = calls_so_far() - self._calls_before
        if self.waits:
            n, tokens, dollars = processes.total(calls.n, calls.tokens, calls.dollars)
            calls = Calls(round(n), round(tokens), dollars)
        return {"time/partition_seconds": self.seconds, **calls.metrics}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def shared_signals(
    task: Task, own: Sequence[Group], division: Division, settings: DiversitySettings, processes: Processes
) -> GroupSignals:
    """Returns the signals of the groups of all processes; `own` are those of this one, which `division` has got."""
    partitions = division.partitions() if own else None
    with_distances = reads(settings, "distances")
    parts = [
        group_signals(task, [group], partitions and partitions[p : p + 1], with_distances=with_distances)
        for p, group in enumerate(own)
    ]
    return joined_signals(processes.gather(parts))


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """Holds advantages [P, N] of both terms; diversity is not weighed by λ yet, and 0 where there is none."""

    quality_PN: FloatArray
    diversity_PN: FloatArray
    signal_P: BoolArray
    """True where the diversity term prefers some generation of a group to another."""
    score: float
    """The mean set score over groups; 0 where there is no diversity term."""
    gate_PN: FloatArray | None
    """The part of `diversity_PN` that the quality gate is paid, where pairs are weighed by their rewards."""


@dataclass(frozen=True, slots=True)
class SampledGroups:
    """Holds P groups with what the objective is computed from, their sequences [P·N], and their advantages."""

    groups: list[Group]
    signals: GroupSignals
    sequences: list[TokenSequence]
    advantages: GroupAdvantages
    division_metrics: Mapping[str, float] = field(default_factory=dict)
    """The cost of the partition."""


def reads(settings: DiversitySettings, part: str) -> bool:
    """Tells whether the diversity term reads `clusters` or `distances`, which cost more than all else."""
    return settings.is_active and part in find_objective(settings.objective).reads


def reads_rewards(settings: DiversitySettings) -> bool:
    """Tells whether the diversity term reads what the checker says."""
    return settings.is_active and find_objective(settings.objective).reads_rewards(settings.gate)


def group_advantages(
    groups: Sequence[Group],
    signals: GroupSignals,
    settings: DiversitySettings,
    quality_baseline: BaselineName,
    fitted: FittedBaseline,
    generator: np.random.Generator,
) -> tuple[GroupAdvantages, FittedBaseline]:
    """Returns the advantages, and the fitted baseline for the next step: it learns from groups that have had theirs.

    `generator` draws subsets where a score without a closed form has too many to rate all; nothing else draws from it.
    Raises ConfigError where the objective refuses what it reads, or one of the user's own leaves its bounds.
    """
    quality_PN = set_advantages("reward", 1, rewards=signals.rewards_PN, baseline=quality_baseline)
    if not settings.is_active:
        silent_P = np.zeros(len(groups), dtype=bool)
        return GroupAdvantages(quality_PN, np.zeros_like(quality_PN), silent_P, 0.0, None), fitted
    is_fitted = settings.baseline == "fitted"
    coefficients = fitted.coefficients if is_fitted else None
    try:
        diversity_PN, score_P = diversity_advantages(signals, settings, coefficients, generator)
        signal_P = diversity_signal(signals, settings, generator)
        gate_PN = gate_part(signals, settings, coefficients) if has_gate_part(settings) else None
        if is_fitted:
            fitted = learn_from(fitted, groups, signals, settings, generator)
    except ValueError as error:
        raise ConfigError(f"diversity.objective {settings.objective}: {error}") from error
    score = float(np.nanmean(score_P))
    return GroupAdvantages(quality_PN, diversity_PN, signal_P, score, gate_PN), fitted
