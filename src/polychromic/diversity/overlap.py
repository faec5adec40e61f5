"""Measures how much the generations of a group repeat one another: Self-BLEU and pairwise ROUGE-L."""

from __future__ import annotations

import math

import numpy as np

from polychromic.diversity.lexical import NgramCounts, Texts, TokenizedGroup, tokenize
from polychromic.diversity.tokens import Tokenizer
from polychromic.numerics import FloatArray, IntArray, require_whole

ROUGE_L_TOKENS = 5_000
"""ROUGE-L reads so many tokens of each text: its time grows with the product of two lengths."""

_NO_MATCH = 0.1  # method1 of Chen and Cherry 2014: a precision without a match becomes 0.1 / its denominator


def self_bleu(
    texts: Texts,
    max_n: int = 4,
    *,
    lowercase: bool = False,
    tokens: str | Tokenizer = "words",
    leave_out_short: bool = False,
) -> float:
    """Mean BLEU of each generation against all others, in [0, 1]; higher is *less* diverse.

    nan with fewer than two generations, or where none has a token. An empty generation among others scores 0,
    and generations shorter than `max_n` tokens score low even when identical (two equal one-word texts: 0.178):
    with `leave_out_short` they are compared with, and have no score of their own.
    Source: Zhu et al. 2018, Texygen; equal to nltk's `sentence_bleu` with `method1` smoothing.
    """
    group = tokenize(texts, lowercase=lowercase, tokens=tokens)
    scores_N = self_bleu_each(group, max_n, lowercase=lowercase, tokens=tokens)
    if leave_out_short and len(scores_N):
        scores_N = scores_N[group.lengths_N >= max_n]
    return float(scores_N.mean()) if len(scores_N) else math.nan


def self_bleu_each(
    texts: Texts, max_n: int = 4, *, lowercase: bool = False, tokens: str | Tokenizer = "words"
) -> FloatArray:
    """[N] BLEU-`max_n` of each generation against all others; empty where Self-BLEU is undefined.

    Exact in O(total n-grams): an n-gram's largest count among the *other* texts is its largest count, or its
    second largest for the text that holds the largest.
    """
    require_whole("max_n", max_n, what="an n-gram length")
    group = tokenize(texts, lowercase=lowercase, tokens=tokens)
    if len(group) < 2 or not group.lengths_N.any():
        return np.empty(0)
    matches_nN = _clipped_matches(group.ngrams(max_n), max_n, len(group))
    ngrams_nN = np.maximum(group.lengths_N - np.arange(max_n)[:, None], 1)
    precisions_nN = np.where(matches_nN == 0, _NO_MATCH, matches_nN) / ngrams_nN
    bleu_N = _brevity_penalty(group.lengths_N) * np.exp(np.log(precisions_nN).mean(axis=0))
    return np.where(matches_nN[0] == 0, 0.0, bleu_N)


def rouge_l(texts: Texts, *, lowercase: bool = False, tokens: str | Tokenizer = "words") -> float:
    """Mean ROUGE-L F1 over pairs of generations, in [0, 1]; higher is *less* diverse.

    F1 is 2·LCS / (length + length), of the first ROUGE_L_TOKENS tokens of each generation. A pair of two empty
    generations has no score and is left out; nan where no pair is left. `tokens="rouge"` gives the
    rouge-score package's numbers.
    Source: Lin 2004, ROUGE, section 3.
    """
    from rapidfuzz.distance import Indel
    from rapidfuzz.process import cdist

    group = tokenize(texts, lowercase=lowercase, tokens=tokens)
    n_texts, n_empty = len(group), int(np.sum(group.lengths_N == 0))
    n_scored = n_texts * (n_texts - 1) - n_empty * (n_empty - 1)  # ordered pairs
    if n_scored == 0:
        return math.nan
    # Equal texts have equal scores: each pair of distinct texts is compared once.
    numbers: dict[tuple[int, ...], int] = {}
    kind_N = [numbers.setdefault(tuple(ids), len(numbers)) for ids in _sequences(group, ROUGE_L_TOKENS)]
    distinct = list(numbers)
    # The similarity normalised from insertions and deletions, 1 − (a + b − 2 LCS) / (a + b), is the F1.
    scores_UU = cdist(distinct, distinct, scorer=Indel.normalized_similarity, dtype=np.float64)
    scores_NN = scores_UU[np.ix_(kind_N, kind_N)]
    # It calls two empty texts identical: with the diagonal, that is 1 for each ordered pair left out.
    return float(scores_NN.sum() - (n_texts * n_texts - n_scored)) / n_scored


def _clipped_matches(counts: NgramCounts, max_n: int, n_texts: int) -> FloatArray:
    """[max_n, N] n-grams of each text that are matched, each at most as often as it occurs in any one other text."""
    largest_U = np.maximum.reduceat(counts.pair_count, counts.pair_starts)
    is_largest = counts.pair_count == largest_U[counts.pair_ngram]
    second_U = np.maximum.reduceat(np.where(is_largest, 0, counts.pair_count), counts.pair_starts)
    is_shared_U = np.add.reduceat(is_largest, counts.pair_starts, dtype=np.int64) > 1
    elsewhere_U = np.where(is_shared_U, largest_U, second_U)  # for the texts that hold the largest count
    matched = np.where(is_largest, elsewhere_U[counts.pair_ngram], counts.pair_count)
    cells = (counts.pair_length - 1) * n_texts + counts.pair_text
    table = np.bincount(cells, weights=matched, minlength=max_n * n_texts).astype(np.float64)
    return table.reshape(-1, n_texts)[:max_n]


def _brevity_penalty(lengths_N: IntArray) -> FloatArray:
    """[N] exp(1 − r/h) where the text's length h is below r, the closest length among the others; else 1."""
    order = np.argsort(lengths_N)
    ordered = lengths_N[order]
    # In sorted order the closest other length is a neighbour's; of two as close the shorter counts, as in nltk.
    gaps = np.full(len(ordered) + 1, np.inf)
    gaps[1:-1] = ordered[1:] - ordered[:-1]
    to_shorter, to_longer = gaps[:-1], gaps[1:]
    excess = np.where(to_longer < to_shorter, to_longer, 0.0)
    penalty_N = np.empty(len(lengths_N))
    penalty_N[order] = np.exp(-excess / np.maximum(ordered, 1))
    return penalty_N


def _sequences(group: TokenizedGroup, most: int) -> list[list[int]]:
    """The token ids of each text, the first `most` of them."""
    ends = np.cumsum(group.lengths_N).tolist()
    ids = group.token_ids.tolist()
    starts = [0, *ends]
    return [ids[start : min(end, start + most)] for start, end in zip(starts, ends, strict=False)]
