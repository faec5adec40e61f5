"""Fits the baseline of least variance from other prompts and earlier steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np

from polychromic.numerics import FloatArray, from_tensor, label_codes
from polychromic.objective.registry import Objective
from polychromic.objective.scores import GateRule, mix_of_means, with_member_mean
from polychromic.objective.validation import Groups, read_groups


@dataclass(frozen=True)
class TrackRecord:
    """Sums over batches, each of which met a fit that knew only the batches before it.

    A batch's second moment is quadratic in the mix, cᵀAc − 2cᵀt + const. From the prior p a step a·d towards the fit
    p + d changes it by a²·dᵀAd − 2a·dᵀ(t − Ap).
    """

    slope: float = 0.0
    """Σ dᵀ(t − Ap)"""
    curvature: float = 0.0
    """Σ dᵀAd"""
    squared_savings: float = 0.0
    """Σ s², s = 2dᵀ(t − Ap) − dᵀAd: what following the fit all the way would have saved."""

    @property
    def trust(self) -> float:
        """Returns how far to go from the prior to the next fit, 0 to 1; 0 without a record.

        The step that would have been best in the past (stacking of out-of-sample forecasts), times 0 where the savings
        stand less than one of their standard errors above zero, and 1 from two on.
        """
        savings = 2 * self.slope - self.curvature
        if savings <= 0 or self.squared_savings <= 0 or self.curvature <= 0:
            return 0.0
        best_step = min(1.0, self.slope / self.curvature)
        clearness = savings / math.sqrt(self.squared_savings) - 1.0
        return best_step * min(1.0, max(0.0, clearness))

    def after(
        self, direction_M: FloatArray, prior_M: FloatArray, matrix_MM: FloatArray, target_M: FloatArray, decay: float
    ) -> Self:
        """Adds one batch's equations, which met a fit at prior + direction."""
        slope = float(direction_M @ (target_M - matrix_MM @ prior_M))
        curvature = float(direction_M @ matrix_MM @ direction_M)
        return type(self)(
            decay * self.slope + slope,
            decay * self.curvature + curvature,
            decay * self.squared_savings + (2 * slope - curvature) ** 2,
        )


DENSE_SET_SIZES = 15
"""Up to so many set sizes all of 1..N−1 enter the mix beside the constant; of more, about as many, spread by ratio."""

RECORD_DECAY = 0.25
"""Power of `decay` with which the record of earlier fits fades: evidence of rare signal is itself rare."""


@dataclass(frozen=True)
class BaselineEquations:
    """Normal equations of P groups for the mix over `set_sizes`: matrix_PMM · c = target_PM.

    `prior_M` is leave_one_out (at K = N, its nearest: the set of all others).
    """

    set_sizes: tuple[int, ...]
    prior_M: FloatArray
    matrix_PMM: FloatArray
    target_PM: FloatArray


def baseline_equations(
    objective: str | Objective,
    set_size: int,
    *,
    rewards: Any = None,
    clusters: Any = None,
    distances: Any = None,
    gates: Any = None,
    gate: GateRule = "product",
    score_gram: Any = None,
    set_sizes: Sequence[int] | None = None,
    generator: np.random.Generator | None = None,
) -> BaselineEquations:
    """Returns what each of a batch of groups says about the best mix. Arrays as in `set_advantages`.

    score_gram: [P, N, N] (or [N, N]): inner products of the scores ∇log π(y_i), or a stand-in such as
        `surprisal_gram`. None is the identity, plain regression of the advantage without baseline: right where scores
        of different generations are orthogonal and of one length; it can lose to leave_one_out where they are not.
    set_sizes: the set sizes of the mix, by default 0..N−1, where 0 stands for a constant. The constant is worth much
        where all other generations fail and every mean is 0 (docs/results/variance.md); it gives groups without any
        signal small advantages, whose expected gradient is zero. Leave it out to keep those at exactly zero.
    Groups with missing values count for nothing.
    """
    groups = read_groups(objective, rewards=rewards, clusters=clusters, distances=distances, gates=gates, gate=gate)
    p, n = groups.valid_PN.shape
    if not groups.objective.smallest_set <= set_size <= n:
        raise ValueError(f"set_size is {set_size}, expected {groups.objective.smallest_set} ≤ set_size ≤ {n}")
    sizes = _check_set_sizes(set_sizes, set_size, n)
    gram_PNN = _check_gram(score_gram, groups)
    matrix_PMM, target_PM = np.zeros((p, len(sizes), len(sizes))), np.zeros((p, len(sizes)))
    for group in np.flatnonzero(groups.valid_PN.all(axis=1)).tolist():
        score = groups.score(group, generator)
        means_NM = np.stack([mix_of_means(score, {size: 1.0}, n) for size in sizes], axis=1)
        weighted_MN = means_NM.T @ gram_PNN[group]
        matrix_PMM[group], target_PM[group] = weighted_MN @ means_NM, weighted_MN @ with_member_mean(score, set_size, n)
    prior_M = np.array([float(size == min(set_size, n - 1)) for size in sizes])
    return BaselineEquations(sizes, prior_M, matrix_PMM, target_PM)


