import math
import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from polychromic.diversity import rouge_l, self_bleu, self_bleu_each

method1 = SmoothingFunction().method1


def nltk_scores(texts, max_n):
    tokens = [text.split() for text in texts]
    return [
        sentence_bleu(tokens[:i] + tokens[i + 1 :], tokens[i], (1 / max_n,) * max_n, method1)
        for i in range(len(tokens))
    ]


def generated_groups(count, seed=20240504):
    """Groups of 2 to 8 texts over few or many words, some empty, of one token, repeated, or in other scripts."""
    rng = random.Random(seed)
    words = ["the", "The", "a", "naïve", "日本", "мир", "👍🏽", "e\u0301", "x.", "ﬁ", "\ud83d", "0"]
    for _ in range(count):
        kinds = words[: rng.choice([1, 2, 4, 12])]
        lengths = rng.choice([(0, 1), (0, 3), (1, 6), (0, 12), (8, 20)])
        texts = [" ".join(rng.choices(kinds, k=rng.randint(*lengths))) for _ in range(rng.randint(2, 8))]
        if rng.random() < 0.2:
            texts[0] = texts[-1]
        yield texts, rng.choice([1, 2, 3, 4, 4, 4, 5])


def test_self_bleu_equals_nltk_on_2000_generated_groups():
    compared = empty_among_others = one_token = other_scripts = 0
    for texts, max_n in generated_groups(2000):
        scores = self_bleu_each(texts, max_n)
        if not any(texts):
            assert math.isnan(self_bleu(texts, max_n))
            continue
        np.testing.assert_allclose(scores, nltk_scores(texts, max_n), rtol=0, atol=1e-12)
        compared += 1
        empty_among_others += "" in texts
        one_token += any(len(text.split()) == 1 for text in texts)
        other_scripts += not "".join(texts).isascii()
    assert compared > 1900
    assert min(empty_among_others, one_token, other_scripts) > 300


def test_self_bleu_of_equal_texts_is_one_from_max_n_tokens_on():
    assert self_bleu(["a b c d"] * 3) == 1.0
    # Three of four precisions have no n-gram to match and become 0.1: a property of method1 that the guide names.
    assert self_bleu(["yes", "yes"]) == pytest.approx(0.1**0.75, abs=1e-15)


@pytest.mark.parametrize("texts", [[], ["a b c"], ["", ""], ["", "  "]])
def test_self_bleu_is_undefined_without_two_texts_or_any_token(texts):
    assert math.isnan(self_bleu(texts))
    assert len(self_bleu_each(texts)) == 0


def test_an_empty_text_among_others_scores_zero_as_in_nltk():
    assert self_bleu_each(["a b c d", "", "a b c d"]).tolist() == [1.0, 0.0, 1.0]


def test_max_n_below_one_is_refused():
    with pytest.raises(ValueError, match="max_n=0"):
        self_bleu(["a", "b"], 0)


texts_of_few_words = st.lists(st.lists(st.sampled_from("abc"), max_size=6).map(" ".join), max_size=6)


@settings(deadline=None)
@given(texts_of_few_words, st.randoms())
def test_the_order_of_generations_does_not_matter(texts, rng):
    shuffled = rng.sample(texts, len(texts))
    assert self_bleu(shuffled) == pytest.approx(self_bleu(texts), abs=1e-12, nan_ok=True)
    assert rouge_l(shuffled) == pytest.approx(rouge_l(texts), abs=1e-12, nan_ok=True)


def longest_common_subsequence(first, second):
    lengths = [0] * (len(second) + 1)
    for token in first:
        previous = lengths
        lengths = [0]
        for i, other in enumerate(second):
            lengths.append(previous[i] + 1 if token == other else max(previous[i + 1], lengths[i]))
    return lengths[-1]


@settings(deadline=None)
@given(texts_of_few_words)
def test_rouge_l_is_the_mean_f1_over_pairs_with_a_token(texts):
    scores = [
        2 * longest_common_subsequence(first.split(), second.split()) / len(first.split() + second.split())
        for first, second in combinations(texts, 2)
        if first or second
    ]
    expected = np.mean(scores) if scores else math.nan
    assert rouge_l(texts) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_rouge_l_tells_different_from_identical():
    assert rouge_l(["a b c"] * 4) == 1.0
    assert rouge_l(["a b", "c d", "e f"]) == 0.0


@pytest.mark.parametrize("texts", [[], ["a b"], ["", ""]])
def test_rouge_l_is_undefined_without_a_pair(texts):
    assert math.isnan(rouge_l(texts))


def test_rouge_tokens_see_no_other_alphabet():
    assert rouge_l(["Мир, людям!", "мир людям"], lowercase=True) == 0.0
    assert math.isnan(rouge_l(["Мир, людям!", "мир людям"], tokens="rouge"))
    assert rouge_l(["So many people!", "so MANY people"], tokens="rouge") == 1.0
