"""Computes what counts of passing and of equal answers say: pass@k and its kin, votes, utility, Hill numbers.

Every function takes the answers to one prompt as they were sampled, and returns what a random choice of k of them is
expected to show: an unbiased estimate for k new answers, by closed forms instead of subsets.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from polychromic.numerics import FloatArray, IntArray, require_whole

PATIENCE = 0.8
"""Of NoveltyBench: the chance that a user who has read an answer asks for one more."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """Returns the chance that at least one of k generations passes, where c of n did: 1 − C(n−c, k) / C(n, k).

    Raises ValueError unless 0 ≤ c ≤ n and 1 ≤ k ≤ n: more generations than were sampled cannot be drawn.
    Source: Chen et al. 2021, Evaluating Large Language Models Trained on Code, equation 1.
    """
    _require_counts(n, c, k)
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def all_pass_at_k(n: int, c: int, k: int) -> float:
    """Returns the chance that all of k generations pass (pass^k), where c of n did: C(c, k) / C(n, k).

    Raises ValueError as `pass_at_k` does. Source: Yao et al. 2024, τ-bench, section 3.3.
    """
    _require_counts(n, c, k)
    return math.comb(c, k) / math.comb(n, k)


def most_pass_at_k(n: int, c: int, k: int, share: float = 0.5) -> float:
    """Returns the chance that at least ⌈share · k⌉ of k generations pass (G-Pass@k), where c of n did.

    Raises ValueError as `pass_at_k` does, or for a share outside (0, 1].
    Source: Liu et al. 2024, Are Your LLMs Capable of Stable Reasoning?, equation 4.
    """
    from scipy.stats import hypergeom

    _require_counts(n, c, k)
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share={share}: expected a share of the k generations in (0, 1]")
    least = math.ceil(share * k * (1.0 - 1e-12))  # 0.55 of 20 is 11, and a product of floats may lie above it
    return float(hypergeom.sf(least - 1, n, c, k))


def pass_at_k_curve(n: ArrayLike, c: ArrayLike, k_max: int) -> FloatArray:
    """Returns [..., k_max] pass@k for k = 1..k_max, of counts n and c [...] that broadcast; nan where k > n.

    The chance to miss is the product over j < k of (n − c − j) / (n − j), so nothing overflows.
    Raises ValueError where c < 0, c > n, or k_max < 1.
    """
    n_all, c_all = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64))
    require_whole("k_max", k_max, what="a number of tries")
    if (c_all < 0).any() or (c_all > n_all).any():
        raise ValueError(f"c={c}, n={n}: expected passing counts between 0 and the number of generations")
    drawn_K = np.arange(k_max)
    left = n_all[..., None] - drawn_K
    # Past the failures nothing is left to miss with; past n the factor is set to nan below.
    misses = np.maximum(left - c_all[..., None], 0.0) / np.maximum(left, 1.0)
    return np.where(left >= 1.0, 1.0 - np.cumprod(misses, axis=-1), np.nan)


def _require_counts(n: int, c: int, k: int) -> None:
    require_whole("n", n, what="a number of generations")
    require_whole("c", c, least=0, what="a number of generations that pass")
    require_whole("k", k, what="a number of tries")
    if not 0 <= c <= n:
        raise ValueError(f"c={c}: expected between 0 and n={n} generations that pass")
    if not 1 <= k <= n:
        raise ValueError(f"k={k}: expected between 1 and n={n}; sample at least k generations a prompt")


def expected_best(rewards: FloatArray, k: int) -> float:
    """Returns the expected largest of k rewards drawn without replacement from those that are not nan; nan with fewer
    than k.

    The j highest hold the maximum with chance pass@k of j passing, so each rank's weight is a difference of two.
    """
    graded = np.sort(rewards[~np.isnan(rewards)])[::-1]
    if len(graded) < k:
        return math.nan
    reached_J = pass_at_k_curve(len(graded), np.arange(len(graded) + 1), k)[:, k - 1]
    return float(np.diff(reached_J) @ graded)


def auc_at_k_curve(passes_K: FloatArray) -> FloatArray:
    """Returns [K] AUC@K: the area under pass@k over k = 1..K by the trapezoidal rule, divided by K − 1.

    AUC@1 is pass@1. It lies in [0, 1] like pass@k, and is nan from the first k on where pass@k is.
    Source: Hu et al. 2026, Rewarding the Rare: Uniqueness-Aware RL, equation 7.
    """
    area_K = np.cumsum(np.append(0.0, (passes_K[1:] + passes_K[:-1]) / 2))
    widths_K = np.arange(len(passes_K))
    return np.where(widths_K > 0, area_K / np.maximum(widths_K, 1), passes_K)


def all_pass_at_k_curve(n: int, c: int, k_max: int) -> FloatArray:
    """Returns [k_max] of `all_pass_at_k` for k = 1..k_max; nan where k > n."""
    drawn_K = np.arange(k_max)
    left_K = n - drawn_K
    hits_K = np.maximum(c - drawn_K, 0.0) / np.maximum(left_K, 1.0)
    return np.where(left_K >= 1, np.cumprod(hits_K), np.nan)


def distinct_curve(labels: ArrayLike, k_max: int, n: int | None = None) -> FloatArray:
    """Returns [k_max] of the expected number of clusters among k of n answers, of which those with a label count (None:
    all have one); nan where k > n.

    NoveltyBench's distinct_k is its value at k = n. Source: Hurlbert 1971, equation 14 (rarefaction).
    """
    n = np.size(labels) if n is None else n
    # Hitting a cluster is passing with that cluster as the only right answer. Equal sizes have equal curves.
    sizes, n_clusters = np.unique(_sizes(labels), return_counts=True)
    return n_clusters @ pass_at_k_curve(n, sizes, k_max) if len(sizes) else pass_at_k_curve(n, 0, k_max)


def utility_k(labels: ArrayLike, scores: ArrayLike, *, patience: float = PATIENCE) -> float:
    """Returns the utility of a list of answers in the order given: Σ p^i u_i / Σ p^i over i = 0..k − 1, where u_i is
    the score of answer i if it is the first of its cluster, else 0. nan without an answer, or where a score that
    counts is nan.

    The scale is that of the scores (NoveltyBench's are whole numbers from 1 to 10, ours rewards from 0 to 1).
    Source: Zhang et al. 2025, NoveltyBench, section 3.2, and its score.py.
    """
    labels_N, scores_N = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if not len(labels_N):
        return math.nan
    firsts = np.unique(labels_N, return_index=True)[1]
    gained_N = np.zeros(len(labels_N))
    gained_N[firsts] = scores_N[firsts]
    return float(np.average(gained_N, weights=_require_patience(patience) ** np.arange(len(labels_N))))


def utility_curve(labels: ArrayLike, scores: ArrayLike, k_max: int, *, patience: float = PATIENCE) -> FloatArray:
    """Returns [k_max] of `utility_k` expected of the first k answers when all N are put in random order; nan for k > N.

    Independent samples have no order of their own, so that this is as unbiased as the value in the order of sampling,
    with less variance. Answer j stands at place i and before its whole cluster of n_c with chance
    C(N − n_c, i) / C(N − 1, i) / N.
    """
    labels_N, scores_N = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    n = len(labels_N)
    if not n:
        return np.full(k_max, np.nan)
    _, codes_N, sizes_C = np.unique(labels_N, return_inverse=True, return_counts=True)
    totals_C = np.bincount(codes_N, weights=scores_N)
    # Before place 0 there is nothing; before place i ≥ 1 stand i of the N − 1 other answers.
    others_CK = np.zeros((len(sizes_C), n))
    if n > 1:
        others_CK[:, 1:] = pass_at_k_curve(n - 1, sizes_C - 1, n - 1)
    gained_K = totals_C @ (1.0 - others_CK) / n
    weights_K = _require_patience(patience) ** np.arange(n)
    curve = np.full(k_max, np.nan)
    reached = min(n, k_max)
    curve[:reached] = (np.cumsum(weights_K * gained_K) / np.cumsum(weights_K))[:reached]
    return curve


def hill_number(labels: ArrayLike, q: float, k: int | None = None) -> float:
    """Returns the Hill number of order q expected among k of the N labelled answers (None: all), in [1, k]: an
    effective number of different answers. nan where N < k, or without an answer.

    q = 0 counts the clusters, q = 1 is exp of the entropy of their shares, q = 2 one over the sum of their squares; the
    larger q, the less rare answers count. As an estimate for the model it is too low, most for small q (k answers show
    at most k clusters): compare at equal k only, and at equal N, since k among more answers show less than k alone.
    `pair_sameness` has no such bias.
    Raises ValueError for q < 0 or infinite.
    Source: Hill 1973; Chao et al. 2014, Rarefaction and Extrapolation with Hill Numbers, for k < N.
    """
    if not 0.0 <= q < math.inf:
        raise ValueError(f"q={q}: expected a finite order of at least 0")
    sizes_C = _sizes(labels)
    n = int(sizes_C.sum())
    k = n if k is None else k
    if not 1 <= k <= n:
        return math.nan
    shares_J = np.arange(1, k + 1) / k
    # How many clusters are expected to hold exactly j of the k answers.
    if k == n:
        expected_J = np.bincount(sizes_C, minlength=k + 1)[1:].astype(np.float64)
    else:
        from scipy.stats import hypergeom  # a second to import, which most processes that measure are spared

        expected_J = hypergeom.pmf(np.arange(1, k + 1)[:, None], n, sizes_C, k).sum(axis=1)
    if abs(q - 1.0) < 1e-8:
        return math.exp(-float(expected_J @ (shares_J * np.log(shares_J))))
    return float(expected_J @ shares_J**q) ** (1.0 / (1.0 - q))


def pair_sameness(labels: ArrayLike) -> float:
    """Returns the chance that two different answers are of one cluster: Σ n_c (n_c − 1) / (N (N − 1)); nan for N < 2.

    Unbiased for the chance that two new answers agree. Source: Simpson 1949, Measurement of Diversity.
    """
    sizes_C = _sizes(labels)
    n = int(sizes_C.sum())
    return float((sizes_C * (sizes_C - 1)).sum()) / (n * (n - 1)) if n > 1 else math.nan


MOST_VOTES = 64
"""The largest k of a vote: C(n, k) stays a finite number, and the work small."""


def majority_curve(labels: ArrayLike, passing: ArrayLike, k_max: int) -> FloatArray:
    """Returns [k_max] of maj@k: the chance that the answer most given among k of the N passes; nan where k > N, or k is
    above `MOST_VOTES`.

    The k answers vote by cluster, equal numbers of votes are decided by lot, and the answer is one of the winning
    cluster's, of which the share that passes counts. Exact: every way to draw the votes is counted, by
    Π_c (Σ_{j<m} C(n_c, j) x^j + y C(n_c, m) x^m) for m votes of the winner, where y marks the clusters that tie.
    Source: Wang et al. 2023, Self-Consistency, section 2, with the k answers drawn as for pass@k.
    """
    labels_N, passing_N = np.asarray(labels), np.asarray(passing, dtype=np.float64)
    n = len(labels_N)
    reached = min(n, k_max, MOST_VOTES)
    curve = np.full(k_max, np.nan)
    if not reached:
        return curve
    _, codes_N, sizes_C = np.unique(labels_N, return_inverse=True, return_counts=True)
    shares_C = np.bincount(codes_N, weights=passing_N) / sizes_C
    if len(sizes_C) == n or np.ptp(shares_C) == 0.0:
        # A vote in which no two agree is a lot, and where all clusters pass alike the winner does not matter.
        curve[:reached] = passing_N.mean()
        return curve
    won_K = sum(
        (_won_with(votes, sizes_C, shares_C, reached) for votes in range(1, min(sizes_C.max(), reached) + 1)),
        start=np.zeros(reached),
    )
    curve[:reached] = won_K / _binomials(n, reached)[1:]
    return curve


def _won_with(votes: int, sizes_C: IntArray, shares_C: FloatArray, k_max: int) -> FloatArray:
    """Returns [k_max] of the ways to draw k answers in which the most votes of a cluster are `votes`, each way weighed
    by the mean share of the clusters that have them."""
    large = sizes_C >= votes
    n_small, n_ties = int(sizes_C[~large].sum()), min(int(large.sum()), k_max // votes)
    # [2, k, t] over k answers drawn and t clusters with `votes` of them: ways, and ways times the sum of those shares.
    ways = np.zeros((2, k_max + 1, n_ties + 1))
    ways[0, :, 0] = _binomials(n_small, k_max)
    for size, share in zip(sizes_C[large].tolist(), shares_C[large], strict=True):
        tied = math.comb(size, votes) * ways[:, :-votes, :-1]
        tied[1] += share * tied[0]
        ways = ways if votes == 1 else _fewer_votes(size, votes, k_max) @ ways
        ways[:, votes:, 1:] += tied
    return (ways[1, 1:, 1:] / np.arange(1, n_ties + 1)).sum(axis=1)


@lru_cache(maxsize=256)
def _fewer_votes(size: int, votes: int, k_max: int) -> FloatArray:
    """Returns the matrix that adds fewer than `votes` answers of a cluster of this size to k drawn; read-only."""
    steps = np.subtract.outer(np.arange(k_max + 1), np.arange(k_max + 1))
    fewer_J = np.where(np.arange(k_max + 1) < votes, _binomials(size, k_max), 0.0)
    table = np.where(steps >= 0, fewer_J[steps], 0.0)
    table.setflags(write=False)
    return table


@lru_cache(maxsize=1024)
def _binomials(n: int, k_max: int) -> FloatArray:
    """Returns [k_max + 1] of C(n, k) for k = 0..k_max; shared, so read-only."""
    table = np.array([math.comb(n, k) for k in range(k_max + 1)], dtype=np.float64)
    table.setflags(write=False)
    return table


def _sizes(labels: ArrayLike) -> IntArray:
    return np.unique(np.asarray(labels), return_counts=True)[1]


def _require_patience(patience: float) -> float:
    if not 0.0 < patience <= 1.0:
        raise ValueError(f"patience={patience}: expected a chance in (0, 1]")
    return patience
