"""Finds where an objective's own optimum puts its probability: does being wrong ever pay?

A prompt with some correct answers (modes, reward 1) and some kinds of wrong ones (clusters, reward 0), all different
from each other. J_K is then a polynomial in their probabilities, computed exactly and maximised over the simplex.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import comb, exp

import numpy as np
from scipy.optimize import minimize
from scipy.special import entr, gammaln

from polychromic.numerics import BoolArray, FloatArray, IntArray
from polychromic.objective.advantages import subset_mean
from polychromic.objective.registry import Objective, find_objective
from polychromic.objective.scores import GateRule

MAX_SETS = 200_000
"""Most kinds of set (multisets of outcomes) that are summed over."""
_CERTAIN = 0.999
_RANDOM_STARTS = 6
_TIE = 1e-9
_VANISHING = 0.02


@dataclass(frozen=True, slots=True)
class Audit:
    """The optimum of an objective over distributions on `correct_modes` correct and `wrong_clusters` wrong answers.

    p_correct: total probability of the correct ones at the optimum.
    effective_modes: exp of the entropy over the correct modes, 1 to `correct_modes`; nan where p_correct is 0.
    probabilities: of the correct modes, then of the wrong clusters, at that optimum.
    Of several equally good optima the least desirable is reported: nothing holds a policy to a better one.
    value, best_correct_value: J at the optimum, and the most that a policy which is never wrong can get.
    warning: None, or in words what is wrong with the objective.
    """

    correct_modes: int
    wrong_clusters: int
    p_correct: float
    effective_modes: float
    probabilities: tuple[float, ...]
    value: float
    best_correct_value: float
    warning: str | None


def audit(
    objective: str | Objective,
    set_size: int,
    wrong_clusters: int,
    *,
    correct_modes: int = 1,
    diversity_weight: float | None = None,
    gate: GateRule = "product",
) -> Audit:
    """Maximises J_K over the simplex; with `diversity_weight` λ, the reward plus λ J_K, as a reward run trains.

    Distances between different answers are 1; gates are the rewards. Raises ValueError on sizes that do not fit,
    or where more than MAX_SETS kinds of set would have to be summed over.
    """
    _check(objective, set_size, wrong_clusters, correct_modes, diversity_weight)
    rewards_M = np.repeat([1.0, 0.0], [correct_modes, wrong_clusters])
    polynomial = _objective_polynomial(objective, set_size, rewards_M, gate)
    weight = 1.0 if diversity_weight is None else diversity_weight
    quality_M = np.zeros_like(rewards_M) if diversity_weight is None else rewards_M
    all_outcomes = np.ones(len(rewards_M), dtype=bool)
    tied = _maximise(polynomial, weight, quality_M, all_outcomes)
    among_correct = _maximise(polynomial, weight, quality_M, rewards_M > 0)[0]
    optimum = min(tied, key=lambda candidate: _merit(candidate, correct_modes))
    return _report(correct_modes, wrong_clusters, optimum, among_correct.value)


@dataclass(frozen=True)
class _Polynomial:
    """J(p) = Σ over multisets S of multinomial coefficient × f(S) × Π p: members [Q, K], weighted scores [Q]."""

    sets_QK: IntArray
    weighted_scores_Q: FloatArray

    def value_and_gradient(self, probabilities_M: FloatArray) -> tuple[float, FloatArray]:
        """Returns J and ∂J/∂p: each member's derivative is the product of the others."""
        factors_QK = probabilities_M[self.sets_QK]
        others_QK = np.empty_like(factors_QK)
        for k in range(factors_QK.shape[1]):
            others_QK[:, k] = np.delete(factors_QK, k, axis=1).prod(axis=1)
        value = self.weighted_scores_Q @ factors_QK.prod(axis=1)
        weights_QK = self.weighted_scores_Q[:, None] * others_QK
        gradient_M = np.bincount(self.sets_QK.ravel(), weights_QK.ravel(), minlength=len(probabilities_M))
        return float(value), np.asarray(gradient_M, dtype=np.float64)


@dataclass(frozen=True)
class _Optimum:
    value: float
    probabilities_M: FloatArray


def _objective_polynomial(
    objective: str | Objective, set_size: int, rewards_M: FloatArray, gate: GateRule
) -> _Polynomial:
    m = len(rewards_M)
    n_sets = comb(m + set_size - 1, set_size)
    if n_sets > MAX_SETS:
        raise ValueError(
            f"{m} kinds of answer at set_size {set_size} make {n_sets} kinds of set, more than {MAX_SETS}: "
            "use fewer wrong_clusters, fewer correct_modes or a smaller set_size"
        )
    sets_QK = np.array(list(combinations_with_replacement(range(m), set_size)))
    counts_QM = (sets_QK[:, :, None] == np.arange(m)).sum(axis=1)
    # The mean over the K-subsets of a group of K is the score of the group itself.
    scores_Q = subset_mean(
        objective,
        set_size,
        rewards=rewards_M[sets_QK],
        clusters=sets_QK,
        distances=(sets_QK[:, :, None] != sets_QK[:, None, :]).astype(np.float64),
        gates=rewards_M[sets_QK],
        gate=gate,
    )
    coefficients_Q = np.exp(gammaln(set_size + 1) - gammaln(counts_QM + 1).sum(axis=1))
    return _Polynomial(sets_QK, scores_Q * coefficients_Q)


