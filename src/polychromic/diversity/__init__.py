"""Measures the diversity of the generations of one prompt: pure functions from texts or embeddings to numbers.

Every measure is nan where it is undefined, never 0 or 1; `docs/measures.md` says what each one means.
"""

from polychromic.diversity.embedders import Embedder, load_embedder
from polychromic.diversity.lexical import (
    TokenizedGroup,
    compression_ratio,
    distinct_n,
    ead,
    rarefied_distinct_n,
    tokenize,
)
from polychromic.diversity.measurement import (
    DIRECTIONS,
    GroupMeasurements,
    MeasureCheck,
    MeasureSettings,
    check_measures,
    measure_group,
    measure_signatures,
)
from polychromic.diversity.overlap import rouge_l, self_bleu, self_bleu_each
from polychromic.diversity.semantic import (
    cluster_by_embedding,
    cluster_by_form,
    cluster_by_judge,
    cluster_by_text,
    cosine_distances,
    expected_clusters,
    n_clusters,
    semantic_distance,
    vendi_score,
    vendi_score_from_embeddings,
    vendi_scores,
)
from polychromic.diversity.tokens import Signature, require_comparable
from polychromic.numerics import label_codes

__all__ = [
    "DIRECTIONS",
    "Embedder",
    "GroupMeasurements",
    "MeasureCheck",
    "MeasureSettings",
    "Signature",
    "TokenizedGroup",
    "check_measures",
    "cluster_by_embedding",
    "cluster_by_form",
    "cluster_by_judge",
    "cluster_by_text",
    "compression_ratio",
    "cosine_distances",
    "distinct_n",
    "ead",
    "expected_clusters",
    "label_codes",
    "load_embedder",
    "measure_group",
    "measure_signatures",
    "n_clusters",
    "rarefied_distinct_n",
    "require_comparable",
    "rouge_l",
    "self_bleu",
    "self_bleu_each",
    "semantic_distance",
    "tokenize",
    "vendi_score",
    "vendi_score_from_embeddings",
    "vendi_scores",
]
