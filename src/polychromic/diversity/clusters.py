"""Which generations count as the same. One partition, integer labels [N], feeds every statistic."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from polychromic.diversity.ngrams import Integers
from polychromic.diversity.rarefaction import expected_kinds
from polychromic.diversity.semantic import cosine_distances


def as_labels(keys: Iterable[Hashable]) -> Integers:
    """[N] labels 0, 1, … in order of first appearance; equal keys get equal labels."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def cluster_by_text(texts: Sequence[str]) -> Integers:
    """[N] labels: generations with the same text, character for character, share one."""
    return as_labels(texts)


def cluster_by_form(texts: Sequence[str], canonical: Callable[[str], Hashable]) -> Integers:
    """[N] labels: generations that `canonical` maps to one form share one."""
    return as_labels(map(canonical, texts))


def cluster_by_embedding(embeddings: ArrayLike, threshold: float) -> Integers:
    """[N] labels by complete linkage: all pairs within a cluster have a cosine of at least `threshold`.

    Does not depend on the order of the generations (ties apart), and no chain of near neighbours joins strangers.
    Raises ValueError for a threshold outside [−1, 1].
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if not -1.0 <= threshold <= 1.0:
        raise ValueError(f"threshold={threshold}: expected a cosine in [-1, 1]")
    distances_NN = cosine_distances(embeddings)
    if len(distances_NN) < 2:
        return np.zeros(len(distances_NN), dtype=np.int64)
    merges = linkage(squareform(distances_NN, checks=False), method="complete")
    # Rounding must not split texts whose cosine is the threshold itself, such as equal ones at 1.
    return as_labels(fcluster(merges, 1.0 - threshold + 1e-9, criterion="distance").tolist())


def cluster_by_judge(texts: Sequence[str], same: Callable[[str, str], bool]) -> Integers:
    """[N] labels by a caller's equivalence: each generation joins the first cluster whose *first* member is the same.

    Calls `same(first_member, text)` at most once a cluster. A judge that is not transitive makes the result depend on
    the order of the generations. Source: Zhang et al. 2025, NoveltyBench, section 3.1.
    """
    first_members: list[str] = []
    labels_N = np.empty(len(texts), dtype=np.int64)
    for i, text in enumerate(texts):
        label = next((c for c, member in enumerate(first_members) if same(member, text)), len(first_members))
        if label == len(first_members):
            first_members.append(text)
        labels_N[i] = label
    return labels_N


def n_clusters(labels: ArrayLike) -> int:
    """Number of clusters of a partition; 0 for an empty group."""
    return len(np.unique(np.asarray(labels)))


def expected_clusters(labels: ArrayLike, k: int) -> float:
    """Expected number of clusters among k generations drawn from the group; nan where it has fewer than k."""
    return expected_kinds(np.unique(np.asarray(labels), return_counts=True)[1], k)
