"""Registers what is measured among k of a prompt's answers: a curve over k each, with its facts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from polychromic.diversity.equivalence import MISSING
from polychromic.evaluation.counting.formulas import (
    MOST_VOTES,
    PATIENCE,
    all_pass_at_k_curve,
    auc_at_k_curve,
    distinct_curve,
    majority_curve,
    pass_at_k_curve,
    utility_curve,
)
from polychromic.numerics import BoolArray, FloatArray, IntArray

Shown = Literal["all", "last", "asked"]
"""Reports show a curve at k = 1, 2, 4, …, at the last k alone, or only where a criterion asks for it."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Holds what is counted of the N answers to one prompt: rewards [N], nan where the checker failed; whether they
    reach the threshold; labels [N], MISSING where the equivalence failed."""

    rewards_N: FloatArray
    passing_N: BoolArray
    labels_N: IntArray

    def __len__(self) -> int:
        return len(self.rewards_N)

    @property
    def rewarded(self) -> Counted:
        """Returns the answers that have a reward."""
        return self._only(~np.isnan(self.rewards_N))

    @property
    def labelled(self) -> Counted:
        """Returns the answers that have a label."""
        return self._only(self.labels_N != MISSING)

    def _only(self, kept_N: BoolArray) -> Counted:
        return Counted(self.rewards_N[kept_N], self.passing_N[kept_N], self.labels_N[kept_N])


CurveFunction = Callable[[Counted], FloatArray]
"""Returns [N] values for k = 1..N; nan beyond the answers that have what the measure needs."""


@dataclass(frozen=True, slots=True)
class AtK:
    """Holds the facts of one curve; those of a metric that hold {k} are filled in where k is known.

    `name` is the curve's in a table, `mark` what stands before k in a metric's key, `grows` says that values reach k
    and not 1, and `most_k` is the largest k it is computed for (0: any).
    """

    name: str
    mark: str
    title: str
    function: CurveFunction
    meaning: str
    subject: str
    signature: str
    kind: Literal["diversity", "both"] = "both"
    grows: bool = False
    plural: bool = False
    shown: Shown = "asked"
    most_k: int = 0

    def shown_ks(self, n: int) -> list[int]:
        """Returns the k at which reports show a curve that reaches to n."""
        if self.shown == "all":
            return sorted({*(2**power for power in range(n.bit_length())), n})
        return [n] if self.shown == "last" else []


_PASSES = "passes(reward >= pass_threshold)"


def _pass(answers: Counted) -> FloatArray:
    rewarded = answers.rewarded
    return pass_at_k_curve(len(rewarded), int(rewarded.passing_N.sum()), max(1, len(answers)))


def _distinct_correct(answers: Counted) -> FloatArray:
    complete = answers.rewarded.labelled
    return distinct_curve(complete.labels_N[complete.passing_N], max(1, len(answers)), len(complete))


def _coverage(answers: Counted) -> FloatArray:
    found_K = _distinct_correct(answers)
    return found_K / np.arange(1, len(found_K) + 1)


def _distinct(answers: Counted) -> FloatArray:
    return distinct_curve(answers.labelled.labels_N, max(1, len(answers)))


def _utility(answers: Counted) -> FloatArray:
    complete = answers.rewarded.labelled
    return utility_curve(complete.labels_N, complete.rewards_N, max(1, len(answers)))


def _auc(answers: Counted) -> FloatArray:
    return auc_at_k_curve(_pass(answers))


def _all_pass(answers: Counted) -> FloatArray:
    rewarded = answers.rewarded
    return all_pass_at_k_curve(len(rewarded), int(rewarded.passing_N.sum()), max(1, len(answers)))


def _majority(answers: Counted) -> FloatArray:
    complete = answers.rewarded.labelled
    return majority_curve(complete.labels_N, complete.passing_N, min(MOST_VOTES, max(1, len(answers))))


_BUILT_IN = (
    AtK(
        "pass", "pass@", "Pass@{k}", _pass, shown="all",
        meaning="Chance that at least one of {k} answers passes the checker",
        subject="the chance that one of {k} answers passes",
        signature=f"pass|{_PASSES}|estimator:1-C(n-c,k)/C(n,k)",
    ),
    AtK(
        "distinct_correct", "distinct_correct@", "Distinct correct answers of {k}", _distinct_correct,
        grows=True, plural=True, shown="all",
        meaning="Different passing answers expected among {k}",
        subject="different correct answers among {k}",
        signature=f"distinct_correct|same:{{same}}|{_PASSES}|"
        "estimator:sum over different answers a of 1-C(n-n_a,k)/C(n,k)",
    ),
    AtK(
        "coverage", "coverage@", "Coverage@{k}", _coverage,
        meaning="Different passing answers expected among {k}, as a share of {k}: training's set score of this name",
        subject="the share of {k} answers that are right and different",
        signature=f"coverage|same:{{same}}|{_PASSES}|estimator:distinct_correct@k / k",
    ),
    AtK(
        "distinct", "distinct@", "Distinct answers of {k}", _distinct, kind="diversity", grows=True, plural=True,
        meaning="Different answers expected among {k}, right or wrong (NoveltyBench's distinct_k)",
        subject="different answers among {k}",
        signature="distinct|same:{same}|estimator:sum over different answers a of 1-C(n-n_a,k)/C(n,k)",
    ),
    AtK(
        "utility", "utility@", "Utility@{k}", _utility, shown="last",
        meaning=f"Mean reward of {{k}} answers in turn, where one that was given before counts 0 and each weighs "
        f"{PATIENCE:g} times the one before it (NoveltyBench's utility_k, over random orders)",
        subject="what a reader gets out of {k} answers in turn (utility)",
        signature=f"utility|same:{{same}}|patience:{PATIENCE:g}|score:reward of the first of a cluster|"
        "order:mean over all",
    ),
    AtK(
        "auc", "auc@", "AUC@{k}", _auc, shown="last",
        meaning="Mean of pass@1 to pass@{k}: the area under the curve by the trapezoidal rule",
        subject="the chance that one of up to {k} answers passes",
        signature=f"auc|{_PASSES}|estimator:trapezoidal area under pass@1..k / (k-1)",
    ),
    AtK(
        "all_pass", "pass^", "Pass^{k}", _all_pass, shown="last",
        meaning="Chance that all of {k} answers pass the checker",
        subject="the chance that all of {k} answers pass",
        signature=f"all_pass|{_PASSES}|estimator:C(c,k)/C(n,k)",
    ),
    AtK(
        "maj", "maj@", "Maj@{k}", _majority, shown="last", most_k=MOST_VOTES,
        meaning="Chance that the answer given most often among {k} passes, ties by lot",
        subject="the chance that the vote of {k} answers passes",
        signature=f"maj|same:{{same}}|{_PASSES}|ties:by lot|estimator:exact over all k of n",
    ),
)  # fmt: skip

CURVES: dict[str, AtK] = {curve.name: curve for curve in _BUILT_IN}
"""By name, in the order in which they are shown."""


BENCHMARK_KS = (1, 10, 100)
"""The k at which benchmarks of code state pass@k since HumanEval (Chen et al., 2021)."""


def split_at_k(key: str) -> tuple[str, int] | None:
    """Returns the curve and k that a metric's key names, ("pass", 10) for `pass@10`; None for a key that names no k."""
    match = re.fullmatch(r"(.+?[@^])([1-9]\d*)", key)
    if match is None:
        return None
    return next(((name, int(match[2])) for name, curve in CURVES.items() if curve.mark == match[1]), None)


def key_at_k(name: str, k: int) -> str:
    """Returns the metric's key of a curve at k: `split_at_k` in reverse."""
    return f"{CURVES[name].mark}{k}"


def curve_order(key: str) -> tuple[int, int]:
    """Returns what sorts keys of curves: by their order in the registry, then by k."""
    name, k = split_at_k(key) or ("", 0)
    return list(CURVES).index(name), k


def curves_of(answers: Counted) -> dict[str, FloatArray]:
    """Returns every registered curve of one prompt's answers."""
    return {name: curve.function(answers) for name, curve in CURVES.items()}
