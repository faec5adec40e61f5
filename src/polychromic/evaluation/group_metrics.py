"""Measures the answers to one prompt: texts, embeddings, and what is counted of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from polychromic.diversity import (
    MeasureSettings,
    cluster_by_embedding,
    cluster_by_text,
    expected_clusters,
    label_codes,
    measure_group,
)
from polychromic.diversity.equivalence import MISSING
from polychromic.evaluation.counting.curves import Counted, curves_of
from polychromic.evaluation.counting.formulas import expected_best, hill_number, pair_sameness
from polychromic.numerics import BoolArray, Float32Array, FloatArray, IntArray
from polychromic.records import NO_REASON, GenerationRow, SamplingParameters

UNJUDGED = "judge: "
"""Begins the reason why the judge gave an answer no mark, among those of missing rewards."""


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """Holds N answers to one prompt. Arrays [N]; rewards and judgements are nan where their checker failed.

    `forms` are keys of answers that count as the same, None where the task has none. `errors` are the reasons of
    missing rewards and judgements. `n_missing` answers were asked for and not given: they are in none of the arrays.
    `labels` are those of the equivalence, where one divides the answers: MISSING where it failed; `second_labels` are
    the second one's. `all_formed` says that every row holds its form.
    """

    prompt_id: str
    texts: list[str]
    rewards: FloatArray
    judgements: FloatArray
    n_tokens: FloatArray
    truncated: FloatArray
    forms: list[str] | None
    errors: list[str]
    n_missing: int = 0
    labels: IntArray | None = None
    all_formed: bool = False
    second_labels: IntArray | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def first(self, n: int) -> AnswerGroup:
        """Returns the group with its first n answers alone."""
        return replace(
            self,
            texts=self.texts[:n],
            rewards=self.rewards[:n],
            judgements=self.judgements[:n],
            n_tokens=self.n_tokens[:n],
            truncated=self.truncated[:n],
            forms=None if self.forms is None else self.forms[:n],
            labels=None if self.labels is None else self.labels[:n],
            second_labels=None if self.second_labels is None else self.second_labels[:n],
        )


def group_rows(rows: Sequence[GenerationRow], *, has_forms: bool | None = None) -> dict[str, list[AnswerGroup]]:
    """Returns groups by sampling label in order of first appearance, each list sorted by prompt id.

    `has_forms` says whether the task tells equal answers by their forms (None: it does where a row carries one).
    Raises ValueError where a prompt has two rows of one index under one sampling setting.
    """
    # One table has one notion of equal answers: task forms where any row carries one.
    has_forms = carry_forms(rows) if has_forms is None else has_forms
    gathered: defaultdict[SamplingParameters, defaultdict[str, list[GenerationRow]]]
    gathered = defaultdict(lambda: defaultdict(list))
    for row in rows:
        gathered[row.sampling][row.prompt_id].append(row)
    groups: dict[str, list[AnswerGroup]] = {}
    for sampling, prompts in gathered.items():
        if sampling.label in groups:
            raise ValueError(
                f"rows sampled at {sampling.label} have different token limits; expected one sampling setting a label"
            )
        groups[sampling.label] = [_group(name, members, has_forms) for name, members in sorted(prompts.items())]
    return groups


def carry_forms(rows: Iterable[GenerationRow]) -> bool:
    """Tells whether the task told the form of any answer."""
    return any(row.cluster is not None for row in rows)


def _group(prompt_id: str, rows: list[GenerationRow], has_forms: bool) -> AnswerGroup:
    rows = sorted(rows, key=lambda row: row.index)
    for first, second in pairwise(rows):
        if first.index == second.index:
            raise ValueError(
                f"prompt {prompt_id!r} has two generations of index {first.index} at {first.sampling.label}; "
                "expected each once (were two files joined?)"
            )
    reasons = [row.error or NO_REASON for row in rows if row.reward is None]
    reasons += [f"{UNJUDGED}{row.judge_error}" for row in rows if row.judge is None and row.judge_error]
    n_asked = len(rows)
    rows = [row for row in rows if row.finish != "missing"]
    return AnswerGroup(
        prompt_id,
        [row.text for row in rows],
        np.array([row.reward for row in rows], dtype=np.float64),
        np.array([row.judge for row in rows], dtype=np.float64),
        np.array([row.n_tokens for row in rows], dtype=np.float64),
        np.array([row.finish == "length" for row in rows], dtype=np.float64),
        [row.text if row.cluster is None else row.cluster for row in rows] if has_forms else None,
        reasons,
        n_asked - len(rows),
        all_formed=carry_forms(rows) and all(row.cluster is not None for row in rows),
    )


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """Holds what metrics depend on beside the answers.

    A reward of at least `pass_threshold` passes. Where the task knows no canonical form and there are
    embeddings, answers closer than `cluster_distance` (1 − cosine) count as the same. `draws` is the number of
    generations that `clusters`, `distinct_correct` and `best_of_n` are expected values among, and Hill numbers those of
    the first ones (None: all of the group). `answers` is the number of generations, the first of each group, that the
    measures of texts and embeddings see (None: all of the group); a group with fewer has none of them. `measures` is
    passed on to these.
    """

    pass_threshold: float
    cluster_distance: float = 0.25
    draws: int | None = None
    answers: int | None = None
    measures: MeasureSettings = field(default_factory=MeasureSettings)


@dataclass(frozen=True, slots=True)
class GroupMetrics:
    """Holds one group's values by metric key, its curves [N] over k = 1..N, and why a measure of its texts is
    undefined."""

    values: dict[str, float]
    curves: dict[str, FloatArray]
    undefined: dict[str, str]


def measure_answers(group: AnswerGroup, options: MeasureOptions, embeddings_ND: Float32Array | None) -> GroupMetrics:
    """Returns all metrics of one group; those without a meaning there are nan."""
    labels_N = _partition(group, options, embeddings_ND)
    draws = options.draws or max(1, len(group))
    curves = curves_of(Counted(group.rewards, group.rewards >= options.pass_threshold, labels_N))
    values, undefined = _diversity(group.texts, options, embeddings_ND)
    labelled_N = labels_N[labels_N != MISSING]
    values["clusters"] = expected_clusters(labelled_N, draws)
    # No mean over draws of more answers: of a ratio it is another number than the ratio of k answers alone.
    values["hill_1"], values["hill_2"] = (hill_number(labelled_N[:draws], q, draws) for q in (1, 2))
    values["sameness"] = pair_sameness(labelled_N)
    if group.second_labels is not None:
        second_N = group.second_labels[group.second_labels != MISSING]
        values["second_clusters"] = expected_clusters(second_N, draws)
    values["distinct_correct"] = float(curves["distinct_correct"][draws - 1]) if draws <= len(group) else math.nan
    values["reward"] = _mean(group.rewards)
    values["best_of_n"] = expected_best(group.rewards, draws)
    values["judge"] = _mean(group.judgements)
    values["tokens"] = _mean(group.n_tokens)
    values["truncated"] = _mean(group.truncated)
    values["missing"] = _mean(np.isnan(group.rewards))
    values["unanswered"] = group.n_missing / (len(group) + group.n_missing)
    return GroupMetrics(values, curves, undefined)


def _diversity(
    texts: list[str], options: MeasureOptions, embeddings_ND: Float32Array | None
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns the diversity measures of the first `options.answers` texts, since more texts repeat more, whoever wrote
    them; and why those that are nan are."""
    n = options.answers or len(texts)
    kept_ND = embeddings_ND[:n] if embeddings_ND is not None else None
    measured = measure_group(texts[:n], options.measures, embeddings=kept_ND)
    if len(texts) >= n:
        return dict(measured.values), measured.undefined
    return dict.fromkeys(measured.values, math.nan), dict.fromkeys(measured.values, f"fewer than {n} answers")


def _partition(group: AnswerGroup, options: MeasureOptions, embeddings_ND: Float32Array | None) -> IntArray:
    if group.labels is not None:
        return group.labels
    if group.forms is not None:
        return label_codes(group.forms)
    if embeddings_ND is not None:
        return cluster_by_embedding(embeddings_ND, 1.0 - options.cluster_distance)
    return cluster_by_text(group.texts)


def _mean(values: FloatArray | BoolArray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan
