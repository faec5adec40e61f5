"""Measures every diversity metric of a set of texts, and tests itself on sets whose order is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from polychromic.diversity.embedders import Embedder, load_embedder
from polychromic.diversity.lexical import TokenizedGroup, compression_ratio, distinct_n, ead, rarefied_distinct_n
from polychromic.diversity.overlap import ROUGE_L_TOKENS, rouge_l, self_bleu
from polychromic.diversity.semantic import (
    cluster_by_embedding,
    cluster_by_form,
    cluster_by_judge,
    cluster_by_text,
    n_clusters,
    semantic_distance,
    vendi_score_from_embeddings,
)
from polychromic.diversity.tokens import Signature, Tokenizer, TokenOptions, sign
from polychromic.numerics import Float32Array

Direction = Literal["higher", "lower"]

DIRECTIONS: dict[str, Direction] = {
    "rarefied_distinct_2": "higher",
    "distinct_1": "higher",
    "distinct_2": "higher",
    "distinct_3": "higher",
    "self_bleu": "lower",
    "rouge_l": "lower",
    "compression_ratio": "lower",
    "distinct_texts": "higher",
    "semantic_distance": "higher",
    "vendi": "higher",
}
"""The measures in the order in which they are shown, each with the direction of more diversity."""


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """Holds what values depend on beside the texts.

    `budget` is the number of bigrams that rarefied Distinct-2 draws from every group; groups with fewer get nan.
    Choose it once for all groups that are to be compared. `embedder` is the name of what made the embeddings.
    """

    budget: int = 50
    max_n: int = 4
    q: float = 1.0
    tokens: str | Tokenizer = "words"
    """See `TokenOptions`."""
    lowercase: bool = False
    embedder: str = "none"


@dataclass(frozen=True, slots=True)
class GroupMeasurements:
    """Holds what was measured of one group, by the keys of DIRECTIONS; a value is nan where its measure is undefined,
    and `undefined` says why, in words that are the same for all groups."""

    values: dict[str, float]
    counts: dict[str, int]
    signatures: dict[str, Signature]
    undefined: dict[str, str]


def measure_group(
    texts: Sequence[str], settings: MeasureSettings | None = None, *, embeddings: ArrayLike | None = None
) -> GroupMeasurements:
    """Returns all measures of one group's texts; the semantic ones only where [N, d] `embeddings` of them are given.

    A measure of n-grams is undefined where fewer than half of the texts have n tokens, so that a few longer texts never
    speak for all; Self-BLEU is the mean over those that have `max_n`, since shorter ones score low even when identical.
    Raises ValueError where embeddings and texts differ in number, or come without the embedder's name.
    """
    settings = settings or MeasureSettings()
    group = TokenizedGroup(texts, TokenOptions(settings.tokens, settings.lowercase))
    group.ngrams(max(3, settings.max_n))  # the longest first: shorter ones are read from the same table
    values = _lexical_values(group, settings)
    if embeddings is not None:
        embeddings_ND = _require_embeddings(embeddings, len(group), settings)
        values["semantic_distance"] = semantic_distance(embeddings_ND)
        values["vendi"] = vendi_score_from_embeddings(embeddings_ND, settings.q)
    signatures, counts = measure_signatures(settings, len(group)), _counts(group)
    undefined = {
        key: _why_undefined(key, group, counts, settings) for key, value in values.items() if math.isnan(value)
    }
    return GroupMeasurements(values, counts, {key: signatures[key] for key in values}, undefined)


@cache
def measure_signatures(settings: MeasureSettings, num_samples: int) -> Mapping[str, Signature]:
    """Returns the signature of every measure for groups of this size."""
    tokens = {
        "tokens": TokenOptions(settings.tokens).label,
        "case": "lower" if settings.lowercase else "kept",
        "k": num_samples,
    }
    embedded = {"embedder": settings.embedder, "k": num_samples}
    signatures = {
        "rarefied_distinct_2": sign("rarefied_distinct", n=2, budget=settings.budget, **tokens),
        **{f"distinct_{n}": sign("distinct", n=n, **tokens) for n in (1, 2, 3)},
        "self_bleu": sign("self_bleu", n=settings.max_n, smoothing="method1", short="left_out", **tokens),
        "rouge_l": sign("rouge_l", score="f1", first=ROUGE_L_TOKENS, **tokens),
        "compression_ratio": sign("compression_ratio", codec="zlib9-net", join="space", k=num_samples),
        "distinct_texts": sign("distinct_texts", same="text", k=num_samples),
        "semantic_distance": sign("semantic_distance", **embedded),
        "vendi": sign("vendi", q=settings.q, kernel="cosine", **embedded),
    }
    return MappingProxyType(signatures)  # shared by all groups, so that none may change it


def _lexical_values(group: TokenizedGroup, settings: MeasureSettings) -> dict[str, float]:
    tokens = {"tokens": settings.tokens, "lowercase": settings.lowercase}
    values = {
        "rarefied_distinct_2": rarefied_distinct_n(group, 2, settings.budget, **tokens),
        **{f"distinct_{n}": distinct_n(group, n, **tokens) for n in (1, 2, 3)},
        "self_bleu": self_bleu(group, settings.max_n, leave_out_short=True, **tokens),
        "rouge_l": rouge_l(group, **tokens),
        "compression_ratio": compression_ratio(group),
        "distinct_texts": float(n_clusters(cluster_by_text(group.texts))) if len(group) else float("nan"),
    }
    return {key: math.nan if _too_short(key, group, settings) else value for key, value in values.items()}


def _least_tokens(measure: str, settings: MeasureSettings) -> int:
    """Returns the tokens that a text must have to say anything about a measure; 0 where it does not read tokens."""
    needed = {"rarefied_distinct_2": 2, "distinct_1": 1, "distinct_2": 2, "distinct_3": 3, "rouge_l": 1}
    return {**needed, "self_bleu": settings.max_n}.get(measure, 0)


def _too_short(measure: str, group: TokenizedGroup, settings: MeasureSettings) -> bool:
    """Tells whether fewer than half of the texts have the tokens that a measure needs."""
    return 2 * int((group.lengths_N >= _least_tokens(measure, settings)).sum()) < len(group)


def _counts(group: TokenizedGroup) -> dict[str, int]:
    tokens_N = group.lengths_N
    return {
        "generations": len(group),
        "empty": int(np.sum(tokens_N == 0)),
        **{f"ngrams_{n}": int(np.maximum(tokens_N - n + 1, 0).sum()) for n in (1, 2, 3)},
    }


def _why_undefined(measure: str, group: TokenizedGroup, counts: Mapping[str, int], settings: MeasureSettings) -> str:
    if not len(group):
        return "no text"
    if measure == "rarefied_distinct_2" and counts["ngrams_2"] < settings.budget:
        return f"fewer than {settings.budget} n-grams of length 2"
    n = measure.removeprefix("distinct_")
    if counts.get(f"ngrams_{n}") == 0:
        return f"no n-gram of length {n}"
    if len(group) < 2 and measure in ("self_bleu", "rouge_l", "semantic_distance"):
        return "fewer than 2 texts"
    if _too_short(measure, group, settings):
        units = "token" if _least_tokens(measure, settings) == 1 else "tokens"
        return f"fewer than half of the texts have {_least_tokens(measure, settings)} {units}"
    return "nothing but spaces" if measure == "compression_ratio" else "no token in any text"


def _require_embeddings(embeddings: ArrayLike, n_texts: int, settings: MeasureSettings) -> np.ndarray:
    embeddings_ND = np.asarray(embeddings)
    if len(embeddings_ND) != n_texts:
        raise ValueError(f"{len(embeddings_ND)} embeddings for {n_texts} texts; expected one for each text")
    if settings.embedder == "none":
        raise ValueError("embeddings without settings.embedder: name what made them, so that values can be compared")
    return embeddings_ND


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
_GROUPS = {"identical": _SENTENCES[:1] * 8, "mixed": _SENTENCES[:1] * 4 + _SENTENCES[1:5], "different": _SENTENCES}


@dataclass(frozen=True, slots=True)
class MeasureCheck:
    """One measure's values on the three known groups; `passed` says that they come in the order of diversity."""

    measure: str
    identical: float
    mixed: float
    different: float
    passed: bool


def check_measures(embedder: Embedder | None = None) -> list[MeasureCheck]:
    """Runs every measure on known groups, those of meaning with the embedder (hashed n-grams unless one is given).

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


def _beside_the_group_measures(texts: Sequence[str], embeddings_ND: Float32Array) -> dict[str, float]:
    """Measures what `measure_group` leaves out: EAD, and the number of clusters by each way of finding them."""
    partitions = {
        "text": cluster_by_text(texts),
        "form": cluster_by_form(texts, str.casefold),
        "embedding": cluster_by_embedding(embeddings_ND, threshold=0.75),
        "judge": cluster_by_judge(texts, lambda first, second: first.casefold() == second.casefold()),
    }
    counts = {
        f"clusters_by_{name}": float(n_clusters(np.atleast_1d(labels_N))) for name, labels_N in partitions.items()
    }
    return {"ead_2": ead(texts, 2, vocabulary_size=50_000), **counts}


def _check(measure: str, identical: float, mixed: float, different: float) -> MeasureCheck:
    rising = identical < mixed < different
    falling = identical > mixed > different
    passed = rising if DIRECTIONS.get(measure, "higher") == "higher" else falling
    return MeasureCheck(measure, identical, mixed, different, passed)
