"""Every metric of one group of answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from polychromic.diversity import (
    MeasureSettings,
    as_labels,
    cluster_by_embedding,
    cluster_by_text,
    expected_clusters,
    measure_group,
)
from polychromic.evaluation.groups import AnswerGroup
from polychromic.evaluation.passk import pass_at_k_curve

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """What metrics depend on beside the answers.

    A reward of at least `pass_threshold` passes. Where the task knows no canonical form and there are
    embeddings, answers closer than `cluster_distance` (1 − cosine) count as the same. `draws` is the number of
    generations that `clusters`, `distinct_correct` and `best_of_n` are expected values among (None: all of the
    group). `answers` is the number of generations, the first of each group, that the measures of texts and embeddings
    see (None: all of the group); a group with fewer has none of them. `measures` is passed on to these measures.
    """

    pass_threshold: float
    cluster_distance: float = 0.25
    draws: int | None = None
    answers: int | None = None
    measures: MeasureSettings = field(default_factory=MeasureSettings)


@dataclass(frozen=True, slots=True)
class GroupMetrics:
    """One group's values by metric key, its curves [N] over k = 1..N, and why a measure of its texts is undefined."""

    values: dict[str, float]
    curves: dict[str, Floats]
    undefined: dict[str, str]


def measure_answers(
    group: AnswerGroup, options: MeasureOptions, embeddings_ND: NDArray[np.float32] | None
) -> GroupMetrics:
    """All metrics of one group; those without a meaning there are nan."""
    labels_N = _partition(group, options, embeddings_ND)
    draws = options.draws or max(1, len(group))
    curves = _curves(group, options.pass_threshold, labels_N)
    values, undefined = _diversity(group.texts, options, embeddings_ND)
    values["clusters"] = expected_clusters(labels_N, draws)
    values["distinct_correct"] = (
        float(curves["distinct_correct"][draws - 1]) if draws <= len(group) else math.nan
    )
    values["reward"] = _mean(group.rewards)
    values["best_of_n"] = expected_best(group.rewards, draws)
    values["judge"] = _mean(group.judgements)
    values["tokens"] = _mean(group.n_tokens)
    values["truncated"] = _mean(group.truncated)
    values["missing"] = _mean(np.isnan(group.rewards))
    values["unanswered"] = group.n_missing / (len(group) + group.n_missing)
    return GroupMetrics(values, curves, undefined)


def _diversity(
    texts: list[str], options: MeasureOptions, embeddings_ND: NDArray[np.float32] | None
) -> tuple[dict[str, float], dict[str, str]]:
    """The diversity measures of the first `options.answers` texts, since more texts repeat more, whoever wrote them;
    and why those that are nan are."""
    n = options.answers or len(texts)
    kept_ND = embeddings_ND[:n] if embeddings_ND is not None else None
    measured = measure_group(texts[:n], options.measures, embeddings=kept_ND)
    if len(texts) >= n:
        return dict(measured.values), measured.undefined
    return dict.fromkeys(measured.values, math.nan), dict.fromkeys(measured.values, f"fewer than {n} answers")


def expected_best(rewards: Floats, k: int) -> float:
    """Expected largest of k rewards drawn without replacement from those that are not nan; nan with fewer than k.

    The j highest hold the maximum with chance pass@k of j passing, so each rank's weight is a difference of two.
    """
    known = np.sort(rewards[~np.isnan(rewards)])[::-1]
    if len(known) < k:
        return math.nan
    reached_J = pass_at_k_curve(len(known), np.arange(len(known) + 1), k)[:, k - 1]
    return float(np.diff(reached_J) @ known)


def _partition(
    group: AnswerGroup, options: MeasureOptions, embeddings_ND: NDArray[np.float32] | None
) -> NDArray[np.int64]:
    if group.forms is not None:
        return as_labels(group.forms)
    if embeddings_ND is not None:
        return cluster_by_embedding(embeddings_ND, 1.0 - options.cluster_distance)
    return cluster_by_text(group.texts)


def _curves(group: AnswerGroup, pass_threshold: float, labels_N: NDArray[np.int64]) -> dict[str, Floats]:
    """Pass@k and expected distinct passing clusters for k = 1..N, nan beyond the generations with a reward."""
    n_known = int((~np.isnan(group.rewards)).sum())
    passing = group.rewards >= pass_threshold
    sizes = np.unique(labels_N[passing], return_counts=True)[1]
    # Hitting a cluster is passing with that cluster as the only right answer. Equal sizes have equal curves.
    sizes, n_clusters = np.unique(sizes, return_counts=True)
    counts = np.append(sizes, passing.sum())
    curves = pass_at_k_curve(n_known, counts, max(1, len(group)))
    return {"pass": curves[-1], "distinct_correct": n_clusters @ curves[:-1] if len(sizes) else curves[-1]}


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
