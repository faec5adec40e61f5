"""Variance of the gradient estimator under every baseline, exactly on toy policies and measured on real rollouts.

    python benchmarks/variance.py policies   # one softmax policy at a time, mixed and collapsed: exact
    python benchmarks/variance.py prompts    # coefficients carried over many different policies: exact
    python benchmarks/variance.py rollouts   # the packaged arithmetic model, gradients over all its parameters

Relative variance is the trace of the covariance of Σ_i A_i ∇log π(y_i) over the squared norm of its mean. For
advantages A(c) = A_none − Σ_m c_m B_m it is a quadratic form in c, so one matrix a prompt settles every baseline.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from polychromic.objective import (
    OBJECTIVES,
    BaselineEquations,
    FittedBaseline,
    set_advantages,
    softmax_gram,
)

FloatArray = NDArray[np.float64]
N, K = 8, 4
SIZES = tuple(range(N))
"""Of the mix; 0 is the constant."""
SCORES = [
    (entry.name, gate)
    for entry in OBJECTIVES.values()
    for gate in entry.gate_rules
    if entry.closed_form and gate != "none"
]
VENDI = ("vendi", "product")
"""On single policies alone: there are few groups, and each needs its eigenvalues."""
PUBLISHED: dict[str, Mapping[int, float]] = {
    "none": {},
    "leave-one-out": {K: 1.0},
    "PKPO's sloo": {K: N / (N - 1)},
    "minus one": {K - 1: 1.0},
}
MIXED = np.array([0.30, 0.25, 0.15, 0.12, 0.10, 0.08])
COLLAPSED = np.array([0.85, 0.05, 0.04, 0.03, 0.02, 0.01])
BATCHES, PROMPTS_PER_BATCH = 64, 8


@dataclass(frozen=True)
class Moments:
    """Of one prompt. form: E[Xᵀ G X] for X = [A_none, B_0 .. B_{N−1}] and the Gram matrix G of the scores."""

    form: FloatArray
    squared_norm: float

    def variance(self, coefficients: Mapping[int, float]) -> float:
        """Trace of the covariance at these coefficients."""
        v = np.concatenate([[1.0], [-coefficients.get(size, 0.0) for size in SIZES]])
        return float(v @ self.form @ v) - self.squared_norm


def design(objective: str, gate: str, arrays: Mapping[str, np.ndarray]) -> FloatArray:
    """X [Q, N, 1 + M] of Q groups: advantages without a baseline, and what each set size's mean takes off them."""
    none_QN = set_advantages(objective, K, gate=gate, baseline="none", **arrays)
    columns = [
        none_QN - set_advantages(objective, K, gate=gate, baseline="fitted", coefficients={size: 1.0}, **arrays)
        for size in SIZES
    ]
    return np.stack([none_QN, *columns], axis=-1)


def fit(forms: FloatArray) -> dict[int, float]:
    """Returns what `baseline: fitted` has come to after these second moments [groups, X, X], eight groups a batch."""
    baseline = FittedBaseline()
    for start in range(0, len(forms), PROMPTS_PER_BATCH):
        batch = forms[start : start + PROMPTS_PER_BATCH]
        prior_M = np.array([float(size == K) for size in SIZES])
        baseline = baseline.update(BaselineEquations(SIZES, prior_M, batch[:, 1:, 1:], batch[:, 1:, 0]))
    assert baseline.coefficients is not None
    return baseline.coefficients


def oracle(form: FloatArray) -> dict[int, float]:
    """The mix with the least variance where the expected second moments are known."""
    best_M = np.linalg.lstsq(form[1:, 1:], form[1:, 0], rcond=1e-10)[0]
    return dict(zip(SIZES, best_M.tolist(), strict=True))


# --- softmax policies over a few outcomes, exactly -----------------------------------------------------------------


@dataclass(frozen=True)
class Groups:
    """All multisets of N outcomes, with the design matrices of one objective; the policy comes in later."""

    outcomes_QN: NDArray[np.int64]
    counts_QM: NDArray[np.int64]
    log_orders_Q: FloatArray
    design_QNX: FloatArray


def all_groups(objective: str, gate: str, rewards_M: FloatArray) -> Groups:
    """Every outcome is a cluster of its own, at distance 1 from the others; gates are the rewards."""
    m = len(rewards_M)
    outcomes = np.array(list(combinations_with_replacement(range(m), N)))
    counts = (outcomes[:, :, None] == np.arange(m)).sum(axis=1)
    log_factorials = np.array([lgamma(c + 1) for c in range(N + 1)])
    arrays = {
        "rewards": rewards_M[outcomes],
        "clusters": outcomes,
        "distances": (outcomes[:, :, None] != outcomes[:, None, :]).astype(float),
        "gates": rewards_M[outcomes],
    }
    return Groups(
        outcomes,
        counts,
        log_factorials[N] - log_factorials[counts].sum(axis=1),
        design(objective, gate, arrays),
    )