def cross_fitted_coefficients(equations: BaselineEquations, *, prior_groups: float = 1.0) -> dict[int, FloatArray]:
    """Fits the coefficients [P] of every set size, those of each group on all the *other* groups of the batch."""
    matrix_MM, target_M = equations.matrix_PMM.sum(axis=0), equations.target_PM.sum(axis=0)
    coefficients_PM = np.stack(
        [
            _solve(matrix_MM - own_MM, target_M - own_M, equations.prior_M, len(equations.target_PM) - 1, prior_groups)
            for own_MM, own_M in zip(equations.matrix_PMM, equations.target_PM, strict=True)
        ]
    )
    return dict(zip(equations.set_sizes, coefficients_PM.T, strict=True))


@dataclass(frozen=True)
class FittedBaseline:
    """A mix fitted on the batches so far. Immutable: `update` returns the next one.

    Use `coefficients` for a batch *before* `update` has seen it. `decay` forgets: 15/16 remembers about 16
    batches, as the policy moves. `prior_groups` is how many groups' evidence leave_one_out counts for. The mix goes
    from leave_one_out towards the fit only as far as its `record` on later batches, kept four times as long, says that
    this pays: it is leave_one_out for the first three batches, and stays so where signal is rare. `to_state` and
    `from_state` make it plain JSON and back.
    """

    decay: float = 15 / 16
    prior_groups: float = 8.0
    set_sizes: tuple[int, ...] = ()
    prior: tuple[float, ...] = ()
    matrix: tuple[tuple[float, ...], ...] = ()
    target: tuple[float, ...] = ()
    n_groups: float = 0.0
    record: TrackRecord = field(default_factory=TrackRecord)

    @property
    def coefficients(self) -> dict[int, float] | None:
        """Returns the mix by set size, for `set_advantages(baseline="fitted", …)`; None before any update."""
        if not self.set_sizes:
            return None
        mix_M = np.array(self.prior) + self.record.trust * self._direction()
        return dict(zip(self.set_sizes, mix_M.tolist(), strict=True))

    def _direction(self) -> FloatArray:
        """Returns the step from leave_one_out to the least-squares fit on the batches so far."""
        prior_M = np.array(self.prior)
        fit_M = _solve(np.array(self.matrix), np.array(self.target), prior_M, self.n_groups, self.prior_groups)
        return fit_M - prior_M

    def update(self, equations: BaselineEquations) -> Self:
        """Adds a batch's equations. Raises ValueError where they are of another mix."""
        if self.set_sizes and self.set_sizes != equations.set_sizes:
            raise ValueError(
                f"equations are of the set sizes {equations.set_sizes}, expected {self.set_sizes}: "
                "keep one FittedBaseline for each objective and group size"
            )
        matrix, target = equations.matrix_PMM.sum(axis=0), equations.target_PM.sum(axis=0)
        record = self.record
        if self.set_sizes:
            record = record.after(self._direction(), equations.prior_M, matrix, target, self.decay**RECORD_DECAY)
            matrix = matrix + self.decay * np.array(self.matrix)
            target = target + self.decay * np.array(self.target)
        return replace(
            self,
            record=record,
            set_sizes=equations.set_sizes,
            prior=tuple(equations.prior_M.tolist()),
            matrix=tuple(map(tuple, matrix.tolist())),
            target=tuple(target.tolist()),
            n_groups=self.decay * self.n_groups + len(equations.target_PM),
        )

    def to_state(self) -> dict[str, Any]:
        """Returns plain numbers and lists."""
        state = {name: getattr(self, name) for name in ("decay", "prior_groups", "n_groups")}
        lists = {name: list(getattr(self, name)) for name in ("set_sizes", "prior", "target")}
        return state | lists | {"matrix": [list(row) for row in self.matrix], "record": asdict(self.record)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Inverts `to_state`, also after a trip through JSON."""
        lists = {name: tuple(state[name]) for name in ("set_sizes", "prior", "target")}
        record = TrackRecord(**state["record"])
        return cls(**{**state, **lists, "matrix": tuple(map(tuple, state["matrix"])), "record": record})


def surprisal_gram(logprobs: Any, texts: Any) -> FloatArray:
    """Returns [P, N, N] stand-in for the Gram matrix of the scores: log π(y_i) · log π(y_j) for equal texts, else 0.

    Two facts of autoregressive models, at no cost: surprising generations have long gradients, and different ones
    have nearly orthogonal ones. logprobs: [P, N] (or [N]), sums over tokens. texts: labels of the same shape.
    """
    logprobs_PN = np.atleast_2d(np.asarray(from_tensor(logprobs), dtype=np.float64))
    same_PNN = _same(texts, logprobs_PN.shape)
    return same_PNN * logprobs_PN[:, :, None] * logprobs_PN[:, None, :]


def softmax_gram(probabilities: Any, outcomes: Any, collision: float) -> FloatArray:
    """Returns [P, N, N]: the exact Gram matrix of the scores of a softmax over outcomes with respect to its logits.

    [y_i = y_j] − π(y_i) − π(y_j) + Σ_y π(y)². probabilities: [P, N], of each generation; `collision` is the last sum.
    """
    probabilities_PN = np.atleast_2d(np.asarray(from_tensor(probabilities), dtype=np.float64))
    same_PNN = _same(outcomes, probabilities_PN.shape)
    return same_PNN - probabilities_PN[:, :, None] - probabilities_PN[:, None, :] + collision


def _same(labels: Any, shape: tuple[int, ...]) -> FloatArray:
    labels_PN = np.atleast_2d(np.asarray(from_tensor(labels)))
    if labels_PN.shape != shape:
        raise ValueError(f"labels have shape {labels_PN.shape}, expected {shape}, one for each probability")
    codes_PN = np.stack([label_codes(labels_N.tolist()) for labels_N in labels_PN])
    return (codes_PN[:, :, None] == codes_PN[:, None, :]).astype(np.float64)


def _solve(
    matrix_MM: FloatArray, target_M: FloatArray, prior_M: FloatArray, n_groups: float, prior_groups: float
) -> FloatArray:
    """Solves least squares drawn to the prior with the weight of `prior_groups` average groups."""
    scale = np.trace(matrix_MM) / len(prior_M)
    if n_groups <= 0 or scale <= 0:
        return prior_M.copy()
    ridge = scale * prior_groups / n_groups
    shifted = target_M - matrix_MM @ prior_M
    return prior_M + np.linalg.solve(matrix_MM + ridge * np.eye(len(prior_M)), shifted)


def _check_set_sizes(set_sizes: Sequence[int] | None, set_size: int, n: int) -> tuple[int, ...]:
    if n < 2:
        raise ValueError("a group has 1 generation, but a baseline is made from the others: draw at least 2")
    if set_sizes is None:
        spread = np.unique(np.geomspace(1, n - 1, min(n - 1, DENSE_SET_SIZES)).round().astype(int))
        chosen = range(1, n) if n - 1 <= DENSE_SET_SIZES else spread.tolist()
        near = {size for size in (set_size - 1, set_size) if 1 <= size <= n - 1}
        return tuple(sorted(near.union(chosen, [0])))
    if min(set_size, n - 1) not in set_sizes or not all(0 <= size < n for size in set_sizes):
        raise ValueError(
            f"set_sizes is {tuple(set_sizes)}, expected sizes from 0 to {n - 1} that include {min(set_size, n - 1)}, "
            "the one of leave_one_out"
        )
    return tuple(sorted(set(set_sizes)))


def _check_gram(score_gram: Any, groups: Groups) -> FloatArray:
    p, n = groups.valid_PN.shape
    if score_gram is None:
        return np.broadcast_to(np.eye(n), (p, n, n))
    gram_PNN = np.asarray(from_tensor(score_gram), dtype=np.float64)
    gram_PNN = gram_PNN[None] if gram_PNN.ndim == 2 else gram_PNN
    if gram_PNN.shape != (p, n, n) or not np.isfinite(gram_PNN).all():
        raise ValueError(f"score_gram has shape {gram_PNN.shape}, expected finite inner products of shape {(p, n, n)}")
    return gram_PNN
