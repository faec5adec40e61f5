"""Gives the rows of any trainer's batch the advantages of a set objective: what all adapters here are made of."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polychromic.errors import ConfigError, DataError
from polychromic.integrations.answers import Answers
from polychromic.integrations.sets import SetObjective, require_centred, require_fixed
from polychromic.numerics import FloatArray
from polychromic.objective import FittedBaseline
from polychromic.records import Check, Generation, Group, Message, Prompt
from polychromic.training.advantages import reads
from polychromic.training.parallel import ALONE
from polychromic.training.rollouts import GroupSignals
from polychromic.training.settings import DiversitySettings

logger = logging.getLogger(__name__)

_MOST_TOO_SMALL = 20
"""Groups in a row that may be too small to rate: answers that failed leave gaps, but not in every group."""


@dataclass(frozen=True, slots=True)
class Row:
    """One answer as a trainer knows it.

    group: what the answers to one prompt share. reward: None where there is none, which leaves the answer out of every
    set. text: the answer, None where the trainer's hook does not see it. columns: `prompt.meta` of `same_answer`.
    """

    group: Hashable
    reward: float | None
    text: str | None = None
    prompt: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


class RowObjective:
    """Rates rows by J = J_quality + λ J_diversity with a fixed λ; groups may lie in any order and differ in size.

    centring: the trainer that subtracts a group's mean from what it is given; None where it takes advantages as they
    are. `metrics` are those of the latest rows. Raises ConfigError where these settings would bias the gradient.
    """

    def __init__(
        self, diversity: DiversitySettings, answers: Answers | None = None, *, centring: str | None = None
    ) -> None:
        require_fixed(diversity)
        if centring is not None:
            require_centred(diversity, centring, "")
        self.sets = SetObjective(diversity, answers or Answers(), always_divides=False)
        self.metrics: dict[str, float] = {}
        self._fitted: dict[int, FittedBaseline] = {}
        self._step = 0
        self._too_small = 0

    def advantages(self, rows: Sequence[Row]) -> FloatArray:
        """Returns [B]: A_i times rows per group: a mean of A log π over rows has the gradient of J's mean over prompts.

        Rows of groups too small to rate get 0. Raises ConfigError where the objective reads texts and there are none,
        and DataError where one group after the other is too small.
        """
        settings = self.sets.settings
        reads_texts = reads(settings, "clusters") or reads(settings, "distances")
        if reads_texts and any(row.text is None for row in rows):
            raise ConfigError(
                f"diversity.objective {settings.objective!r} reads the answers, and this hook of the trainer "
                "sees only rewards: docs/integrations.md says how they reach it, or use objective='pass_at_k'"
            )
        members: dict[Hashable, list[int]] = {}
        for index, row in enumerate(rows):
            members.setdefault(row.group, []).append(index)
        by_size: dict[int, list[list[int]]] = {}
        for indices in members.values():
            if self._is_large_enough(len(indices)):
                by_size.setdefault(len(indices), []).append(indices)
        advantages_B = np.zeros(len(rows))
        measured: list[tuple[float, dict[str, float]]] = []
        for size, alike in by_size.items():
            # A fitted baseline mixes means over 1 to N − 1 answers: each size has one of its own.
            self.sets.fitted = self._fitted.get(size) or FittedBaseline()
            groups = [_group([rows[index] for index in indices]) for indices in alike]
            signals = self.sets.signals(groups, ALONE)
            batch = self.sets.advantages(groups, signals, self._step)
            self._fitted[size] = self.sets.fitted
            advantages_B[np.concatenate(alike)] = batch.total()
            given = batch.sampled.advantages
            measured.append((len(alike), self._measured(signals, given.score, float(given.signal_P.mean()))))
        self.metrics = _means(measured) | {"groups/too_small": 1 - sum(n for n, _ in measured) / max(1, len(members))}
        self._step += 1
        return advantages_B * (len(rows) / max(1, len(members)))

    def _is_large_enough(self, size: int) -> bool:
        if size >= self.sets.fewest:
            self._too_small = 0
            return True
        self._too_small += 1
        settings = self.sets.settings
        sentence = (
            f"a group has {size} answers, and sets of {settings.set_size} with baseline {settings.baseline} need "
            f"{self.sets.fewest}"
        )
        if self._too_small >= _MOST_TOO_SMALL:
            raise DataError(f"{sentence}; so had {self._too_small} groups in a row: sample more or lower set_size")
        logger.warning("%s: it trains nothing", sentence)
        return False

    def _measured(self, signals: GroupSignals, score: float, signal: float) -> dict[str, float]:
        metrics = {"train/reward": float(np.nanmean(signals.rewards_PN))}
        if self.sets.settings.is_active:
            metrics |= {"train/diversity_score": score, "groups/diversity_signal": signal}
        if reads(self.sets.settings, "clusters"):
            metrics["groups/clusters"] = signals.mean_clusters
        return metrics


def _group(rows: Sequence[Row]) -> Group:
    first = rows[0]
    return Group(
        Prompt(str(first.group), (Message("user", first.prompt),), meta=first.columns),
        # Where no texts are known, none are read: any that differ will do.
        tuple(Generation(row.text if row.text is not None else str(i), (), "stop") for i, row in enumerate(rows)),
        tuple(Check(row.reward) if row.reward is not None else Check(None, "no reward") for row in rows),
    )


def _means(measured: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    total, sums = sum(n for n, _ in measured), Counter[str]()
    for n, metrics in measured:
        for name, value in metrics.items():
            sums[name] += n * value  # type: ignore[assignment]  # a Counter adds floats as well
    return {name: value / total for name, value in sums.items()}


@dataclass(frozen=True, slots=True)
class Texts:
    """Holds the answers [B] of the batch that is being rated, with their prompts, and takes what its rating showed."""

    texts: Sequence[str]
    prompts: Sequence[str]
    metrics: dict[str, float] = field(default_factory=dict)


_TEXTS: ContextVar[Texts | None] = ContextVar("polychromic_texts", default=None)


@contextmanager
def reading(texts: Sequence[str], prompts: Sequence[str]) -> Iterator[Texts]:
    """Lets estimators of this process see the answers while the trainer asks them for advantages."""
    given = Texts(texts, prompts)
    token = _TEXTS.set(given)
    try:
        yield given
    finally:
        _TEXTS.reset(token)


@dataclass(frozen=True, slots=True)
class AdvantageEstimator:
    """Turns rewards [B, T] on tokens into advantages [B, T], in the form that verl and SkyRL have.

    Rows of one `index` are a group; rows that only fill a batch (`pad0`, `pad1`, …) get 0. It sees the answers within
    `reading`. An object and no closure: SkyRL sends estimators to other processes by cloudpickle, which takes what a
    closure refers to along by value, and a context variable has none.
    """

    objective: RowObjective

    def __call__(self, token_level_rewards: Any, response_mask: Any, index: Any, **_others: Any) -> tuple[Any, Any]:
        """Returns the advantages twice: they are the returns as well."""
        rewards_B = float64_of(token_level_rewards.sum(dim=-1).float().cpu().numpy()).tolist()
        given = _TEXTS.get()
        texts = given.texts if given else [None] * len(rewards_B)
        prompts = given.prompts if given else [""] * len(rewards_B)
        rows = [
            Row(key, reward, text, prompt)
            for key, reward, text, prompt in zip(list(index), rewards_B, texts, prompts, strict=True)
        ]
        real = [position for position, row in enumerate(rows) if not _is_filling(row.group)]
        advantages_B = np.zeros(len(rows))
        advantages_B[real] = self.objective.advantages([rows[position] for position in real])
        if given:
            given.metrics.update(self.objective.metrics)
        advantages = token_level_rewards.new_tensor(advantages_B.tolist())[:, None] * response_mask
        return advantages, advantages


def float64_of(rewards: FloatArray) -> FloatArray:
    """Returns float32 rewards as the shortest decimals that stand for them: 0.7 again, which as float32 is less and
    would not pass a threshold of 0.7."""
    return np.asarray(rewards, dtype=np.float32).astype(str).astype(np.float64)


def _is_filling(key: Hashable) -> bool:
    return isinstance(key, str) and key.startswith("pad") and key[3:].isdigit()
