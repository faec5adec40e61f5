"""Nothing is gained by answering more or less often, or at another length, than the baseline."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychromic.evaluation import (
    Criterion,
    Resampling,
    at_equal_length,
    compare,
    find_metric,
    measure_arms,
)
from polychromic.evaluation.lengths import cut_to_equal_lengths
from polychromic.records import GenerationRow, SamplingParameters

QUICK = Resampling(bootstraps=1000, sign_patterns=2000)
LEVELS = {
    "minimum": [Criterion("distinct_2", "higher", 0.12), Criterion("self_bleu", "lower", 0.1)],
}
TEXT_MEASURES = ("distinct_1", "distinct_2", "distinct_3", "self_bleu", "rouge_l", "compression_ratio")


def rows_of(seed, *, n_answers, n_words=8, n_prompts=40, vocabulary=12):
    """Words drawn from one small vocabulary, whatever the number of answers and their length."""
    rng = np.random.default_rng(seed)
    return [
        GenerationRow(
            f"p{prompt:02d}",
            index,
            " ".join(f"w{rng.integers(vocabulary)}" for _ in range(n_words)),
            n_words,
            "stop",
            SamplingParameters(),
            0,
            1.0,
        )
        for prompt in range(n_prompts)
        for index in range(n_answers)
    ]


def compared(rows, **options):
    tables = measure_arms(rows, pass_threshold=1.0)
    return compare(tables, baseline="baseline", criteria=LEVELS, resampling=QUICK, **options)


def length_texts(comparison):
    return [warning.text for warning in comparison.warnings if warning.kind == "length"]


def test_an_arm_with_fewer_answers_is_not_more_diverse_for_it():
    """Past bug: four answers of a prompt against sixteen from the very same source "met" Distinct-2 +12 % by +94 %."""
    comparison = compared(
        {("baseline", 0): rows_of(1, n_answers=16), ("few", 0): rows_of(2, n_answers=4)},
    )
    for key in TEXT_MEASURES:
        found = comparison.contrast("few", key)
        assert abs(found.relative_difference) < 0.1, key
        assert found.p_value > 0.01, key
    assert comparison.verdict.status == "not met"
    assert "k:4" in comparison.signatures["self_bleu"]
    (warning,) = [one for one in comparison.warnings if one.kind == "number of answers"]
    assert "baseline (16): measures of texts see the first 4 of each prompt" in warning.text


def test_hill_numbers_are_of_as_many_answers_in_every_arm():
    """Past bug: of ten answers equally likely 8 draws showed 5.0, and 8 among 48 from the same source 4.7."""
    many, few = (rows_of(seed, n_answers=n, n_words=1, n_prompts=200, vocabulary=10) for seed, n in ((1, 48), (2, 8)))
    comparison = compared({("baseline", 0): many, ("few", 0): few})

    for arm in ("baseline", "few"):
        assert comparison.mean(arm, "hill_2").mean == pytest.approx(5.0, abs=0.2), arm
    for key in ("clusters", "hill_1", "hill_2"):
        assert comparison.contrast("few", key).p_value > 0.01, key
    assert "of:first k" in comparison.signatures["hill_2"]


def test_pass_rates_use_all_answers_where_the_measures_of_texts_may_not():
    tables = measure_arms(
        {("baseline", 0): rows_of(1, n_answers=16), ("few", 0): rows_of(2, n_answers=4)}, pass_threshold=1.0
    )
    assert tables["baseline", 0].sampled["T=1"].metric("pass@16") is not None
    assert tables["few", 0].sampled["T=1"].metric("pass@5") is None


def test_equal_numbers_of_answers_need_no_warning():
    comparison = compared({("baseline", 0): rows_of(1, n_answers=4), ("same", 0): rows_of(2, n_answers=4)})
    assert not [one for one in comparison.warnings if one.kind == "number of answers"]


def test_a_few_prompts_with_fewer_answers_are_left_out_of_the_measures_of_texts():
    rows = rows_of(1, n_answers=8)
    short = [row for row in rows if row.prompt_id != "p00" or row.index < 3]
    table = measure_arms({("arm", 0): short}, pass_threshold=1.0)["arm", 0]
    values = table.sampled["T=1"].metric("self_bleu")
    assert table.answers == 8
    assert np.isnan(values).tolist() == [True, *[False] * 39]


def test_every_difference_that_only_length_makes_is_flagged():
    """Distinct-1, Self-BLEU and compression of short texts look better; at equal lengths nothing is left of it."""
    rows = {
        ("baseline", 0): rows_of(1, n_answers=6, n_words=16),
        ("short", 0): rows_of(2, n_answers=6, n_words=6),
    }
    equal = at_equal_length(rows, baseline="baseline", primary_sampling="T=1")
    comparison = compared(rows, equal_length=equal)
    flagged = [text for text in length_texts(comparison) if "vanishes when length is matched" in text]
    for name in ("Distinct-1", "Distinct-2", "Compression ratio"):
        assert comparison.contrast("short", "distinct_1").p_value < 0.01
        assert any(text.startswith(f"short: {name} ") for text in flagged), (name, flagged)
    assert any("with texts cut to equal lengths" in text for text in flagged)
    written = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert {one["metric"] for one in written["equal_length"]} >= set(TEXT_MEASURES)


def test_a_difference_that_stays_at_equal_length_is_not_flagged():
    rows = {
        ("baseline", 0): rows_of(1, n_answers=6, n_words=6, vocabulary=5),
        ("rich", 0): rows_of(2, n_answers=6, n_words=9, vocabulary=60),
    }
    equal = at_equal_length(rows, baseline="baseline", primary_sampling="T=1")
    texts = length_texts(compared(rows, equal_length=equal))
    assert not [text for text in texts if "vanishes" in text]


def test_arms_of_one_length_are_not_measured_twice():
    rows = {("baseline", 0): rows_of(1, n_answers=4), ("same", 0): rows_of(2, n_answers=4)}
    assert at_equal_length(rows, baseline="baseline", primary_sampling="T=1") == {}


def test_seeds_and_prompts_are_paired_at_equal_length():
    rows = {
        ("baseline", 0): rows_of(1, n_answers=4, n_words=4, n_prompts=5),
        ("baseline", 1): rows_of(2, n_answers=4, n_words=4, n_prompts=5),
        ("long", 1): rows_of(3, n_answers=4, n_words=9, n_prompts=7),
        ("long", 2): rows_of(4, n_answers=4, n_words=9, n_prompts=7),
        ("untrained", 0): rows_of(5, n_answers=4, n_words=9, n_prompts=5),
    }
    equal = at_equal_length(rows, baseline="baseline", primary_sampling="T=1")
    assert [cells.shape for cells in equal["long", "self_bleu"]] == [(1, 5), (1, 5)]
    assert [cells.shape for cells in equal["untrained", "self_bleu"]] == [(2, 5), (2, 5)]
    pooled = at_equal_length(rows, baseline="baseline", primary_sampling="T=1", workers=2)
    assert np.array_equal(pooled["long", "distinct_1"][0], equal["long", "distinct_1"][0])


@given(*[st.lists(st.text(alphabet="ab \n", max_size=12), min_size=1, max_size=6)] * 2)
def test_cut_texts_have_the_same_lengths_and_start_as_they_did(a, b):
    cut_a, cut_b = cut_to_equal_lengths(a, b)
    lengths_a, lengths_b = (sorted(len(text.split()) for text in cut) for cut in (cut_a, cut_b))
    assert lengths_a == lengths_b
    for before, after in zip(a, cut_a, strict=False):
        assert " ".join(before.split()).startswith(after)
    # No text of the arm that is shorter everywhere loses a word.
    n = min(len(a), len(b))
    of_a, of_b = (sorted(len(text.split()) for text in texts[:n]) for texts in (a, b))
    assert lengths_a == [min(pair) for pair in zip(of_a, of_b, strict=True)]


@pytest.mark.parametrize("key", ["pass@20", "distinct_correct@20"])
def test_more_draws_than_answers_says_how_many_answers_it_takes(key):
    """Past bug: Pass@20 of ten answers was said to need a checker, which was there."""
    assert find_metric(key).needs == "a checker, and at least 20 judged answers a prompt"