def policy_forms(groups: Groups, probabilities_M: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """Probability [Q] of each multiset, its form Xᵀ G X [Q, X, X], and ‖∇J‖²."""
    weights_Q = np.exp(groups.log_orders_Q + groups.counts_QM @ np.log(probabilities_M))
    collision = float(probabilities_M @ probabilities_M)
    gram_QNN = softmax_gram(probabilities_M[groups.outcomes_QN], groups.outcomes_QN, collision)
    forms_QXX = np.einsum("qna,qnm,qmb->qab", groups.design_QNX, gram_QNN, groups.design_QNX, optimize=True)
    scores_MM = np.eye(len(probabilities_M)) - probabilities_M
    credit_QM = np.stack(
        [np.where(groups.outcomes_QN == m, groups.design_QNX[..., 0], 0.0).sum(axis=1) for m in range(len(scores_MM))],
        axis=1,
    )
    gradient = (weights_Q @ credit_QM) @ scores_MM
    return weights_Q, forms_QXX, float(gradient @ gradient)


def on_single_policies(scores: Sequence[tuple[str, str]]) -> None:
    """Every baseline on one policy; the fitted one has met 64 earlier batches of 8 groups, or knows everything."""
    cases = {
        "mixed": (MIXED, [0, 1, 2]),
        "collapsed on a right answer": (COLLAPSED, [0, 1, 2]),
        "collapsed on a wrong answer": (COLLAPSED, [1, 3, 5]),
    }
    print_header("policy", "score", *PUBLISHED, "fitted", "fitted, oracle", "leave-one-out / fitted")
    for name, (probabilities, correct) in cases.items():
        for objective, gate in scores:
            rng = np.random.default_rng(0)
            groups = all_groups(objective, gate, np.isin(np.arange(6), correct).astype(float))
            weights, forms, squared_norm = policy_forms(groups, probabilities)
            moments = Moments(np.tensordot(weights, forms, axes=1), squared_norm)
            trials = [
                moments.variance(fit(forms[rng.choice(len(weights), BATCHES * PROMPTS_PER_BATCH, p=weights)]))
                for _ in range(100)
            ]
            values = [moments.variance(mix) for mix in PUBLISHED.values()]
            values += [float(np.mean(trials)), moments.variance(oracle(moments.form))]
            ratio = moments.variance(PUBLISHED["leave-one-out"]) / values[len(PUBLISHED)]
            print_row(
                name,
                label(objective, gate),
                *(f"{value / squared_norm:.3g}" for value in values),
                f"{ratio:.2f}",
            )


def random_prompts(count: int, seed: int) -> list[tuple[FloatArray, int]]:
    """8-way policies from nearly uniform to collapsed, and how many of the outcomes are right (the first ones)."""
    rng = np.random.default_rng(seed)
    prompts = []
    for _ in range(count):
        logits = rng.standard_normal(8) * rng.uniform(0.3, 3.0)
        probabilities = np.exp(logits) + 1e-4
        prompts.append((probabilities / probabilities.sum(), int(rng.integers(1, 5))))
    return prompts


def on_many_prompts(scores: Sequence[tuple[str, str]]) -> None:
    """Coefficients from other prompts than those they are used on: half of 48 policies against the other half."""
    prompts = random_prompts(48, seed=1)
    print_header(
        "score",
        "minus one",
        "fitted",
        "fitted, all groups",
        "one mix a policy (oracle)",
        "policies worse",
    )
    for objective, gate in scores:
        rng = np.random.default_rng(0)
        moments, samples = [], []
        groups = {c: all_groups(objective, gate, (np.arange(8) < c).astype(float)) for c in range(1, 5)}
        for probabilities, correct in prompts:
            weights, forms, squared_norm = policy_forms(groups[correct], probabilities)
            moments.append(Moments(np.tensordot(weights, forms, axes=1), squared_norm))
            samples.append(forms[rng.choice(len(weights), 200, p=weights)])
        finite, exact = np.zeros(48), np.zeros(48)
        for half in (range(0, 48, 2), range(1, 48, 2)):
            others = [p for p in range(48) if p not in half]
            exact_mix = oracle(np.sum([moments[p].form for p in others], axis=0))
            finite_mixes = []
            for _ in range(20):
                picked = rng.choice(others, BATCHES * PROMPTS_PER_BATCH)
                finite_mixes.append(fit(np.stack([samples[p][rng.integers(200)] for p in picked])))
            for p in half:
                exact[p] = moments[p].variance(exact_mix)
                finite[p] = np.mean([moments[p].variance(mix) for mix in finite_mixes])
        base = np.array([one.variance({K: 1.0}) for one in moments])
        minus = np.array([one.variance({K - 1: 1.0}) for one in moments])
        best = np.array([one.variance(oracle(one.form)) for one in moments])
        ratios = [f"{other.sum() / base.sum():.3f}" for other in (minus, finite, exact, best)]
        print_row(label(objective, gate), *ratios, f"{int((exact > 1.001 * base + 1e-12).sum())} of 48")


def label(objective: str, gate: str) -> str:
    """A score's name in the tables."""
    return objective if gate == "product" else f"{objective} ({gate})"


def print_header(*names: str) -> None:
    """The head of a Markdown table."""
    print_row(*names)
    print_row(*["---"] * len(names))


def print_row(*cells: str) -> None:
    """A row of a Markdown table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print one of the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["policies", "prompts", "rollouts"])
    names = [label(*score) for score in (*SCORES, VENDI)]
    parser.add_argument("--score", choices=names, help="policies, prompts: one row's score; all if left out")
    parser.add_argument("--prompts", type=int, default=64, help="rollouts: how many prompts")
    parser.add_argument("--groups", type=int, default=8, help="rollouts: groups of 8 a prompt")
    parser.add_argument("--temperature", type=float, default=1.0, help="rollouts: of the sampled policy")
    arguments = parser.parse_args()
    chosen = [score for score in (*SCORES, VENDI) if arguments.score in (None, label(*score))]
    if arguments.what == "policies":
        on_single_policies(chosen)
    elif arguments.what == "prompts":
        on_many_prompts([score for score in chosen if score != VENDI])
    else:
        from variance_rollouts import on_rollouts

        on_rollouts(arguments.prompts, arguments.groups, arguments.temperature)


if __name__ == "__main__":
    main()
