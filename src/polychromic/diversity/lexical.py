"""Diversity of words: distinct n-grams, at any length and at a fixed one, and compression."""

from __future__ import annotations

import math
import zlib

from polychromic.diversity.ngrams import Integers, Texts, require_texts, tokenize
from polychromic.diversity.rarefaction import expected_kinds
from polychromic.diversity.tokens import Tokenizer

_EMPTY_STREAM = len(zlib.compress(b"", 9))


def distinct_n(
    texts: Texts, n: int = 2, *, lowercase: bool = False, tokens: str | Tokenizer = "words"
) -> float:
    """Distinct n-grams over all n-grams of a group, in (0, 1]; higher is more diverse. nan without an n-gram.

    Falls as texts grow, whatever their diversity: compare at equal length, or use `rarefied_distinct_n`.
    Source: Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models, section 5.
    """
    totals = ngram_totals(texts, n, lowercase=lowercase, tokens=tokens)
    return len(totals) / int(totals.sum()) if len(totals) else math.nan


def rarefied_distinct_n(
    texts: Texts, n: int, budget: int, *, lowercase: bool = False, tokens: str | Tokenizer = "words"
) -> float:
    """Expected Distinct-n of `budget` n-grams drawn from the group without replacement, in (0, 1]; higher is
    more diverse. nan where the group has fewer than `budget`.

    It makes groups of different length comparable. At a budget of all n-grams it is `distinct_n`; times the
    budget it is the expected number of distinct n-grams (see `expected_kinds`).
    """
    return expected_kinds(ngram_totals(texts, n, lowercase=lowercase, tokens=tokens), budget) / budget


def ead(
    texts: Texts,
    n: int,
    vocabulary_size: int,
    *,
    lowercase: bool = False,
    tokens: str | Tokenizer = "words",
) -> float:
    """Expectation-adjusted Distinct-n: distinct n-grams over those of as many uniform draws from V symbols.

    For comparison with published numbers only: it may exceed 1, depends on the chosen V, and natural text is far
    from uniform. nan without an n-gram.
    Source: Liu et al. 2022, Rethinking and Refining the Distinct Metric, equation 3.
    """
    if vocabulary_size < 1:
        raise ValueError(f"vocabulary_size={vocabulary_size}: expected at least 1")
    totals = ngram_totals(texts, n, lowercase=lowercase, tokens=tokens)
    if not len(totals):
        return math.nan
    # V (1 − ((V − 1) / V)^C), without the cancellation that a large V brings.
    seen = 1.0 if vocabulary_size == 1 else -math.expm1(int(totals.sum()) * math.log1p(-1 / vocabulary_size))
    return len(totals) / (vocabulary_size * seen)


def compression_ratio(texts: Texts) -> float:
    """UTF-8 bytes over compressed bytes of the texts joined by spaces; higher is *less* diverse. nan without text.

    zlib at level 9, net of the bytes of an empty stream. Repeats more than 32 KiB apart go unseen, and longer
    texts compress better: compare groups of similar size only.
    Source: Shaib et al. 2024, Standardizing the Measurement of Text Diversity, section 3.
    """
    joined = " ".join(require_texts(texts))
    if not joined.strip(" "):
        return math.nan
    data = joined.encode("utf-8", "surrogatepass")
    return len(data) / (len(zlib.compress(data, 9)) - _EMPTY_STREAM)


def ngram_totals(
    texts: Texts, n: int, *, lowercase: bool = False, tokens: str | Tokenizer = "words"
) -> Integers:
    """[U] how often each distinct n-gram of length n occurs in the group."""
    return tokenize(texts, lowercase=lowercase, tokens=tokens).ngrams(n).totals(n)
