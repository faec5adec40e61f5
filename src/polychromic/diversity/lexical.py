"""Counts n-grams and distinct n-grams, at equal length too."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from polychromic import numerics
from polychromic.diversity.tokens import Tokenizer, TokenOptions
from polychromic.diversity.tokens import rouge_words as rouge_words  # noqa: PLC0414 - read from here too
from polychromic.numerics import IntArray

_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class NgramCounts:
    """The n-grams of lengths 1 to max_n in one group; none crosses from one text into the next.

    A row of the pair arrays says that n-gram `pair_ngram` occurs `pair_count` ≥ 1 times in text `pair_text`. Rows
    are sorted by n-gram, shorter n-grams first; `pair_starts` [U] is the first row of each distinct n-gram.
    Rows of length n end before `pair_bounds[n]` and start at `pair_bounds[n - 1]`.
    """

    pair_ngram: IntArray
    pair_text: IntArray
    pair_count: IntArray
    pair_starts: IntArray
    pair_bounds: IntArray

    @property
    def max_n(self) -> int:
        """Returns the longest n-grams that are counted."""
        return len(self.pair_bounds) - 1

    @property
    def pair_length(self) -> IntArray:
        """Returns [pairs]: the length n of each row's n-gram."""
        return np.repeat(np.arange(1, self.max_n + 1), np.diff(self.pair_bounds))

    def totals(self, n: int) -> IntArray:
        """Returns [U_n] occurrences of each distinct n-gram of length n in the whole group."""
        first, last = np.searchsorted(self.pair_starts, self.pair_bounds[[n - 1, n]])
        count = self.pair_count[: self.pair_bounds[n]]
        return np.add.reduceat(count, self.pair_starts[first:last]) if last > first else count[:0]


class TokenizedGroup:
    """The texts of one group with their tokens as integers, and n-gram counts computed on first use.

    Give it to several lexical measures in place of the texts, and the work is shared.
    """

    def __init__(self, texts: Sequence[str], options: TokenOptions):
        self.texts = require_texts(texts)
        self.options = options
        tokens = options.split(self.texts)
        words = list(chain.from_iterable(tokens))
        numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
        self.n_kinds = len(numbers)
        self.token_ids = np.fromiter(map(numbers.__getitem__, words), np.int64, len(words))
        self.lengths_N = np.fromiter(map(len, tokens), np.int64, len(tokens))
        self._counts: NgramCounts | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def ngrams(self, max_n: int) -> NgramCounts:
        """Counts of the n-grams of lengths 1 to at least max_n; asking for the longest first saves work."""
        max_n = numerics.require_whole("n", max_n, what="an n-gram length")
        if self._counts is None or self._counts.max_n < max_n:
            self._counts = _count_ngrams(self, max_n)
        return self._counts


Texts = Sequence[str] | TokenizedGroup
"""The argument of every lexical measure: the texts of a group, or the group tokenized once for several measures."""


def tokenize(texts: Texts, *, lowercase: bool = False, tokens: str | Tokenizer = "words") -> TokenizedGroup:
    """Tokenizes the group once; a group that already is tokenized is returned as it stands.

    Raises ValueError where options are given that differ from those the group was made with.
    """
    options = TokenOptions(tokens, lowercase)
    if not isinstance(texts, TokenizedGroup):
        return TokenizedGroup(texts, options)
    if options not in (TokenOptions(), texts.options):
        raise ValueError(f"{options} differs from the group's own {texts.options}; tokenize the texts again")
    return texts


def require_texts(texts: Texts) -> list[str]:
    """Returns the texts of a group; raises ValueError for what is no list of texts."""
    return texts.texts if isinstance(texts, TokenizedGroup) else numerics.require_texts("texts", texts)


def _count_ngrams(group: TokenizedGroup, max_n: int) -> NgramCounts:
    keys, key_bounds = _pair_keys(group, max_n)
    keys.sort()
    row_bounds = _run_bounds(keys)
    pair_key = keys[row_bounds[:-1]]
    pair_code, pair_text = np.divmod(pair_key, max(len(group), 1))
    ngram_bounds = _run_bounds(pair_code)
    return NgramCounts(
        pair_ngram=np.repeat(np.arange(len(ngram_bounds) - 1), np.diff(ngram_bounds)),
        pair_text=pair_text,
        pair_count=np.diff(row_bounds),
        pair_starts=ngram_bounds[:-1],
        pair_bounds=np.searchsorted(pair_key, key_bounds),
    )


def _pair_keys(group: TokenizedGroup, max_n: int) -> tuple[IntArray, list[int]]:
    """Returns a number for each n-gram of each text, equal for equal ones of one text; [max_n + 1] bounds by length."""
    text_of = np.repeat(np.arange(len(group)), group.lengths_N)
    codes, n_codes = group.token_ids, group.n_kinds
    keys, bounds = [codes * len(group) + text_of], [0, n_codes * len(group)]
    for n in range(2, max_n + 1):
        codes, n_codes = _room_for(group.n_kinds * max_n, codes, n_codes)
        codes = codes[: len(text_of) - n + 1] * group.n_kinds + group.token_ids[n - 1 :]
        codes, n_codes = _room_for(len(group) * max_n, codes, n_codes * group.n_kinds)
        last_text = text_of[n - 1 :]
        inside = text_of[: len(codes)] == last_text
        keys.append((codes * len(group) + last_text + bounds[-1])[inside])
        bounds.append(bounds[-1] + n_codes * len(group))
    return np.concatenate(keys), bounds


