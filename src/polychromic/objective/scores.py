"""Averages of set scores over all subsets of a group, in closed form.

A set score f rates a set of m generations. For a group of N generations every class here gives

- `mean(m)`: the average of f over all m-subsets of the group, an unbiased estimate of E[f(y_1..y_m)];
- `leave_one_out(m)`: for each i, the average of f over the m-subsets of the *other* generations.

All else follows. Since N·mean = K·(average over S∋i) + (N−K)·(average over S∌i), the average over the sets that
hold i needs no formula of its own, and any mix of leave-one-out averages is a baseline that does not depend on
generation i. No subset is ever enumerated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from polychromic.numerics import BoolArray, FloatArray, IntArray, at_least_two_probabilities, miss_probabilities

GateRule = Literal["product", "passing", "none"]
"""Use of quality in a distance: as a weight of each pair, by counting passing members alone, or not at all."""


class SetScore(Protocol):
    """A set score bound to one group of N generations. Sets too small to have a score count 0."""

    def mean(self, set_size: int) -> float:
        """Returns the average of f over all subsets of `set_size`, 1 to N."""
        ...

    def leave_one_out(self, set_size: int) -> FloatArray:
        """[N]: entry i averages f over the subsets of `set_size`, 1 to N−1, that avoid i."""
        ...


def with_member_mean(score: SetScore, set_size: int, n: int) -> FloatArray:
    """Returns [N]: for each i, the average of f over the subsets of `set_size` that hold i."""
    if set_size == n:
        return np.full(n, score.mean(n))
    return (n * score.mean(set_size) - (n - set_size) * score.leave_one_out(set_size)) / set_size


def mix_of_means(score: SetScore, coefficients: Mapping[int, float], n: int) -> FloatArray:
    """Returns [N]: Σ over set sizes m of coefficient × leave-one-out mean. Size 0 is the constant 1.

    A size that a group has too few generations for (some are missing) stands for the set of all others.
    """
    baseline_N = np.zeros(n)
    for size, coefficient in coefficients.items():
        if size == 0:
            baseline_N += coefficient
        elif n > 1:
            baseline_N += coefficient * score.leave_one_out(min(size, n - 1))
    return baseline_N


@dataclass(frozen=True)
class MeanReward:
    """f(S) = mean reward: RLOO (Kool et al., 2019; Ahmadian et al., arXiv:2402.14740)."""

    rewards_N: FloatArray

    def mean(self, set_size: int) -> float:
        """Returns the mean reward, whatever the set size."""
        return float(self.rewards_N.mean())

    def leave_one_out(self, set_size: int) -> FloatArray:
        """The mean reward of the others."""
        return (self.rewards_N.sum() - self.rewards_N) / (len(self.rewards_N) - 1)


@dataclass(frozen=True)
class BestOfClusters:
    """f(S) = Σ over clusters hit by S of the best reward in it; divided by |S| with `per_member`.

    One cluster and not `per_member`: the best reward of the set, pass@k for binary rewards (PKPO,
    arXiv:2505.15201). Binary rewards and `per_member`: distinct passing clusters per generation, `coverage`.
    The best of a cluster is generation j where j is drawn and the t_j better ones of its cluster are not, which
    has probability m/N · C(N−1−t_j, m−1) / C(N−1, m−1).
    """

    rewards_N: FloatArray
    clusters_N: IntArray
    per_member: bool
    order_N: IntArray = field(init=False)
    ranks_N: IntArray = field(init=False)

    def __post_init__(self) -> None:
        # Sorted by cluster, best first; the rank is the number of better ones in the same cluster.
        order = np.lexsort((-self.rewards_N, self.clusters_N))
        clusters = self.clusters_N[order]
        ranks = np.arange(len(order)) - np.searchsorted(clusters, clusters)
        object.__setattr__(self, "order_N", order)
        object.__setattr__(self, "ranks_N", ranks)

    def mean(self, set_size: int) -> float:
        """Returns the average over all subsets of `set_size`."""
        n = len(self.rewards_N)
        best = miss_probabilities(n - 1, set_size - 1)[self.ranks_N]
        return float(self._scale(set_size) / n * (self.rewards_N[self.order_N] @ best))

    def leave_one_out(self, set_size: int) -> FloatArray:
        """Without i, the worse ones of its cluster have one better one less."""
        n = len(self.rewards_N)
        rewards, ranks = self.rewards_N[self.order_N], self.ranks_N
        table = miss_probabilities(n - 2, set_size - 1)
        # The worst of a cluster that is the whole group has rank n−1, which only occurs when it is promoted.
        here = np.append(table, 0.0)[ranks]
        gains = rewards * (table[np.maximum(ranks - 1, 0)] - here)
        through = np.cumsum(gains)
        clusters = self.clusters_N[self.order_N]
        last = np.searchsorted(clusters, clusters, side="right") - 1
        sums = rewards @ here - rewards * here + (through[last] - through)
        result = np.empty(n)
        result[self.order_N] = self._scale(set_size) / (n - 1) * sums
        return result

    def _scale(self, set_size: int) -> float:
        return 1.0 if self.per_member else float(set_size)


@dataclass(frozen=True)
class RewardTimesClusters:
    """f(S) = mean reward × distinct clusters / |S|: the polychromic objective (arXiv:2509.25424, 2604.17654).

    Averages r_j · P(j ∈ S and cluster c is hit) over j and c; c is hit for sure where j is in it.
    """

    rewards_N: FloatArray
    clusters_N: IntArray
    counts_C: IntArray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts_C", np.bincount(self.clusters_N))

    def mean(self, set_size: int) -> float:
        """Returns the average over all subsets of `set_size`."""
        n = len(self.rewards_N)
        hit_C = 1.0 - np.append(miss_probabilities(n - 1, set_size - 1), 0.0)[self.counts_C]
        distinct_N = 1.0 + hit_C.sum() - hit_C[self.clusters_N]
        return float(self.rewards_N @ distinct_N) / (n * set_size)

    def leave_one_out(self, set_size: int) -> FloatArray:
        """Without i, its cluster has one member less."""
        rewards, clusters = self.rewards_N, self.clusters_N
        n = len(rewards)
        miss = np.append(miss_probabilities(n - 2, set_size - 1), [0.0, 0.0])
        hit_C, hit_less_C = 1.0 - miss[self.counts_C], 1.0 - miss[self.counts_C - 1]
        reward_C = np.bincount(clusters, weights=rewards)
        own_reward_N = reward_C[clusters] - rewards
        others_distinct_N = 1.0 + hit_C.sum() - hit_C[clusters] + hit_less_C[clusters]
        own_cluster_N = reward_C @ hit_C - (reward_C * hit_C)[clusters] + own_reward_N * hit_less_C[clusters]
        return ((rewards.sum() - rewards) * others_distinct_N - own_cluster_N) / ((n - 1) * set_size)


@dataclass(frozen=True)
class PairwiseDistance:
    """f(S) = mean over the pairs of S of g_i g_j d_ij, for distances d and quality gates g."""

    distances_NN: FloatArray
    gates_N: FloatArray
    row_sums_N: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "row_sums_N", _gated_row_sums(self.distances_NN, self.gates_N))

    def mean(self, set_size: int) -> float:
        """Returns the mean over all pairs, whatever the set size."""
        n = len(self.row_sums_N)
        return float(self.row_sums_N.sum() / (n * (n - 1)))

    def leave_one_out(self, set_size: int) -> FloatArray:
        """The mean over the pairs of the others; 0 for sets of one, which hold no pair."""
        n = len(self.row_sums_N)
        if set_size < 2:
            return np.zeros(n)
        return (self.row_sums_N.sum() - 2.0 * self.row_sums_N) / ((n - 1) * (n - 2))


@dataclass(frozen=True)
class PassingDistance:
    """f(S) = mean distance over the pairs of S in which both pass, 0 where fewer than two pass.

    Given how many of S pass, they are a uniform draw from all that pass; so the average is the mean distance
    among all that pass times the probability that S holds two of them.
    """

    distances_NN: FloatArray
    passing_N: BoolArray
    row_sums_N: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        sums = _gated_row_sums(self.distances_NN, self.passing_N.astype(np.float64))
        object.__setattr__(self, "row_sums_N", sums)

    def mean(self, set_size: int) -> float:
        """Returns the average over all subsets of `set_size`."""
        c = int(self.passing_N.sum())
        two_pass = at_least_two_probabilities(len(self.passing_N), set_size)[c]
        return float(two_pass * self.row_sums_N.sum() / max(c * (c - 1), 1))

    def leave_one_out(self, set_size: int) -> FloatArray:
        """Without a passing i, one passing generation less, and its distances are gone."""
        c = int(self.passing_N.sum())
        two_pass = at_least_two_probabilities(len(self.passing_N) - 1, set_size)
        total = self.row_sums_N.sum()
        without_passing_N = two_pass[max(c - 1, 0)] * (total - 2.0 * self.row_sums_N) / max((c - 1) * (c - 2), 1)
        # With c = N nobody fails, and the entry that is looked up is not used.
        without_failing = two_pass[min(c, len(two_pass) - 1)] * total / max(c * (c - 1), 1)
        return np.where(self.passing_N, without_passing_N, without_failing)


def _gated_row_sums(distances_NN: FloatArray, gates_N: FloatArray) -> FloatArray:
    """Returns Σ_{j≠i} g_i g_j d_ij for every i, without a copy of the matrix."""
    return gates_N * (distances_NN @ gates_N - np.diagonal(distances_NN) * gates_N)
