"""Measures how often two arms give the same answer, so that several models can be seen to be one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from polychromic.diversity.equivalence import MISSING
from polychromic.evaluation.counting.formulas import pair_sameness
from polychromic.evaluation.group_metrics import AnswerGroup, group_rows
from polychromic.evaluation.measure import SameAnswers
from polychromic.evaluation.statistics.intervals import Resampling
from polychromic.evaluation.statistics.paired import paired_comparisons
from polychromic.numerics import FloatArray, IntArray, label_codes
from polychromic.records import GenerationRow

MOST_ANSWERS = 16
"""Of each arm and seed: the chance is unbiased with any number, and a judge may be paid by the call."""

Labels = Mapping[tuple[str, int], Mapping[str, IntArray]]
"""Labels [N] by arm and seed and by prompt id; those of one prompt are of one partition."""


@dataclass(frozen=True, slots=True)
class ArmSameness:
    """Holds how often two arms give the same answer to a prompt, against how often each gives it twice itself.

    `between` is the chance that an answer of `arm` and one of `other` are the same, `within_arm` and `within_other`
    that two answers of one trained model are, all means over prompts. `overlap` is between over the mean of the two:
    1 where both answer alike (one distribution), 0 where they share no answer, nan where neither repeats itself. Its
    interval, and that of `gap` = between − the mean of the two, are paired over prompts.
    Source: Morisita 1959, Measuring of Interspecific Association, whose index `overlap` is, of means over prompts.
    """

    arm: str
    other: str
    between: float
    within_arm: float
    within_other: float
    gap: float
    gap_low: float
    gap_high: float
    overlap: float
    overlap_low: float
    overlap_high: float
    n_prompts: int


def joint_labels(
    rows_by_arm_seed: Mapping[tuple[str, int], Sequence[GenerationRow]],
    same: SameAnswers,
    label: str,
    most: int = MOST_ANSWERS,
) -> dict[tuple[str, int], dict[str, IntArray]]:
    """Divides the answers of all arms and seeds to a prompt together, the first `most` of each at one sampling setting.

    Returns labels by arm and seed and prompt: those of arms' own partitions cannot be compared with each other, and
    where a whole group decides (embeddings), a joint partition may be another one than an arm's own.
    """
    by_prompt: defaultdict[str, list[tuple[tuple[str, int], AnswerGroup]]] = defaultdict(list)
    for key, rows in rows_by_arm_seed.items():
        for group in group_rows(rows).get(label, []):
            by_prompt[group.prompt_id].append((key, group.first(most)))
    unformed = [prompt for prompt, parts in by_prompt.items() if not all(group.all_formed for _, group in parts)]
    answers = same.equivalence.partitions(
        [
            (same.prompts[prompt], [text for _, group in by_prompt[prompt] for text in group.texts])
            for prompt in unformed
        ]
    )
    labels_of_unformed = dict(zip(unformed, answers, strict=True))
    labels: dict[tuple[str, int], dict[str, IntArray]] = {key: {} for key in rows_by_arm_seed}
    for prompt, parts in by_prompt.items():
        labels_N = (
            labels_of_unformed[prompt].labels_N
            if prompt in labels_of_unformed
            else label_codes(form for _, group in parts for form in group.forms or ())
        )
        ends = np.cumsum([len(group) for _, group in parts])[:-1]
        for (key, _), own_N in zip(parts, np.split(labels_N, ends), strict=True):
            labels[key][prompt] = own_N
    return labels


def sameness_between(labels: Labels, resampling: Resampling | None = None) -> tuple[ArmSameness, ...]:
    """Returns every pair of arms, on the prompts where both have an answer with a label and two for comparing within.

    Between two arms all pairs of their seeds count alike; within an arm each seed is compared with itself, a trained
    model being one seed. Answers without a label are left out. Pairs without a prompt in common are absent.
    """
    arms: dict[str, list[int]] = {}
    for arm, seed in labels:
        arms.setdefault(arm, []).append(seed)
    named, pairs = [], []
    for arm, other in combinations(arms, 2):
        sameness_P3 = _by_prompt(labels, arms, arm, other)
        if len(sameness_P3):
            named.append((arm, other, sameness_P3))
            pairs.append((sameness_P3[None, :, 0], sameness_P3[None, :, 1:].mean(axis=-1)))
    compared = paired_comparisons(pairs, resampling=resampling) if pairs else []
    return tuple(
        ArmSameness(
            arm,
            other,
            *sameness_P3.mean(axis=0).tolist(),
            gap=comparison.difference,
            gap_low=comparison.ci_low,
            gap_high=comparison.ci_high,
            overlap=_overlap(comparison.relative_difference),
            overlap_low=_overlap(comparison.relative_ci_low),
            overlap_high=_overlap(comparison.relative_ci_high),
            n_prompts=len(sameness_P3),
        )
        for (arm, other, sameness_P3), comparison in zip(named, compared, strict=True)
    )


def _overlap(relative: float) -> float:
    """Returns the ratio that a relative difference stands for, at least 0; infinite where an interval has no end."""
    return relative if math.isnan(relative) else max(0.0, 1.0 + relative)


def _by_prompt(labels: Labels, arms: Mapping[str, Sequence[int]], arm: str, other: str) -> FloatArray:
    """Returns [P, 3] of the prompts where all is defined: between the arms, within the first, within the second."""
    ours, theirs = ([labels[name, seed] for seed in arms[name]] for name in (arm, other))
    prompts = sorted(set.intersection(*(set(by_prompt) for by_prompt in (*ours, *theirs))))
    rows = [
        (
            _mean(_agreement(a[prompt], b[prompt]) for a, b in product(ours, theirs)),
            *(_mean(pair_sameness(_labelled(by_prompt[prompt])) for by_prompt in side) for side in (ours, theirs)),
        )
        for prompt in prompts
    ]
    sameness_P3 = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return sameness_P3[~np.isnan(sameness_P3).any(axis=1)]


def _agreement(a_N: IntArray, b_M: IntArray) -> float:
    """Returns the share of pairs of one answer each that have the same label; nan where one side has none."""
    a_N, b_M = _labelled(a_N), _labelled(b_M)
    return float(np.equal.outer(a_N, b_M).mean()) if len(a_N) and len(b_M) else math.nan


def _labelled(labels_N: IntArray) -> IntArray:
    return labels_N[labels_N != MISSING]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