def _room_for(factor: int, codes: IntArray, n_codes: int) -> tuple[IntArray, int]:
    """Codes below n_codes, renumbered where times `factor` they would overflow; no more codes than tokens remain."""
    if n_codes * factor <= _LARGEST:
        return codes, n_codes
    return np.unique(codes, return_inverse=True)[1], len(codes)


def _run_bounds(ordered: IntArray) -> IntArray:
    """Returns [runs + 1] where each run of equal values begins, and where the last one ends."""
    is_bound = np.ones(len(ordered) + 1, dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=is_bound[1:-1])
    return np.flatnonzero(is_bound)


def expected_kinds(totals: IntArray, budget: int) -> float:
    """Returns the expected number of kinds among `budget` draws without replacement; nan where there are fewer items.

    `totals` [U] counts the items of each kind. With n_i of kind i, N = Σ n_i and m = budget it is
    Σ_i 1 − C(N−n_i, m) / C(N, m). Source: Hurlbert 1971, The Nonconcept of Species Diversity, equation 14.
    Raises ValueError for a budget below 1.
    """
    numerics.require_whole("budget", budget, what="a number of draws")
    n_items = int(np.sum(totals))
    if n_items < budget:
        return math.nan
    sizes, n_kinds = np.unique(totals, return_counts=True)
    # C(N−n, m) / C(N, m) is the product over j < n of (N−m−j) / (N−j): no factorial, so nothing overflows.
    j = np.arange(sizes[-1])
    missed = np.cumprod(np.maximum(n_items - budget - j, 0) / (n_items - j))
    return float(n_kinds @ (1.0 - missed[sizes - 1]))


_EMPTY_STREAM = len(zlib.compress(b"", 9))


def distinct_n(texts: Texts, n: int = 2, *, lowercase: bool = False, tokens: str | Tokenizer = "words") -> float:
    """Returns the distinct n-grams over all n-grams of a group, in (0, 1]; higher is more diverse. nan without any.

    Falls as texts grow, whatever their diversity: compare at equal length, or use `rarefied_distinct_n`.
    Source: Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models, section 5.
    """
    totals = ngram_totals(texts, n, lowercase=lowercase, tokens=tokens)
    return len(totals) / int(totals.sum()) if len(totals) else math.nan


def rarefied_distinct_n(
    texts: Texts, n: int, budget: int, *, lowercase: bool = False, tokens: str | Tokenizer = "words"
) -> float:
    """Returns the expected Distinct-n of `budget` n-grams drawn from the group without replacement, in (0, 1]; higher
    is
    more diverse. nan where the group has fewer than `budget`.

    It makes groups of different length comparable. At a budget of all n-grams it is `distinct_n`; times the
    budget it is the expected number of distinct n-grams (see `expected_kinds`).
    """
    return expected_kinds(ngram_totals(texts, n, lowercase=lowercase, tokens=tokens), budget) / budget


def ead(
    texts: Texts, n: int, vocabulary_size: int, *, lowercase: bool = False, tokens: str | Tokenizer = "words"
) -> float:
    """Returns the expectation-adjusted Distinct-n: distinct n-grams over those of as many uniform draws from V symbols.

    For comparison with published numbers only: it may exceed 1, depends on the chosen V, and natural text is far
    from uniform. nan without an n-gram.
    Source: Liu et al. 2022, Rethinking and Refining the Distinct Metric, equation 3.
    """
    numerics.require_whole("vocabulary_size", vocabulary_size, what="a number of symbols")
    totals = ngram_totals(texts, n, lowercase=lowercase, tokens=tokens)
    if not len(totals):
        return math.nan
    # V (1 − ((V − 1) / V)^C), without the cancellation that a large V brings.
    seen = 1.0 if vocabulary_size == 1 else -math.expm1(int(totals.sum()) * math.log1p(-1 / vocabulary_size))
    return len(totals) / (vocabulary_size * seen)


def compression_ratio(texts: Texts) -> float:
    """Returns UTF-8 bytes over compressed bytes of the space-joined texts; higher is *less* diverse. nan without text.

    zlib at level 9, net of the bytes of an empty stream. Repeats more than 32 KiB apart go unseen, and longer
    texts compress better: compare groups of similar size only.
    Source: Shaib et al. 2024, Standardizing the Measurement of Text Diversity, section 3.
    """
    joined = " ".join(require_texts(texts))
    if not joined.strip(" "):
        return math.nan
    data = joined.encode("utf-8", "surrogatepass")
    return len(data) / (len(zlib.compress(data, 9)) - _EMPTY_STREAM)


def ngram_totals(texts: Texts, n: int, *, lowercase: bool = False, tokens: str | Tokenizer = "words") -> IntArray:
    """Returns [U]: how often each distinct n-gram of length n occurs in the group."""
    return tokenize(texts, lowercase=lowercase, tokens=tokens).ngrams(n).totals(n)
