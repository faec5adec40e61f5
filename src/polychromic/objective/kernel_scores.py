"""Set scores of a similarity kernel. They have no closed form: all subsets for small groups, sampled subsets else."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from math import comb, log
from typing import ClassVar, Literal, get_args

import numpy as np
from scipy.special import entr

from polychromic.numerics import BoolArray, FloatArray, IntArray

MAX_SUBSETS = 5000
"""Up to this many subsets all are scored (N ≤ 20 at set size 4); beyond it, SAMPLED_SUBSETS random ones."""
SAMPLED_SUBSETS = 2048

KernelName = Literal["vendi", "logdet"]
GateRule = Literal["product", "passing", "none"]


@dataclass(frozen=True)
class KernelScore:
    """A score of the kernel k_ij = 1 − d_ij of a set of m, with quality gates g; both lie in [0, 1] if k is PSD.

    `vendi`: exp of the von Neumann entropy of the kernel / m (Friedman & Dieng, arXiv:2210.02410), over m.
        gate `product`: times the mean gate (quality-weighted Vendi, arXiv:2405.02449);
        gate `passing`: of the passing members alone, still over m, so that a set scores its effective number of
        different passing generations, per member.
    `logdet`: log det(I + k'), k'_ij = g_i k_ij g_j, over m·log 2: a determinantal point process's volume with
        quality (Kulesza & Taskar, arXiv:1207.6083).

    Eigenvalues below zero (a distance that is not of negative type) count as zero. Sampled subsets are drawn
    independently of the generations, so advantages stay unbiased over the draw.
    """

    distances_NN: FloatArray
    gates_N: FloatArray
    name: KernelName
    gate: GateRule
    generator: np.random.Generator | None
    _scored: dict[int, tuple[FloatArray, BoolArray]] = field(default_factory=dict, init=False)
    smallest_set: ClassVar[int] = 1

    def mean(self, set_size: int) -> float:
        """Average over all, or over the sampled, subsets of `set_size`."""
        return float(self._scores(set_size)[0].mean())

    def leave_one_out(self, set_size: int) -> FloatArray:
        """[N]: average over the scored subsets that avoid each generation; 0 where the draw left none."""
        scores_M, member_MN = self._scores(set_size)
        avoiding_N = (~member_MN).sum(axis=0)
        return (scores_M @ ~member_MN) / np.maximum(avoiding_N, 1)

    def _scores(self, set_size: int) -> tuple[FloatArray, BoolArray]:
        """Scores [M] of subsets and who is in each [M, N], computed once a set size."""
        if set_size not in self._scored:
            n = len(self.gates_N)
            subsets_MK = self._subsets(n, set_size)
            member_MN = np.zeros((len(subsets_MK), n), dtype=bool)
            np.put_along_axis(member_MN, subsets_MK, True, axis=1)
            self._scored[set_size] = self._rate(subsets_MK), member_MN
        return self._scored[set_size]

    def _subsets(self, n: int, set_size: int) -> IntArray:
        if comb(n, set_size) <= MAX_SUBSETS:
            return _all_subsets(n, set_size)
        if self.generator is None:
            raise ValueError(
                f"{self.name} has no closed form and {comb(n, set_size)} subsets of {set_size} out of {n} are more "
                f"than {MAX_SUBSETS}: pass generator=numpy.random.default_rng(seed) to score {SAMPLED_SUBSETS} "
                "sampled ones, or use fewer generations or a smaller set_size"
            )
        keys_MN = self.generator.random((SAMPLED_SUBSETS, n))
        return np.argpartition(keys_MN, set_size - 1, axis=1)[:, :set_size]

    def _rate(self, subsets_MK: IntArray) -> FloatArray:
        kernel_NN = 1.0 - self.distances_NN
        np.fill_diagonal(kernel_NN, 1.0)
        gates_MK = self.gates_N[subsets_MK]
        kernel_MKK = kernel_NN[subsets_MK[:, :, None], subsets_MK[:, None, :]]
        if self.name == "logdet" or self.gate == "passing":
            kernel_MKK = kernel_MKK * gates_MK[:, :, None] * gates_MK[:, None, :]
        eigenvalues_MK = np.maximum(np.linalg.eigvalsh(kernel_MKK), 0.0)
        size = subsets_MK.shape[1]
        if self.name == "logdet":
            return np.log1p(eigenvalues_MK).sum(axis=1) / (size * log(2.0))
        vendi_M = _effective_number(eigenvalues_MK) / size
        return vendi_M * gates_MK.mean(axis=1) if self.gate == "product" else vendi_M


def _effective_number(eigenvalues_MK: FloatArray) -> FloatArray:
    """exp of the entropy of each row's shares; 0 for a row of zeros (a set in which nobody passes)."""
    total_M = eigenvalues_MK.sum(axis=1)
    shares_MK = eigenvalues_MK / np.where(total_M > 0, total_M, 1.0)[:, None]
    return np.where(total_M > 0, np.exp(entr(shares_MK).sum(axis=1)), 0.0)


def sampled_subsets(objective: str, set_size: int, num_samples: int) -> int:
    """How many random subsets stand for all; 0 where nothing is sampled: few enough subsets, or a closed form."""
    if objective not in get_args(KernelName) or comb(num_samples, set_size) <= MAX_SUBSETS:
        return 0
    return SAMPLED_SUBSETS


@lru_cache(maxsize=64)
def _all_subsets(n: int, set_size: int) -> IntArray:
    subsets = np.array(list(combinations(range(n), set_size)), dtype=np.int64)
    subsets.setflags(write=False)
    return subsets
