"""Whether every measure puts known groups in the right order: all identical, half alike, all different."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polychromic.diversity.clusters import (
    cluster_by_embedding,
    cluster_by_form,
    cluster_by_judge,
    cluster_by_text,
    n_clusters,
)
from polychromic.diversity.embedder import Embedder, load_embedder
from polychromic.diversity.lexical import ead
from polychromic.diversity.measurement import DIRECTIONS, MeasureSettings, measure_group

_SENTENCES = (
    "Fresh bread from the bakery on our corner smells wonderful every morning",
    "Astronomers measured how quickly that distant galaxy moves away from ours",
    "My grandmother taught me to play chess when I turned six",
    "Heavy rain flooded two fields beside the river last night again",
    "Please restart your computer before installing any new printer software today",
    "Our team lost by three goals although we trained all winter",
    "Interest rates may rise because inflation stays well above its target",
    "She painted her kitchen bright yellow while listening to old records",
)
_GROUPS = {
    "identical": _SENTENCES[:1] * 8,
    "mixed": _SENTENCES[:1] * 4 + _SENTENCES[1:5],
    "different": _SENTENCES,
}


@dataclass(frozen=True, slots=True)
class MeasureCheck:
    """One measure's values on the three known groups; `passed` says that they come in the order of diversity."""

    measure: str
    identical: float
    mixed: float
    different: float
    passed: bool


def check_measures(embedder: Embedder | None = None) -> list[MeasureCheck]:
    """Run every measure on known groups, those of meaning with the embedder (hashed n-grams unless one is given).

    A nan never passes.
    """
    embedder = embedder or load_embedder("hash")
    settings = MeasureSettings(embedder=embedder.name)
    values = []
    for texts in _GROUPS.values():
        embeddings_ND = embedder.encode(texts)
        measured = measure_group(texts, settings, embeddings=embeddings_ND).values
        values.append(measured | _beside_the_group_measures(texts, embeddings_ND))
    return [_check(measure, *(group[measure] for group in values)) for measure in values[0]]


def _beside_the_group_measures(texts: Sequence[str], embeddings_ND: NDArray[np.float32]) -> dict[str, float]:
    """What `measure_group` leaves out: EAD, and the number of clusters by each way of finding them."""
    partitions = {
        "text": cluster_by_text(texts),
        "form": cluster_by_form(texts, str.casefold),
        "embedding": cluster_by_embedding(embeddings_ND, threshold=0.75),
        "judge": cluster_by_judge(texts, lambda first, second: first.casefold() == second.casefold()),
    }
    counts = {f"clusters_by_{name}": float(n_clusters(labels_N)) for name, labels_N in partitions.items()}
    return {"ead_2": ead(texts, 2, vocabulary_size=50_000), **counts}


def _check(measure: str, identical: float, mixed: float, different: float) -> MeasureCheck:
    rising = identical < mixed < different
    falling = identical > mixed > different
    passed = rising if DIRECTIONS.get(measure, "higher") == "higher" else falling
    return MeasureCheck(measure, identical, mixed, different, passed)
