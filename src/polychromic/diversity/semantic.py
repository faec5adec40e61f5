"""Diversity of meaning, from embeddings or a similarity kernel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

_TOLERANCE = (
    1e-5  # what single-precision embeddings leave of exact symmetry, unit diagonals and eigenvalues ≥ 0
)

Floats = NDArray[np.float64]


def semantic_distance(embeddings: ArrayLike) -> float:
    """Mean of 1 − cosine over pairs of rows of [N, d] embeddings, in [0, 2]; higher is more diverse.

    Rows need not have length 1. nan with fewer than two rows. Raises ValueError for a row that is zero or not finite.
    Source: Tevet and Berant 2021, Evaluating the Evaluation of Diversity, section 3 (embedding-based distance).
    """
    unit_ND = unit_rows(embeddings)
    n = len(unit_ND)
    if n < 2:
        return math.nan
    # The sum of all cosines is the squared length of the sum of rows: O(N d), no matrix of pairs.
    total_D = unit_ND.sum(axis=0)
    return max(0.0, (n * n - float(total_D @ total_D)) / (n * (n - 1)))


def cosine_distances(embeddings: ArrayLike) -> Floats:
    """[N, N] matrix of 1 − cosine in [0, 2], symmetric with a zero diagonal."""
    unit_ND = unit_rows(embeddings)
    distances_NN = np.clip(1.0 - unit_ND @ unit_ND.T, 0.0, 2.0)
    np.fill_diagonal(distances_NN, 0.0)
    return distances_NN


def vendi_score(kernel: ArrayLike, q: float = 1.0) -> float:
    """Effective number of different items, in [1, N]; higher is more diverse. nan for an empty kernel.

    The exponential of the Rényi entropy of order q ≥ 0 (inf allowed; 1 is Shannon's) of the eigenvalues of K/N,
    for a [N, N] similarity kernel: symmetric, with ones on the diagonal, positive semi-definite. Small q counts
    rare items, large q only common ones.
    Raises ValueError for a kernel that is not such, or q < 0; `vendi_score_from_embeddings` takes embeddings.
    Source: Friedman and Dieng 2023, The Vendi Score, definition 3.1; Pasarkar and Dieng 2024, Cousins of the
    Vendi Score, equation 3, for q ≠ 1.
    """
    kernel_NN = _require_kernel(kernel)
    return _spectral_diversity(np.linalg.eigvalsh(kernel_NN), q) if kernel_NN.size else math.nan


def vendi_score_from_embeddings(embeddings: ArrayLike, q: float = 1.0) -> float:
    """Vendi score with the cosine kernel of [N, d] embeddings; rows need not have length 1. nan without a row.

    Where N > d the d×d Gram matrix of the columns is used, which has the same eigenvalues above 0.
    """
    unit_ND = unit_rows(embeddings)
    if not len(unit_ND):
        return math.nan
    n, d = unit_ND.shape
    gram = unit_ND.T @ unit_ND if n > d else unit_ND @ unit_ND.T
    return _spectral_diversity(np.linalg.eigvalsh(gram), q)


def unit_rows(embeddings: ArrayLike) -> Floats:
    """[N, d] rows scaled to length 1 in double precision; ValueError for a row that has no direction."""
    rows_ND = np.asarray(embeddings, dtype=np.float64)
    if rows_ND.ndim != 2:
        raise ValueError(f"embeddings have shape {rows_ND.shape}; expected [generations, dimensions]")
    lengths_N = np.sqrt(np.einsum("nd,nd->n", rows_ND, rows_ND))
    usable_N = np.isfinite(lengths_N) & (lengths_N > 0)
    if not usable_N.all():
        row = int(np.argmin(usable_N))
        raise ValueError(
            f"embeddings[{row}] has length {lengths_N[row]}; expected a finite row that is not zero"
        )
    return rows_ND / lengths_N[:, None]


def _require_kernel(kernel: ArrayLike) -> Floats:
    kernel_NN = np.asarray(kernel, dtype=np.float64)
    if kernel_NN.ndim != 2 or kernel_NN.shape[0] != kernel_NN.shape[1]:
        raise ValueError(
            f"kernel has shape {kernel_NN.shape}; expected a square matrix of similarities "
            "(vendi_score_from_embeddings takes embeddings)"
        )
    if not np.isfinite(kernel_NN).all():
        raise ValueError("kernel holds nan or infinite similarities; expected finite ones")
    if np.abs(kernel_NN - kernel_NN.T).max(initial=0.0) > _TOLERANCE:
        raise ValueError("kernel is not symmetric: the similarity of i to j must be that of j to i")
    diagonal_N = np.diagonal(kernel_NN)
    if np.abs(diagonal_N - 1.0).max(initial=0.0) > _TOLERANCE:
        row = int(np.argmax(np.abs(diagonal_N - 1.0)))
        raise ValueError(
            f"kernel[{row}, {row}]={diagonal_N[row]:g}: expected 1, every item's similarity to itself"
        )
    return kernel_NN


def _spectral_diversity(eigenvalues: Floats, q: float) -> float:
    """exp of the order-q entropy of the eigenvalues scaled to sum to 1."""
    if not q >= 0:
        raise ValueError(f"q={q}: expected an order of at least 0 (inf is allowed)")
    smallest, largest = float(eigenvalues[0]), float(eigenvalues[-1])
    if smallest < -_TOLERANCE * largest:
        raise ValueError(f"kernel is not positive semi-definite: its smallest eigenvalue is {smallest:.3g}")
    # Rounding leaves tiny eigenvalues where there is none; at small q they would count as items.
    kept = eigenvalues[eigenvalues > largest * len(eigenvalues) * np.finfo(np.float64).eps]
    shares = kept / kept.sum()
    if q == math.inf:
        return float(1.0 / shares[-1])
    if abs(q - 1.0) < 1e-9:  # the limit: the general form is 0/0 here
        return float(np.exp(-(shares @ np.log(shares))))
    return float((shares**q).sum() ** (1.0 / (1.0 - q)))
