"""Advantages of a set objective: unbiased for the gradient of J_K = E[f(y_1..y_K)], with a choice of baseline.

    ∇J_K = E[ Σ_i A_i ∇log π(y_i|x) ],   A_i = (K/N) · ( mean over S∋i of f(S) − b_i ),

for N ≥ K independent generations and any b_i that does not depend on generation i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np
from numpy.typing import ArrayLike

from polychromic.numerics import FloatArray, from_tensor
from polychromic.objective.registry import Objective
from polychromic.objective.scores import GateRule, SetScore, mix_of_means
from polychromic.objective.validation import Groups, read_groups

if TYPE_CHECKING:
    from torch import Tensor

Values = ArrayLike | Sequence[Any]
"""Numbers with None or nan for missing ones, or labels of any hashable kind."""
Baseline = Literal["none", "leave_one_out", "leave_one_out_minus_one", "fitted"]


@overload
def set_advantages(  # pyright: ignore[reportOverlappingOverload] - a tensor is array-like too: the first match wins
    objective: str | Objective,
    set_size: int,
    *,
    rewards: Tensor | None = None,
    clusters: Tensor | None = None,
    distances: Tensor | None = None,
    gates: Tensor | None = None,
    gate: GateRule = ...,
    baseline: Baseline = ...,
    coefficients: Mapping[int, ArrayLike] | None = None,
    generator: np.random.Generator | None = None,
) -> Tensor: ...
@overload
def set_advantages(
    objective: str | Objective,
    set_size: int,
    *,
    rewards: Values | None = None,
    clusters: Values | None = None,
    distances: Values | None = None,
    gates: Values | None = None,
    gate: GateRule = ...,
    baseline: Baseline = ...,
    coefficients: Mapping[int, ArrayLike] | None = None,
    generator: np.random.Generator | None = None,
) -> FloatArray: ...
def set_advantages(
    objective: str | Objective,
    set_size: int,
    *,
    rewards: Any = None,
    clusters: Any = None,
    distances: Any = None,
    gates: Any = None,
    gate: GateRule = "product",
    baseline: Baseline = "leave_one_out",
    coefficients: Mapping[int, ArrayLike] | None = None,
    generator: np.random.Generator | None = None,
) -> Any:
    """Returns A_i for every generation of one group [N] or a batch of groups [P, N].

    objective: a name of `OBJECTIVES`, an import path (`file.py:name`, `module:name`) or an entry; arrays that it does
        not read are ignored. set_size is K.
    rewards: [N] or [P, N]; any real for `reward` and `pass_at_k` (best of the set), in [0, 1] for `coverage`
        (Σ over clusters of the best reward / K: with 0/1 rewards, distinct passing clusters / K) and
        `polychromic`. clusters: labels of the same shape; equal labels count as the same answer.
    distances: [N, N] or [P, N, N], symmetric, in [0, 1]. gates: quality in [0, 1]; None counts as 1.
    gate: `product` weighs each pair by both gates, `passing` scores the members with gate 1 alone (gates are
        0 or 1), `none` ignores gates.
    baseline: `none` b = 0; `leave_one_out` mean of f over the K-subsets without i (needs N > K; RLOO, PKPO's
        `sloo`, Poly-EPO); `leave_one_out_minus_one` f of the same sets with i taken out (PKPO's `sloo-1`);
        `fitted` Σ over set sizes m of coefficients[m] × mean of f over the m-subsets without i (1 for m = 0).
    coefficients: for `fitted`: {set size: coefficient, or [P] coefficients}, from `FittedBaseline` or
        `cross_fitted_coefficients`. They must owe nothing to the group they are used on: then the estimator is
        unbiased whatever they are. None is leave_one_out.
    generator: draws subsets of a score without a closed form where there are more than 5,000 (N > 20 at K = 4); without
        one that is an error, and `sampled_subsets` says beforehand how many are drawn.

    A nan reward or gate, or a label that is None, takes that generation out: its advantage is 0 and N is smaller for
    the rest. A group too small after that has advantages of 0 throughout, and so has one in which no set is better
    than another.
    Returns float64 numpy for numpy or lists; for torch, detached tensors on the input's device, float64 where an
    input is float64 (or none is floating), else float32. Computed in float64 either way.
    Raises ValueError that names the argument, its value and the fix.
    """
    groups = read_groups(objective, rewards=rewards, clusters=clusters, distances=distances, gates=gates, gate=gate)
    _check_sizes(groups, set_size, baseline)
    if coefficients is not None and baseline != "fitted":
        raise ValueError(f"coefficients are of baseline='fitted', but baseline is {baseline!r}: pass one or the other")
    mixes = _mixes(coefficients, set_size, groups) if baseline == "fitted" else None
    advantages_PN = np.zeros(groups.valid_PN.shape)
    needed = max(set_size + (baseline == "leave_one_out"), 2 if baseline == "fitted" else 1)
    for p, valid in enumerate(groups.valid_PN):
        n = int(valid.sum())
        if n >= needed:
            mix = mixes[p] if mixes else None
            advantages_PN[p, valid] = _group_advantages(groups.score(p, generator), set_size, n, baseline, mix)
    return groups.restore(advantages_PN)


@overload
def subset_mean(  # pyright: ignore[reportOverlappingOverload] - a tensor is array-like too: the first match wins
    objective: str | Objective,
    set_size: int,
    *,
    rewards: Tensor | None = None,
    clusters: Tensor | None = None,
    distances: Tensor | None = None,
    gates: Tensor | None = None,
    gate: GateRule = ...,
    generator: np.random.Generator | None = None,
) -> Tensor: ...
@overload
def subset_mean(
    objective: str | Objective,
    set_size: int,
    *,
    rewards: Values | None = None,
    clusters: Values | None = None,
    distances: Values | None = None,
    gates: Values | None = None,
    gate: GateRule = ...,
    generator: np.random.Generator | None = None,
) -> FloatArray: ...
def subset_mean(
    objective: str | Objective,
    set_size: int,
    *,
    rewards: Any = None,
    clusters: Any = None,
    distances: Any = None,
    gates: Any = None,
    gate: GateRule = "product",
    generator: np.random.Generator | None = None,
) -> Any:
    """Returns ū, the average of f over all subsets of `set_size`, unbiased for J_K: a scalar, or [P] for a batch.

    Arguments and errors as in `set_advantages`; nan for a group with fewer valid generations than `set_size`.
    """
    groups = read_groups(objective, rewards=rewards, clusters=clusters, distances=distances, gates=gates, gate=gate)
    _check_sizes(groups, set_size, "none")
    means_P = np.full(len(groups.valid_PN), np.nan)
    for p, valid in enumerate(groups.valid_PN):
        if valid.sum() >= set_size:
            means_P[p] = groups.score(p, generator).mean(set_size)
    return groups.restore(means_P)


def _check_sizes(groups: Groups, set_size: int, baseline: str) -> None:
    n, objective = groups.valid_PN.shape[1], groups.objective
    if baseline not in get_args(Baseline):
        raise ValueError(f"baseline is {baseline!r}, expected one of {', '.join(get_args(Baseline))}")
    if isinstance(set_size, bool) or not isinstance(set_size, (int, np.integer)):
        raise ValueError(f"set_size is {set_size!r}, expected a whole number")
    if not objective.smallest_set <= set_size <= n:
        raise ValueError(
            f"set_size is {set_size}, expected {objective.smallest_set} ≤ set_size ≤ {n} for {objective.name!r} "
            f"with {n} generations a group: draw more generations or use smaller sets"
        )
    if baseline == "leave_one_out" and set_size == n:
        raise ValueError(
            f"baseline 'leave_one_out' needs more generations than set_size={set_size}, got {n}: draw more, "
            "or use baseline='leave_one_out_minus_one'"
        )


def _mixes(coefficients: Mapping[int, Any] | None, set_size: int, groups: Groups) -> list[dict[int, float]]:
    """Returns one {set size: coefficient} for each group."""
    p, n = groups.valid_PN.shape
    if coefficients is None:
        return [{min(set_size, n - 1): 1.0}] * p
    if not isinstance(coefficients, Mapping):
        raise ValueError(f"coefficients is {coefficients!r}, expected {{set size: coefficient}}")
    wrong = [size for size in coefficients if size not in range(n)]
    if wrong:
        raise ValueError(f"coefficients has set size {wrong[0]!r}, expected 0 to {n - 1} with {n} generations a group")
    columns = {size: np.asarray(from_tensor(value), dtype=np.float64) for size, value in coefficients.items()}
    for size, column in columns.items():
        if column.shape not in ((), (p,)) or not np.isfinite(column).all():
            raise ValueError(
                f"coefficients[{size}] is {column}, expected one finite number, or one for each of {p} groups"
            )
    columns = {size: np.broadcast_to(column, p) for size, column in columns.items()}
    return [{size: float(column[row]) for size, column in columns.items()} for row in range(p)]


def _group_advantages(
    score: SetScore, set_size: int, n: int, baseline: str, mix: Mapping[int, float] | None
) -> FloatArray:
    """Returns A [N]. With W the mean over S∋i and L over S∌i, N·ū = K·W + (N−K)·L gives (K/N)·W = ū − (1 − K/N)·L."""
    mean = score.mean(set_size)
    without_N = score.leave_one_out(set_size) if set_size < n else np.zeros(n)
    if baseline == "leave_one_out":
        return _without_rounding(mean - without_N, mean)
    if mix is None:
        mix = {set_size - 1: 1.0} if baseline == "leave_one_out_minus_one" and set_size > 1 else {}
    share = set_size / n
    return _without_rounding(mean - (1.0 - share) * without_N - share * mix_of_means(score, mix, n), mean)


def _without_rounding(advantages_N: FloatArray, mean: float) -> FloatArray:
    """Sets differences that are rounding alone to exact zeros: a group without signal must look like one."""
    noise = 8 * len(advantages_N) * np.finfo(np.float64).eps * abs(mean)
    return np.where(np.abs(advantages_N) <= noise, 0.0, advantages_N)
