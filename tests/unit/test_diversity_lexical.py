import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polychromic.diversity import compression_ratio, distinct_n, ead, rarefied_distinct_n, self_bleu, tokenize
from polychromic.diversity import lexical as ngrams_module
from polychromic.diversity.lexical import TokenizedGroup, expected_kinds, ngram_totals

words = st.sampled_from(["a", "b", "A", "é", "日本", "👍🏽", "ß"])
groups = st.lists(st.lists(words, max_size=7).map(" ".join), max_size=6)
without_deadline = settings(deadline=None)


def pooled_ngrams(texts, n):
    tokens = [text.split() for text in texts]
    return [tuple(words[i : i + n]) for words in tokens for i in range(len(words) - n + 1)]


@without_deadline
@given(groups, st.integers(1, 4))
def test_distinct_n_counts_what_a_plain_loop_counts(texts, n):
    pooled = pooled_ngrams(texts, n)
    expected = len(set(pooled)) / len(pooled) if pooled else math.nan
    assert distinct_n(texts, n) == pytest.approx(expected, abs=1e-15, nan_ok=True)
    assert sorted(ngram_totals(texts, n)) == sorted(pooled.count(ngram) for ngram in set(pooled))


def test_ngrams_do_not_cross_generations():
    assert len(ngram_totals(["a b", "c d"], 2)) == 2


def test_case_is_kept_unless_asked():
    assert distinct_n(["Yes", "yes"], 1) == 1.0
    assert distinct_n(["Yes", "yes"], 1, lowercase=True) == 0.5


@pytest.mark.parametrize("texts", [[], [""], ["  ", "\n"], ["one", "two"]])
def test_no_bigram_means_nan(texts):
    assert math.isnan(distinct_n(texts, 2))
    assert math.isnan(rarefied_distinct_n(texts, 2, 1))
    assert math.isnan(ead(texts, 2, 100))


@without_deadline
@given(groups, st.integers(1, 3), st.integers(1, 5))
def test_rarefied_distinct_n_is_the_mean_over_all_draws(texts, n, budget):
    pooled = pooled_ngrams(texts, n)[:9]
    draws = [len(set(draw)) / budget for draw in combinations(pooled, budget)]
    totals = np.array([pooled.count(ngram) for ngram in set(pooled)], dtype=int)
    expected = np.mean(draws) if draws else math.nan
    assert expected_kinds(totals, budget) / budget == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_rarefied_distinct_n_by_hand():
    # Bigrams: "a b" and "b c" twice, "c d" once; 1 − C(3,3)/C(5,3) = 0.9 for the first two, 1 − C(4,3)/C(5,3) = 0.6.
    assert rarefied_distinct_n(["a b c", "a b c d"], 2, 3) == pytest.approx(2.4 / 3, abs=1e-15)


def test_rarefied_distinct_n_at_the_full_budget_is_distinct_n():
    texts = ["a b a b c", "b c a"]
    assert rarefied_distinct_n(texts, 2, 6) == pytest.approx(distinct_n(texts, 2), abs=1e-15)
    assert math.isnan(rarefied_distinct_n(texts, 2, 7))


def test_rarefaction_does_not_overflow():
    totals = np.full(1000, 1000)
    # With a million items drawing with or without replacement is nearly the same.
    assert expected_kinds(totals, 500) == pytest.approx(1000 * (1 - (1 - 1 / 1000) ** 500), rel=1e-3)
    assert expected_kinds(totals, 1_000_000) == 1000.0


def test_rarefied_distinct_n_does_not_fall_with_length_as_distinct_n_does():
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1, 2001)
    chances /= chances.sum()

    def group(length):
        return [" ".join(map(str, rng.choice(2000, size=length, p=chances))) for _ in range(64)]

    short, long = group(10), group(160)
    assert distinct_n(long, 1) < 0.5 * distinct_n(short, 1)
    # Over 40 seeds the two differ by 0.021 (standard deviation) around no difference: five of them.
    assert rarefied_distinct_n(long, 1, 300) == pytest.approx(rarefied_distinct_n(short, 1, 300), abs=0.1)


def test_ead_of_a_large_vocabulary_is_distinct_n():
    # As V grows no draw repeats another; (1 − 1/V)^C lost four digits at V = 10^12.
    assert ead(["a b a", "c"], 1, 10**12) == pytest.approx(0.75, abs=1e-9)
    assert ead(["a b a", "c"], 1, 1) == 3.0


@pytest.mark.parametrize("texts", [[], [""], ["", ""], [" ", "  "]])
def test_nothing_to_compress_is_nan(texts):
    assert math.isnan(compression_ratio(texts))


def test_any_string_can_be_measured():
    # A byte-level model can produce half a surrogate pair, which plain UTF-8 encoding refuses.
    assert compression_ratio(["\ud83d x", "\ud83d x"]) > 1.0
    assert distinct_n(["\ud83d x"], 1) == 1.0


def test_a_tokenized_group_gives_the_same_values():
    texts = ["the cat sat", "the cat ran off", ""]
    group = tokenize(texts)
    assert self_bleu(group) == self_bleu(texts)
    assert [distinct_n(group, n) for n in (1, 2, 3)] == [distinct_n(texts, n) for n in (1, 2, 3)]
    assert compression_ratio(group) == compression_ratio(texts)


def test_a_tokenized_group_refuses_other_options():
    group = tokenize(["A a"], lowercase=True)
    assert distinct_n(group, 1, lowercase=True) == distinct_n(group, 1) == 0.5
    with pytest.raises(ValueError, match="tokenize the texts again"):
        distinct_n(group, 1, tokens="rouge")


def test_a_callers_tokenizer():
    assert distinct_n(["日本日"], 1, tokens=list) == pytest.approx(2 / 3)


@without_deadline
@given(groups, st.integers(1, 5), st.sampled_from([1, 60, 4000]))
def test_codes_that_would_overflow_are_renumbered(texts, max_n, largest):
    plain = tokenize(texts).ngrams(max_n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams_module, "_LARGEST", largest)
        renumbered = tokenize(texts).ngrams(max_n)
    assert plain.pair_bounds.tolist() == renumbered.pair_bounds.tolist()
    for n in range(1, max_n + 1):
        assert sorted(plain.totals(n)) == sorted(renumbered.totals(n))


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: distinct_n(["a"], 0), "n=0: expected an n-gram length of at least 1"),
        (lambda: distinct_n("one text"), "expected a list of texts, not one string"),
        (lambda: compression_ratio("one text"), "texts='one text'…: expected a list of texts"),
        (
            lambda: distinct_n(["a"], tokens="wordz"),
            "tokens='wordz': expected words, characters, unicode, code, rouge, code:LANGUAGE or a function",
        ),
        (lambda: rarefied_distinct_n(["a"], 1, 0), "budget=0: expected a number of draws of at least 1"),
        (lambda: ead(["a"], 1, 0), "vocabulary_size=0"),
        (lambda: TokenizedGroup(["a"], ngrams_module.TokenOptions()).ngrams(-1), "n=-1"),
    ],
)
def test_bad_arguments_are_named(measure, message):
    with pytest.raises(ValueError, match=message):
        measure()
