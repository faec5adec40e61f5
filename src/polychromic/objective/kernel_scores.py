"""Scores without a closed form: all subsets of small groups are rated, sampled subsets else; Vendi and log det."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from math import comb, log

import numpy as np
from scipy.special import entr

from polychromic.numerics import BoolArray, FloatArray, IntArray
from polychromic.objective.scores import GateRule

MAX_SUBSETS = 5000
"""Up to this many subsets all are scored (N ≤ 20 at set size 4); beyond it, SAMPLED_SUBSETS random ones."""
SAMPLED_SUBSETS = 2048


Rate = Callable[[IntArray], FloatArray]
"""Scores [M] of M sets, from the indices of their members [M, K]."""


@dataclass(frozen=True)
class EnumeratedScore:
    """A score without a closed form, for one group of N: all subsets are rated where they are few, sampled ones else.

    Sampled subsets are drawn independently of the generations, so advantages stay unbiased over the draw.
    """

    n: int
    rate: Rate
    name: str
    generator: np.random.Generator | None
    smallest_set: int = 1
    _scored: dict[int, tuple[FloatArray, BoolArray]] = field(default_factory=dict, init=False)

    def mean(self, set_size: int) -> float:
        """Returns the average over all, or over the sampled, subsets of `set_size`."""
        return float(self._scores(set_size)[0].mean())

    def leave_one_out(self, set_size: int) -> FloatArray:
        """Returns [N]: the average over the scored subsets that avoid each generation; 0 where the draw left none."""
        if set_size < self.smallest_set:
            return np.zeros(self.n)
        scores_M, member_MN = self._scores(set_size)
        avoiding_N = (~member_MN).sum(axis=0)
        return (scores_M @ ~member_MN) / np.maximum(avoiding_N, 1)

    def _scores(self, set_size: int) -> tuple[FloatArray, BoolArray]:
        """Scores [M] of subsets and who is in each [M, N], computed once a set size."""
        if set_size not in self._scored:
            subsets_MK = self._subsets(set_size)
            member_MN = np.zeros((len(subsets_MK), self.n), dtype=bool)
            np.put_along_axis(member_MN, subsets_MK, True, axis=1)
            self._scored[set_size] = self.rate(subsets_MK), member_MN
        return self._scored[set_size]

    def _subsets(self, set_size: int) -> IntArray:
        n_subsets = comb(self.n, set_size)
        if n_subsets <= MAX_SUBSETS:
            return _all_subsets(self.n, set_size)
        if self.generator is None:
            raise ValueError(
                f"{self.name} has no closed form and {n_subsets} subsets of {set_size} out of {self.n} are more "
                f"than {MAX_SUBSETS}: pass generator=numpy.random.default_rng(seed) to score {SAMPLED_SUBSETS} "
                "sampled ones, or use fewer generations or a smaller set_size"
            )
        keys_MN = self.generator.random((SAMPLED_SUBSETS, self.n))
        return np.argpartition(keys_MN, set_size - 1, axis=1)[:, :set_size]


def vendi_scores(distances_NN: FloatArray, gates_N: FloatArray, gate: GateRule, sets_MK: IntArray) -> FloatArray:
    """Returns [M]: exp of the von Neumann entropy of each set's kernel / K, over K (Vendi score, arXiv:2210.02410).

    The kernel is k_ij = 1 − d_ij; negative eigenvalues (of a distance that is not of negative type) count as zero.
    gate `product`: times the mean gate (quality-weighted Vendi, arXiv:2405.02449); gate `passing`: of the passing
    members alone, still over K, so that a set scores its effective number of different passing generations, per member.
    """
    eigenvalues_MK = _eigenvalues(distances_NN, gates_N if gate == "passing" else None, sets_MK)
    vendi_M = _effective_number(eigenvalues_MK) / sets_MK.shape[1]
    return vendi_M * gates_N[sets_MK].mean(axis=1) if gate == "product" else vendi_M


def logdet_scores(distances_NN: FloatArray, gates_N: FloatArray, gate: GateRule, sets_MK: IntArray) -> FloatArray:
    """Returns [M]: log det(I + k') / (K · log 2), k'_ij = g_i (1 − d_ij) g_j, whatever the gate rule.

    A determinantal point process's volume with quality (Kulesza & Taskar, arXiv:1207.6083).
    """
    eigenvalues_MK = _eigenvalues(distances_NN, gates_N, sets_MK)
    return np.log1p(eigenvalues_MK).sum(axis=1) / (sets_MK.shape[1] * log(2.0))


def _eigenvalues(distances_NN: FloatArray, gates_N: FloatArray | None, sets_MK: IntArray) -> FloatArray:
    """Returns [M, K], at least 0: of the kernels of M sets, weighed by the gates where there are any."""
    kernel_NN = 1.0 - distances_NN
    np.fill_diagonal(kernel_NN, 1.0)
    kernel_MKK = kernel_NN[sets_MK[:, :, None], sets_MK[:, None, :]]
    if gates_N is not None:
        gates_MK = gates_N[sets_MK]
        kernel_MKK = kernel_MKK * gates_MK[:, :, None] * gates_MK[:, None, :]
    return np.maximum(np.linalg.eigvalsh(kernel_MKK), 0.0)


def _effective_number(eigenvalues_MK: FloatArray) -> FloatArray:
    """Returns the exp of the entropy of each row's shares; 0 for a row of zeros (a set in which nobody passes)."""
    total_M = eigenvalues_MK.sum(axis=1)
    shares_MK = eigenvalues_MK / np.where(total_M > 0, total_M, 1.0)[:, None]
    return np.where(total_M > 0, np.exp(entr(shares_MK).sum(axis=1)), 0.0)


@lru_cache(maxsize=64)
def _all_subsets(n: int, set_size: int) -> IntArray:
    subsets = np.array(list(combinations(range(n), set_size)), dtype=np.int64)
    subsets.setflags(write=False)
    return subsets
