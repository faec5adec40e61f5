"""Holds measures by prompt, and pairs them over arms and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from polychromic.diversity import Signature, require_comparable
from polychromic.evaluation.counting.curves import CURVES, key_at_k, split_at_k
from polychromic.evaluation.criteria import Criterion, Levels, listed, plural
from polychromic.evaluation.statistics.intervals import Resampling
from polychromic.evaluation.statistics.paired import ALPHA
from polychromic.numerics import FloatArray, IntArray

SCHEMA_VERSION = 2

Pair = tuple[FloatArray, FloatArray]
"""Cells [seeds, prompts] of two arms on one metric."""


@dataclass(frozen=True, slots=True)
class SampledTable:
    """Holds metrics of one sampling setting. Arrays follow the table's prompts; nan where a metric is undefined.

    `values` holds [P] arrays by metric key. `curves` holds those of `CURVES` by name, [P, n]: the unbiased
    value among k generations in column k − 1. A metric that no prompt has is absent.
    """

    values: Mapping[str, FloatArray]
    curves: Mapping[str, FloatArray] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """Returns keys of the plain metrics, then those of the curves at the k that reports show."""
        at_k = [key_at_k(name, k) for name, curve in self.curves.items() for k in CURVES[name].shown_ks(curve.shape[1])]
        return [*self.values, *at_k]

    def metric(self, key: str) -> FloatArray | None:
        """Returns [P] values of a metric such as `distinct_2` or `pass@10`; None where it was not measured."""
        at_k = split_at_k(key)
        if at_k is None:
            return self.values.get(key)
        name, k = at_k
        curve = self.curves.get(name)
        return curve[:, k - 1] if curve is not None and k <= curve.shape[1] else None


@dataclass(frozen=True, slots=True)
class PromptTable:
    """Holds one arm's and seed's measurements: `sampled` by label (`T=1`), the primary sampling first; prompts sorted
    by id.

    `clusters` says how equal answers were found, `signatures` how each diversity measure was made, and
    `missing` why rewards are missing: reasons with their counts. `answers` is the number of answers that the measures
    of texts saw of every prompt (0: not known), and `most_answers` by label the most that a prompt has. `undefined`
    counts the prompts where a measure is nan: label → metric → reason → prompts.
    """

    prompts: tuple[str, ...]
    sampled: Mapping[str, SampledTable]
    clusters: str = "text"
    signatures: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    answers: int = 0
    most_answers: Mapping[str, int] = field(default_factory=dict)
    undefined: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns a plain mapping for `write_json` (nan becomes null); `from_json` is its inverse."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PromptTable:
        """Rebuilds a table from what `to_json` gave, also after a trip through a strict JSON file.

        Raises ValueError on another schema version.
        """
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version is {data['schema_version']}, expected {SCHEMA_VERSION}; measure the generations again"
            )
        sampled = {
            label: SampledTable(_arrays(parts["values"]), _arrays(parts["curves"]))
            for label, parts in data["sampled"].items()
        }
        stated = {name.name: data[name.name] for name in fields(cls)}
        return cls(**{**stated, "prompts": tuple(data["prompts"]), "sampled": sampled})


def _arrays(columns: Mapping[str, ArrayLike]) -> dict[str, FloatArray]:
    # Strict JSON has no nan: null comes back as None, which a float array reads as nan.
    return {key: np.array(column, dtype=np.float64) for key, column in columns.items()}


@dataclass(frozen=True, slots=True)
class Study:
    """Holds arms in their given order with their seeds; `prompts` are those that every table has."""

    tables: Mapping[tuple[str, int], PromptTable]
    prompts: tuple[str, ...]
    arms: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, tables: Mapping[tuple[str, int], PromptTable]) -> Study:
        """Lines up the tables.

        Raises ValueError without a table, where no prompt is in all of them, or where the same measure was made in
        different ways.
        """
        if not tables:
            raise ValueError("tables: expected the measurements of at least two arms, got none")
        everywhere = set.intersection(*(set(table.prompts) for table in tables.values()))
        if not everywhere:
            raise ValueError("the arms share no prompt id; expected generations for the same prompts")
        _require_one_way(tables)
        arms: dict[str, tuple[int, ...]] = {}
        for arm, seed in tables:
            arms[arm] = (*arms.get(arm, ()), seed)
        return cls(tables, tuple(sorted(everywhere)), arms)

    @property
    def clusters(self) -> str:
        """Returns how equal answers were found, in every table."""
        return next(iter(self.tables.values())).clusters

    @property
    def signatures(self) -> dict[str, str]:
        """Returns how each measure was made that some table has."""
        return {key: text for table in self.tables.values() for key, text in table.signatures.items()}

    def left_out(self, baseline: str) -> list[str]:
        """Returns what the tables hold and a comparison with the baseline does not: prompts that not every arm and seed
        has, seeds without a partner, sampling settings that only one of two arms has."""
        lines = []
        anywhere = set.union(*(set(table.prompts) for table in self.tables.values()))
        if missing := sorted(anywhere - set(self.prompts)):
            lacking = {
                arm: max(len(anywhere.difference(self.tables[arm, seed].prompts)) for seed in seeds)
                for arm, seeds in self.arms.items()
            }
            who = listed([f"{arm} lacks {n}" for arm, n in lacking.items() if n])
            lines.append(
                f"{plural(len(missing), 'prompt')} that not every arm and seed has ({who}; first: {missing[0]})"
            )
        for arm in self.arms:
            for arm_with, other in ((arm, baseline), (baseline, arm)):
                lines += self._unmatched(arm_with, other) if arm != baseline else []
        return list(dict.fromkeys(lines))

    def _unmatched(self, arm: str, other: str) -> list[str]:
        """Names seeds and sampling settings of one arm that another lacks; a single seed stands against all
        others."""
        lines = []
        seeds = [seed for seed in self.arms[arm] if seed not in self.arms[other]]
        if seeds and min(len(self.arms[arm]), len(self.arms[other])) > 1:
            lines.append(f"{plural(len(seeds), 'seed')} of {arm} that {other} lacks ({listed(list(map(str, seeds)))})")
        all_labels = dict.fromkeys(label for seed in self.arms[arm] for label in self.tables[arm, seed].sampled)
        shared = set(self.labels(arm)).intersection(self.labels(other))
        labels = [label for label in all_labels if label not in shared]
        if labels:
            settings = plural(len(labels), "sampling setting")
            lines.append(f"{settings} of {arm} that not every seed of {arm} and {other} has ({listed(labels)})")
        return lines

    def labels(self, arm: str) -> list[str]:
        """Returns the sampling settings that all seeds of an arm have, the primary one first."""
        tables = [self.tables[arm, seed] for seed in self.arms[arm]]
        return [label for label in tables[0].sampled if all(label in table.sampled for table in tables)]

    def metrics(self, arm: str, label: str) -> list[str]:
        """Returns metric keys that every seed of an arm has under one sampling setting."""
        sampled = [self.tables[arm, seed].sampled[label] for seed in self.arms[arm]]
        return [key for key in sampled[0].metrics if all(table.metric(key) is not None for table in sampled)]

    def cells(self, arm: str, label: str, metric: str) -> FloatArray | None:
        """Returns [seeds, prompts] of one arm; None where a seed lacks the metric or the sampling setting."""
        rows = [self._row(arm, seed, label, metric) for seed in self.arms[arm]]
        return None if any(row is None for row in rows) else np.stack([row for row in rows if row is not None])

    def curves(self, arm: str, label: str, name: str) -> FloatArray | None:
        """Returns [seeds, prompts, k] of a curve by name, such as "pass", up to the k that all seeds have."""
        rows = [
            self.tables[arm, seed].sampled[label].curves.get(name)
            for seed in self.arms[arm]
            if label in self.tables[arm, seed].sampled
        ]
        present = [row for row in rows if row is not None]
        if not present or len(present) < len(self.arms[arm]):
            return None
        n_k = min(row.shape[1] for row in present)
        kept = [self._kept(arm, seed) for seed in self.arms[arm]]
        return np.stack([row[positions, :n_k] for row, positions in zip(present, kept, strict=True)])

    def pair(self, arm: str, baseline: str, label: str, metric: str) -> Pair | None:
        """Returns cells of two arms with their seeds paired; None where one lacks the metric.

        Seeds that both have are paired. An arm with a single seed (an untrained model, generations from
        elsewhere) stands against each seed of the other. Raises ValueError where neither is possible.
        """
        a_SP, b_SP = self.cells(arm, label, metric), self.cells(baseline, label, metric)
        if a_SP is None or b_SP is None:
            return None
        of_a, of_b = self.paired_seeds(arm, baseline)
        return a_SP[of_a], b_SP[of_b]

    def paired_seeds(self, arm: str, baseline: str) -> tuple[list[int], list[int]]:
        """Returns the positions of two arms' seeds that stand against each other, as `pair` says."""
        of_a, of_b = self.arms[arm], self.arms[baseline]
        if len(of_a) == 1 or len(of_b) == 1:
            n = max(len(of_a), len(of_b))
            return (list(range(n)) if len(of_a) == n else [0] * n), (list(range(n)) if len(of_b) == n else [0] * n)
        shared = [seed for seed in of_a if seed in of_b]
        if not shared:
            raise ValueError(
                f"arms {arm!r} (seeds {list(of_a)}) and {baseline!r} (seeds {list(of_b)}) share no seed; train both "
                "with the same seeds"
            )
        return [of_a.index(seed) for seed in shared], [of_b.index(seed) for seed in shared]

    def _row(self, arm: str, seed: int, label: str, metric: str) -> FloatArray | None:
        sampled = self.tables[arm, seed].sampled.get(label)
        values = sampled.metric(metric) if sampled else None
        return None if values is None else values[self._kept(arm, seed)]

    def _kept(self, arm: str, seed: int) -> IntArray:
        """Returns the positions of the study's prompts in one table (both are sorted by id)."""
        return np.searchsorted(self.tables[arm, seed].prompts, self.prompts)


