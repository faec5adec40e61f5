"""Rows to tables: groups, curves, matched draws and budgets, what is missing, and the JSON form."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from polychromic.diversity import distinct_n, load_embedder
from polychromic.evaluation import MeasureOptions, PromptTable, find_metric, measure_arms, measure_rows
from polychromic.evaluation.counting.formulas import expected_best
from polychromic.files import strict_json
from polychromic.records import GenerationRow, SamplingParameters

OPTIONS = MeasureOptions(pass_threshold=1.0)
COLD, WARM = SamplingParameters(temperature=0.7), SamplingParameters(temperature=1.0)


def make_row(prompt, index, text="a b c", *, sampling=WARM, **changes):
    row = GenerationRow(prompt, index, text, len(text.split()), "stop", sampling, 0, 1.0)
    return replace(row, **changes)


def test_metrics_of_a_small_group_by_hand():
    texts = ["x y", "x y", "x z", "w w"]  # too short for Self-BLEU
    rows = [
        make_row("p", index, text, reward=reward, cluster=cluster, finish=finish, judge=0.5)
        for index, (text, reward, cluster, finish) in enumerate(
            zip(
                texts,
                [1.0, 1.0, 1.0, 0.25],
                ["A", "A", "B", "C"],
                ["stop", "stop", "stop", "length"],
                strict=True,
            )
        )
    ]

    sampled = measure_rows(rows, OPTIONS).sampled["T=1"]

    expected = {
        "distinct_1": 4 / 8,
        "distinct_2": distinct_n(texts, 2),
        "clusters": 3.0,
        "distinct_correct": 2.0,
        "reward": 3.25 / 4,
        "best_of_n": 1.0,
        "judge": 0.5,
        "tokens": 2.0,
        "truncated": 0.25,
        "missing": 0.0,
    }
    for key, value in expected.items():
        assert sampled.metric(key) == pytest.approx([value]), key
    assert sampled.metric("self_bleu") is None
    assert sampled.metric("pass@1") == pytest.approx([0.75])
    assert sampled.metric("pass@2") == pytest.approx([1.0])
    # Of the six pairs one is {A, A}, two {A, B}, three hold C and one passing answer: (1 + 2·2 + 3·1) / 6.
    assert sampled.metric("distinct_correct@2") == pytest.approx([8 / 6])
    assert sampled.metric("distinct_correct@4") == pytest.approx([2.0])


def test_prompts_are_sorted_and_ways_of_sampling_kept_apart():
    rows = [make_row("q", 0, sampling=COLD), make_row("p", 0, sampling=WARM, reward=0.0)]

    table = measure_rows(rows, OPTIONS)

    assert table.prompts == ("p", "q")
    assert list(table.sampled) == ["T=0.7", "T=1"]
    np.testing.assert_array_equal(table.sampled["T=0.7"].metric("reward"), [np.nan, 1.0])
    np.testing.assert_array_equal(table.sampled["T=1"].metric("pass@1"), [0.0, np.nan])


def test_missing_rewards_stay_missing_and_are_counted():
    rows = [
        make_row("p", 0, reward=None, error="timeout"),
        make_row("p", 1, reward=None, error="timeout"),
        make_row("p", 2, reward=1.0),
        make_row("p", 3, reward=0.0),
    ]

    table = measure_rows(rows, OPTIONS)
    sampled = table.sampled["T=1"]

    assert table.missing == {"timeout": 2}
    assert sampled.metric("missing") == pytest.approx([0.5])
    assert sampled.metric("reward") == pytest.approx([0.5])
    assert sampled.metric("pass@2") == pytest.approx([1.0])
    assert np.isnan(sampled.curves["pass"][0, 2:]).all()
    assert sampled.metric("distinct_correct") is None


def test_without_a_checker_or_an_embedder_their_metrics_are_absent():
    rows = [make_row("p", index, f"text {index}", reward=None) for index in range(3)]

    sampled = measure_rows(rows, OPTIONS).sampled["T=1"]

    for key in ("reward", "pass@1", "distinct_correct", "best_of_n", "judge", "semantic_distance", "vendi"):
        assert sampled.metric(key) is None, key
    assert sampled.metric("clusters") == pytest.approx([3.0])


def test_an_embedder_adds_semantic_metrics_and_clusters():
    rows = [make_row("p", index, text) for index, text in enumerate(["the same", "the same", "ΩΩ другой текст"])]

    table = measure_rows(rows, OPTIONS, embedder=load_embedder("hash"))

    assert table.sampled["T=1"].metric("clusters") == pytest.approx([2.0])
    assert table.sampled["T=1"].metric("semantic_distance")[0] > 0.5
    assert "embedding distance up to 0.25 (hashed" in table.clusters
    assert "embedder:hashed" in table.signatures["vendi"]


def test_a_row_without_a_form_is_its_own_text_beside_rows_with_one():
    rows = [make_row("p", 0, "a", cluster="A"), make_row("p", 1, "b", cluster="A"), make_row("p", 2, "c")]

    table = measure_rows(rows, OPTIONS)

    assert table.sampled["T=1"].metric("clusters") == pytest.approx([2.0])
    assert table.clusters == "the task's canonical form"


def test_extra_metrics_join_by_prompt():
    rows = [make_row("p", 0), make_row("q", 0)]

    table = measure_rows(rows, OPTIONS, extra={"reference_perplexity": {"q": 12.5}})

    np.testing.assert_array_equal(table.sampled["T=1"].metric("reference_perplexity"), [np.nan, 12.5])
    extra = {("arm", 0): {"reference_perplexity": {"p": 3.0, "q": 12.5}}}
    tables = measure_arms({("arm", 0): rows, ("other", 0): rows}, pass_threshold=1.0, extra=extra)
    np.testing.assert_array_equal(tables["arm", 0].sampled["T=1"].metric("reference_perplexity"), [3.0, 12.5])
    assert tables["other", 0].sampled["T=1"].metric("reference_perplexity") is None


def test_a_generation_that_appears_twice_is_refused():
    with pytest.raises(ValueError, match=r"prompt 'p' has two generations of index 1 at T=1"):
        measure_rows([make_row("p", 1), make_row("p", 1)], OPTIONS)
    with pytest.raises(ValueError, match="at least one generation"):
        measure_rows([], OPTIONS)


def test_arms_are_matched_in_draws_and_in_bigrams():
    """One arm samples twice as often and talks longer; counted among as many draws it is no more diverse."""
    words = [f"w{index}" for index in range(8)]
    short = [make_row("p", i, " ".join(words[i % 4 : i % 4 + 2]), cluster=str(i % 4)) for i in range(4)]
    long = [make_row("p", i, " ".join(words[i % 4 : i % 4 + 5]), cluster=str(i % 4)) for i in range(8)]

    tables = measure_arms({("short", 0): short, ("long", 0): long}, pass_threshold=1.0)
    few, many = (tables[arm, 0].sampled["T=1"] for arm in ("short", "long"))

    assert few.metric("clusters") == pytest.approx([4.0])
    # Each of four clusters of two is missed by four of eight draws with chance C(6, 4) / C(8, 4) = 15 / 70.
    assert many.metric("clusters") == pytest.approx([4 * (1 - 15 / 70)])
    assert many.metric("distinct_correct") == pytest.approx([4 * (1 - 15 / 70)])
    assert few.metric("rarefied_distinct_2") == pytest.approx([1.0])
    assert "budget:4" in tables["long", 0].signatures["rarefied_distinct_2"]


def test_a_pool_gives_the_same_table():
    rows = [make_row(f"p{prompt}", index, f"{prompt} {index % 3} z") for prompt in range(70) for index in range(3)]

    with ThreadPoolExecutor(2) as pool:
        pooled = measure_rows(rows, OPTIONS, pool=pool)

    assert strict_json(pooled.to_json()) == strict_json(measure_rows(rows, OPTIONS).to_json())


def test_worker_processes_give_the_same_tables():
    rows = {("arm", 0): [make_row(f"p{prompt}", index, f"{prompt} {index}") for prompt in range(3) for index in (0, 1)]}

    spread, alone = (measure_arms(rows, pass_threshold=1.0, workers=workers) for workers in (2, 1))

    assert strict_json(spread["arm", 0].to_json()) == strict_json(alone["arm", 0].to_json())


def test_tables_survive_a_strict_json_file():
    rows = [make_row("p", 0, reward=None, error="e"), make_row("q", 0), make_row("q", 1)]
    table = measure_rows(rows, OPTIONS)

    back = PromptTable.from_json(json.loads(strict_json(table.to_json())))

    assert back.prompts == table.prompts
    assert back.missing == {"e": 1}
    for label, sampled in table.sampled.items():
        for key, values in sampled.values.items():
            np.testing.assert_array_equal(back.sampled[label].values[key], values)
        np.testing.assert_array_equal(back.sampled[label].curves["pass"], sampled.curves["pass"])
    with pytest.raises(ValueError, match="schema_version is 99"):
        PromptTable.from_json(table.to_json() | {"schema_version": 99})


@pytest.mark.parametrize("k", [1, 2, 3])
def test_expected_best_of_k_is_the_mean_over_subsets(k):
    from itertools import combinations

    rewards = np.array([0.2, 0.9, 0.9, 0.4])
    expected = np.mean([max(subset) for subset in combinations(rewards, k)])

    assert expected_best(np.append(rewards, np.nan), k) == pytest.approx(expected)
    assert math.isnan(expected_best(rewards, 5))


@pytest.mark.parametrize(
    ("key", "name", "best"),
    [
        ("pass@10", "Pass@10", 1.0),
        ("distinct_correct@8", "Distinct correct answers of 8", 8.0),
        ("self_bleu", "Self-BLEU", 0.0),
    ],
)
def test_metrics_are_found_by_key(key, name, best):
    assert (find_metric(key).name, find_metric(key).best) == (name, best)


@pytest.mark.parametrize("key", ["pass@0", "pass@", "distinct_4", "pass@1.5", ""])
def test_unknown_metrics_list_the_known_ones(key):
    with pytest.raises(ValueError, match=r"is not known; expected one of pass@K.*distinct_2"):
        find_metric(key)