def _maximise(polynomial: _Polynomial, weight: float, quality_M: FloatArray, allowed_M: BoolArray) -> list[_Optimum]:
    """Returns the optima, all equally good, that several starts within the allowed outcomes lead to."""
    allowed = np.flatnonzero(allowed_M)

    def spread_out(inner: FloatArray) -> FloatArray:
        probabilities_M = np.zeros(len(allowed_M))
        probabilities_M[allowed] = np.clip(inner, 0.0, 1.0)
        return probabilities_M

    def loss(inner: FloatArray) -> tuple[float, FloatArray]:
        probabilities_M = spread_out(inner)
        value, gradient_M = polynomial.value_and_gradient(probabilities_M)
        total = weight * value + quality_M @ probabilities_M
        return -float(total), -(weight * gradient_M + quality_M)[allowed]

    optima = []
    for start in _starts(len(allowed)):
        inner = _ascend(loss, start)
        optima.append(_Optimum(-loss(inner)[0], spread_out(inner)))
    best = max(optimum.value for optimum in optima)
    return [optimum for optimum in optima if optimum.value > best - _TIE * max(1.0, abs(best))]


def _merit(optimum: _Optimum, correct_modes: int) -> tuple[float, float]:
    """Orders equally good optima from the least desirable: P(correct), then the spread over the correct modes."""
    correct_C = optimum.probabilities_M[:correct_modes]
    return round(float(correct_C.sum()), 6), float(entr(correct_C).sum())


def _ascend(loss: Callable[[FloatArray], tuple[float, FloatArray]], start: FloatArray) -> FloatArray:
    """Returns a local optimum of the simplex; the start itself where the optimiser makes it worse."""
    result = minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * len(start),
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1.0, "jac": np.ones_like},
        options={"ftol": 1e-13, "maxiter": 200},
    )
    inner = np.clip(result.x, 0.0, None)
    # Some scores are flat where an outcome vanishes (pass@k like q⁴), and the ascent stops short of the boundary.
    rounded = np.where(inner < _VANISHING, 0.0, inner)
    candidates = [rounded / rounded.sum(), inner / inner.sum(), start]
    return min(candidates, key=lambda candidate: loss(candidate)[0])


def _starts(m: int) -> list[FloatArray]:
    """Returns starts: uniform, a corner of either kind, and random points of the simplex (fixed seed)."""
    rng = np.random.default_rng(0)
    corners = [np.eye(m)[0], np.eye(m)[-1]]
    return [np.full(m, 1.0 / m), *corners, *rng.dirichlet(np.ones(m), size=_RANDOM_STARTS)]


def count(wrong_clusters: int) -> str:
    """Returns the number of wrong clusters, in words that agree."""
    return f"{wrong_clusters} wrong cluster{'' if wrong_clusters == 1 else 's'}"


def _report(correct_modes: int, wrong_clusters: int, optimum: _Optimum, best_correct_value: float) -> Audit:
    correct_C = optimum.probabilities_M[:correct_modes]
    p_correct = float(correct_C.sum())
    spread = exp(entr(correct_C / p_correct).sum()) if p_correct > 1e-6 else float("nan")
    warning = None
    if p_correct < _CERTAIN:
        pays = optimum.value > best_correct_value + 1e-6
        warning = (
            f"being wrong {'pays' if pays else 'costs nothing'}: with {count(wrong_clusters)} an optimum puts "
            f"{p_correct:.1%} of its probability on correct answers and scores {optimum.value:.4g}, against "
            f"{best_correct_value:.4g} for never being wrong; `coverage` has no such optimum"
        )
    elif correct_modes > 1 and spread < correct_modes - 0.01:
        warning = (
            f"spreading does not pay: an optimum uses {spread:.2f} of {correct_modes} correct modes; "
            "`coverage` with set_size > 1 spreads over all of them"
        )
    return Audit(
        correct_modes=correct_modes,
        wrong_clusters=wrong_clusters,
        p_correct=p_correct,
        effective_modes=spread,
        probabilities=tuple(optimum.probabilities_M.tolist()),
        value=optimum.value,
        best_correct_value=best_correct_value,
        warning=warning,
    )


def _check(
    objective: str | Objective, set_size: int, wrong_clusters: int, correct_modes: int, diversity_weight: float | None
) -> None:
    entry = find_objective(objective)
    for name, value, lowest in (
        ("set_size", set_size, entry.smallest_set),
        ("wrong_clusters", wrong_clusters, 0),
        ("correct_modes", correct_modes, 1),
    ):
        if value < lowest:
            raise ValueError(f"{name} is {value}, expected at least {lowest} for {entry.name!r}")
    if diversity_weight is not None and not 0.0 <= diversity_weight < float("inf"):
        raise ValueError(f"diversity_weight is {diversity_weight}, expected λ ≥ 0, or None for the objective alone")