@dataclass(frozen=True, slots=True)
class Plan:
    """Holds what is compared with what, and how."""

    study: Study
    baseline: str
    others: tuple[str, ...]
    primary_sampling: str
    levels: Levels
    resampling: Resampling
    untrained: str | None

    @classmethod
    def of(
        cls,
        tables: Mapping[tuple[str, int], PromptTable],
        baseline: str,
        levels: Levels,
        primary_sampling: str | None,
        resampling: Resampling,
        untrained: str | None,
    ) -> Plan:
        """Raises ValueError where the baseline or the primary sampling is missing, or the tables cannot be lined up."""
        study = Study.of(tables)
        if baseline not in study.arms:
            raise ValueError(f"baseline {baseline!r}: expected one of the arms {list(study.arms)}")
        others = tuple(arm for arm in study.arms if arm != baseline)
        primary_sampling = primary_sampling or study.labels(baseline)[0]
        for arm in study.arms:
            if primary_sampling not in study.labels(arm):
                raise ValueError(
                    f"arm {arm!r} was not sampled at {primary_sampling}, where the criteria are judged; it has "
                    f"{study.labels(arm)}"
                )
        return cls(study, baseline, others, primary_sampling, levels, resampling, untrained)

    @property
    def n_prompts(self) -> int:
        """Counts the prompts that the baseline and every judged arm answered at the primary sampling."""
        label = self.primary_sampling
        answered_P = np.ones(len(self.study.prompts), dtype=bool)
        for arm in (self.baseline, *self.judged):
            cells = [self.study.cells(arm, label, metric) for metric in self.study.metrics(arm, label)]
            defined = [~np.isnan(cells_SP).any(axis=0) for cells_SP in cells if cells_SP is not None]
            answered_P &= np.any(defined, axis=0)
        return int(answered_P.sum())

    @property
    def left_out(self) -> list[str]:
        """Returns what the tables hold and the comparison does not: that of the study, and prompts that some arm
        answered at other settings alone."""
        elsewhere = len(self.study.prompts) - self.n_prompts
        at = f"{plural(elsewhere, 'prompt')} that not every arm answered at {self.primary_sampling}"
        return [*self.study.left_out(self.baseline), *([at] if elsewhere else [])]

    @property
    def judged(self) -> tuple[str, ...]:
        """Returns arms that get a verdict: all but the baseline and the untrained model."""
        return tuple(arm for arm in self.others if arm != self.untrained)

    @property
    def alone(self) -> tuple[str, ...]:
        """Returns arms of one training seed that stand against each seed of another: how they would differ with other
        seeds is in no interval."""
        n_seeds = {arm: len(self.study.arms[arm]) for arm in (self.baseline, *self.judged)}
        if n_seeds[self.baseline] > 1:
            return tuple(arm for arm in self.judged if n_seeds[arm] == 1)
        return (self.baseline,) if max(n_seeds.values()) > 1 else ()

    @property
    def criteria(self) -> list[Criterion]:
        """Returns the criteria of all levels."""
        return [criterion for level in self.levels.values() for criterion in level]

    @property
    def alpha(self) -> float:
        """Returns the level of what is said beside the criteria."""
        return self.criteria[0].alpha if self.criteria else ALPHA

    @property
    def asked(self) -> list[str]:
        """Returns metric keys of all criteria, each once."""
        return list(dict.fromkeys(criterion.metric for criterion in self.criteria))

    def pair(self, arm: str, label: str, metric: str) -> Pair | None:
        """Returns cells of an arm and the baseline that share at least one defined prompt, else None."""
        pair = self.study.pair(arm, self.baseline, label, metric)
        return pair if pair is not None and share_a_prompt(pair) else None


def share_a_prompt(pair: Pair) -> bool:
    """Tells whether some prompt is defined in all cells of both arms."""
    return not np.isnan(pair[0] + pair[1]).any(axis=0).all()


def _require_one_way(tables: Mapping[tuple[str, int], PromptTable]) -> None:
    """Raises ValueError, naming arm and difference, where a measure was not made in one way in all tables."""
    made: dict[str, tuple[str, Signature]] = {}
    first = next(iter(tables.values()))
    for (arm, _), table in tables.items():
        if table.clusters != first.clusters:
            raise ValueError(
                f"arm {arm!r} has equal answers found by {table.clusters}, others by {first.clusters}; expected one way"
            )
        for key, text in table.signatures.items():
            signature = Signature.parse(text)
            other, before = made.setdefault(key, (arm, signature))
            try:
                require_comparable(before, signature)
            except ValueError as error:
                raise ValueError(f"arms {other!r} and {arm!r}: {error}") from error
