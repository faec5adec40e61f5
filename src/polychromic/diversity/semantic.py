"""Computes semantic distance, Vendi score and clusters of embedded texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polychromic.diversity.lexical import expected_kinds
from polychromic.numerics import (
    IntArray,
    label_codes,
    require_array,
    require_between,
    require_texts,
    require_whole,
    shown,
)

_TOLERANCE = 1e-5  # what single-precision embeddings leave of exact symmetry, unit diagonals and eigenvalues ≥ 0

_FEW = 32  # rows, up to which a product of two matrices was the faster
_ROUNDING = float(np.finfo(np.float64).eps)
_TINY = float(np.finfo(np.float64).tiny)

Floats = NDArray[np.floating]
_EMBED = 'Embed the texts first: load_embedder("minilm").encode(texts) gives embeddings.'


def semantic_distance(embeddings: ArrayLike) -> float:
    """Returns the mean of 1 − cosine over pairs of rows of [N, d] embeddings, in [0, 2]; higher is more diverse.

    Rows need not have length 1. nan with fewer than two rows. Raises ValueError for a row that is zero or not finite.
    Source: Tevet and Berant 2021, Evaluating the Evaluation of Diversity, section 3 (embedding-based distance).
    """
    unit_ND = _unit(_require_rows(embeddings))
    n = len(unit_ND)
    if n < 2:
        return math.nan
    # The sum of all cosines is the squared length of the sum of rows: O(N d), no matrix of pairs.
    total_D = unit_ND.sum(axis=0)
    return max(0.0, (n * n - float(total_D @ total_D)) / (n * (n - 1)))


def cosine_distances(embeddings: ArrayLike) -> Floats:
    """Returns [N, N] matrix of 1 − cosine in [0, 2], symmetric with a zero diagonal."""
    distances_NN = np.clip(1.0 - _cosines(_require_rows(embeddings)), 0.0, 2.0)
    np.fill_diagonal(distances_NN, 0.0)
    return distances_NN


def vendi_score(kernel: ArrayLike, q: float = 1.0, *, weights: ArrayLike | None = None) -> float:
    """Returns the effective number of different items, in [1, N]; higher is more diverse. nan for an empty kernel.

    The exponential of the Rényi entropy of order q ≥ 0 (inf allowed; 1 is Shannon's) of the eigenvalues of K/N,
    for a [N, N] similarity kernel: symmetric, with ones on the diagonal, positive semi-definite. Small q counts
    rare items, large q only common ones. `weights` [N] are the items' shares of the whole, equal unless given.
    Raises ValueError for a kernel or weights that are not such, or q < 0; `vendi_score_from_embeddings` takes
    embeddings.
    Source: Friedman and Dieng 2023, The Vendi Score, definition 3.1; Pasarkar and Dieng 2024, Cousins of the
    Vendi Score, equation 3, for q ≠ 1.
    """
    kernel_NN = _require_kernel(kernel)
    if weights is not None:
        roots_N = np.sqrt(_require_weights(weights, len(kernel_NN)))
        kernel_NN = kernel_NN * np.outer(roots_N, roots_N)
    return float(_spectral_diversity(np.linalg.eigvalsh(kernel_NN), q))


def vendi_score_from_embeddings(embeddings: ArrayLike, q: float = 1.0) -> float:
    """Returns the Vendi score by the cosines of [N, d] embeddings, whatever their lengths; nan without a row."""
    return float(_vendi(_require_rows(embeddings), q))


def vendi_scores(embeddings_PND: ArrayLike, q: float = 1.0) -> Floats:
    """Returns [P] Vendi scores of P groups of equal size, several times faster than one by one for small groups."""
    return _vendi(_require_rows(embeddings_PND, n_axes=3), q)


def _vendi(rows: Floats, q: float) -> Floats:
    n, d = rows.shape[-2:]
    if n <= d:
        # A BLAS that sees a matrix times its own transpose takes longer than for two matrices, where rows are few.
        others = rows.copy() if n <= _FEW else rows
        return _spectral_diversity(np.linalg.eigvalsh(_cosines(rows, others)), q)
    # The product of the columns has the same eigenvalues above 0, and fewer of them.
    unit = _unit(rows)
    return _spectral_diversity(np.linalg.eigvalsh(np.swapaxes(unit, -1, -2) @ unit), q)


def _cosines(rows: Floats, others: Floats | None = None) -> Floats:
    """Returns [..., N, N] cosines of all pairs of rows; `others` are the rows again, elsewhere in memory."""
    products = rows @ np.swapaxes(rows if others is None else others, -1, -2)
    lengths = _require_lengths(np.sqrt(np.diagonal(products, axis1=-2, axis2=-1)))
    return products / (lengths[..., :, None] * lengths[..., None, :])


def _unit(rows: Floats) -> Floats:
    """Rows scaled to length 1."""
    return rows / _require_lengths(np.sqrt(np.einsum("...d,...d->...", rows, rows)))[..., None]


def _require_rows(embeddings: ArrayLike, n_axes: int = 2) -> Floats:
    # Double precision: at small q the rounding of single precision would count as items.
    expected = "[generations, dimensions]" if n_axes == 2 else "[groups, generations, dimensions]"
    rows = require_array("embeddings", embeddings, expected, for_texts=_EMBED)
    if rows.ndim != n_axes:
        raise ValueError(f"embeddings have shape {rows.shape}; expected {expected}")
    return rows


def _require_lengths(lengths: Floats) -> Floats:
    if not (lengths.min(initial=1.0) > 0 and lengths.max(initial=1.0) < math.inf):  # false for nan, too
        where = np.argwhere(~(np.isfinite(lengths) & (lengths > 0)))[0].tolist()
        length = lengths[tuple(where)]
        raise ValueError(f"embeddings{where} has length {length}; expected a finite row that is not zero")
    return lengths


def _require_kernel(kernel: ArrayLike) -> Floats:
    of_texts = 'For texts: vendi_score_from_embeddings(load_embedder("minilm").encode(texts))'
    kernel_NN = require_array("kernel", kernel, "a square matrix of similarities", for_texts=of_texts)
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
        raise ValueError(f"kernel[{row}, {row}]={diagonal_N[row]:g}: expected 1, every item's similarity to itself")
    return kernel_NN


def _require_weights(weights: ArrayLike, n: int) -> Floats:
    weights_N = require_array("weights", weights, f"{n} shares")
    if weights_N.shape != (n,) or not (weights_N >= 0).all() or abs(weights_N.sum() - 1.0) > _TOLERANCE:
        raise ValueError(f"weights={weights_N.tolist()}: expected {n} shares of at least 0 that sum to 1")
    return weights_N


def _spectral_diversity(eigenvalues: Floats, q: float) -> Floats:
    """Returns the exp of the order-q entropy of ascending eigenvalues [..., M] scaled to sum to 1; nan where M is 0."""
    require_between("q", q, 0.0, math.inf, "an order of at least 0 (inf is allowed)")
    if eigenvalues.shape[-1] == 0:
        return np.full(eigenvalues.shape[:-1], math.nan)
    smallest, largest = eigenvalues[..., 0], eigenvalues[..., -1]
    if (smallest < -_TOLERANCE * largest).any():
        raise ValueError(f"kernel is not positive semi-definite: its smallest eigenvalue is {smallest.min():.3g}")
    if abs(q - 1.0) < 1e-8:  # the limit: the general form is 0/0 here
        positive = np.maximum(eigenvalues, _TINY)
        total = positive.sum(axis=-1)
        return total * np.exp(-(positive * np.log(positive)).sum(axis=-1) / total)
    # Rounding leaves tiny eigenvalues where there is none; at small q they would count as items.
    is_kept = eigenvalues > largest[..., None] * (eigenvalues.shape[-1] * _ROUNDING)
    kept = np.where(is_kept, eigenvalues, 0.0)
    shares = kept / kept.sum(axis=-1, keepdims=True)
    if q == math.inf:
        return 1.0 / shares[..., -1]
    # Shares are taken relative to the largest, whose power would underflow at large q.
    top = shares[..., -1]
    powers = (is_kept * (shares / top[..., None]) ** q).sum(axis=-1)
    return np.exp((np.log(powers) + q * np.log(top)) / (1.0 - q))


def cluster_by_text(texts: Sequence[str]) -> IntArray:
    """Returns [N] labels: generations with the same text, character for character, share one."""
    return label_codes(require_texts("texts", texts))


def cluster_by_form(texts: Sequence[str], canonical: Callable[[str], Hashable]) -> IntArray:
    """Returns [N] labels: generations that `canonical` maps to one form share one."""
    return label_codes(map(canonical, require_texts("texts", texts)))


def cluster_by_embedding(embeddings: ArrayLike, threshold: float) -> IntArray:
    """Returns [N] labels by complete linkage: all pairs within a cluster have a cosine of at least `threshold`.

    Does not depend on the order of the generations (ties apart), and no chain of near neighbours joins strangers.
    Raises ValueError for a threshold outside [−1, 1].
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    require_between("threshold", threshold, -1.0, 1.0, "a cosine in [-1, 1]")
    distances_NN = cosine_distances(embeddings)
    if len(distances_NN) < 2:
        return np.zeros(len(distances_NN), dtype=np.int64)
    merges = linkage(squareform(distances_NN, checks=False), method="complete")
    # Rounding must not split texts whose cosine is the threshold itself, such as equal ones at 1.
    return label_codes(fcluster(merges, 1.0 - threshold + 1e-9, criterion="distance").tolist())


def cluster_by_judge(texts: Sequence[str], same: Callable[[str, str], bool]) -> IntArray:
    """Returns [N] labels by a caller's equivalence: each joins the first cluster whose *first* member is the same.

    Calls `same(first_member, text)` at most once a cluster. A judge that is not transitive makes the result depend on
    the order of the generations. Source: Zhang et al. 2025, NoveltyBench, section 3.1.
    """
    texts = require_texts("texts", texts)
    first_members: list[str] = []
    labels_N = np.empty(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        label = next((c for c, member in enumerate(first_members) if same(member, text)), len(first_members))
        if label == len(first_members):
            first_members.append(text)
        labels_N[i] = label
    return labels_N


def n_clusters(labels: ArrayLike) -> int:
    """Returns the number of clusters of a partition; 0 for an empty group."""
    return len(np.unique(_require_labels(labels)))


def expected_clusters(labels: ArrayLike, k: int) -> float:
    """Returns the expected number of clusters among k generations drawn from the group; nan where it has fewer."""
    labels_N = _require_labels(labels)
    require_whole("k", k, what="a number of generations")
    return expected_kinds(np.unique(labels_N, return_counts=True)[1], k)


def _require_labels(labels: ArrayLike) -> NDArray[Any]:
    """Returns [N] labels of any kind; raises ValueError for one label alone, or for rows of them."""
    labels_N = np.asarray(labels)
    if labels_N.ndim != 1:
        raise ValueError(f"labels={shown(labels)} has shape {labels_N.shape}; expected one label a generation")
    return labels_N
