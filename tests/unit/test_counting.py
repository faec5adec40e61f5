"""Measures that follow from a partition: literal values, NoveltyBench's own, closed forms against enumeration."""

import json
import math
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polychromic.diversity import expected_clusters
from polychromic.diversity.equivalence import MISSING
from polychromic.evaluation import (
    find_metric,
    hill_number,
    majority_curve,
    pair_sameness,
    pass_at_k,
    utility_curve,
    utility_k,
)
from polychromic.evaluation.counting.curves import CURVES, Counted, curves_of, key_at_k, split_at_k
from polychromic.evaluation.counting.formulas import (
    MOST_VOTES,
    all_pass_at_k,
    all_pass_at_k_curve,
    auc_at_k_curve,
    distinct_curve,
    pass_at_k_curve,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "noveltybench_rouge.json").read_text())
LABELS = [0, 0, 0, 1, 1, 2]

groups = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
        st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=n, max_size=n),
    )
)


@pytest.mark.parametrize("case", VECTORS["utility_cases"], ids=lambda case: case["id"])
def test_utility_is_that_of_noveltybench(case):
    """The scores of a case are 0 where an answer was given before; without its labels each is one of its own."""
    labels = case.get("partition", list(range(len(case["generation_scores"]))))

    assert utility_k(labels, case["generation_scores"]) == pytest.approx(case["utility"], abs=1e-6)
    if "partition" in case:
        assert distinct_curve(labels, len(labels))[-1] == case["distinct_k_true"]


def test_utility_counts_a_repeated_answer_as_nothing_whatever_its_score():
    # (1 + 0.8 · 0 + 0.64 · 0.5) / (1 + 0.8 + 0.64)
    assert utility_k([0, 0, 1], [1.0, 1.0, 0.5]) == pytest.approx(1.32 / 2.44)
    assert utility_k([0, 0, 1], [1.0, math.nan, 0.5]) == pytest.approx(1.32 / 2.44)
    assert math.isnan(utility_k([], []))
    with pytest.raises(ValueError, match="patience=0"):
        utility_k([0], [1.0], patience=0.0)


@settings(deadline=None)
@given(groups)
def test_expected_utility_is_the_mean_over_all_orders(group):
    labels, scores = map(np.array, group)
    orders = [list(order) for order in permutations(range(len(labels)))]

    curve = utility_curve(labels, scores, len(labels) + 1)

    for k in range(1, len(labels) + 1):
        each = [utility_k(labels[order[:k]], scores[order[:k]]) for order in orders]
        assert curve[k - 1] == pytest.approx(np.mean(each), abs=1e-12)
    assert math.isnan(curve[-1])


@settings(deadline=None)
@given(groups)
def test_counts_among_k_are_means_over_all_subsets(group):
    labels, scores = map(np.array, group)
    n, passing = len(labels), scores >= 1.0
    answers = Counted(scores, passing, labels)
    curves = curves_of(answers)

    for k in range(1, n + 1):
        subsets = [list(subset) for subset in combinations(range(n), k)]
        expected = {
            "pass": np.mean([passing[one].any() for one in subsets]),
            "all_pass": np.mean([passing[one].all() for one in subsets]),
            "distinct": np.mean([len(set(labels[one])) for one in subsets]),
            "distinct_correct": np.mean([len(set(labels[one][passing[one]])) for one in subsets]),
            "coverage": np.mean([len(set(labels[one][passing[one]])) / k for one in subsets]),
            "maj": np.mean([vote(labels[one], passing[one]) for one in subsets]),
        }
        for name, value in expected.items():
            assert curves[name][k - 1] == pytest.approx(value, abs=1e-12), (name, k)


def vote(labels, passing):
    """Returns the chance that the vote passes: a cluster with the most votes by lot, and one of its answers by lot."""
    values, counts = np.unique(labels, return_counts=True)
    return np.mean([passing[labels == value].mean() for value in values[counts == counts.max()]])


def test_votes_by_hand():
    labels, passing = [0, 0, 0, 1, 1, 2], [False, False, False, True, True, True]

    curve = majority_curve(labels, passing, 6)

    # Of C(6, 3) = 20 triples 000 and 00x (1 + 3·3 = 10) fail, 11x (4) pass, the 6 of three different pass 2 times in 3.
    assert curve[2] == pytest.approx((4 + 6 * 2 / 3) / 20)
    # One vote is a single answer, and all six go to the wrong one.
    assert (curve[0], curve[5]) == (pytest.approx(0.5), 0.0)
    assert majority_curve([0, 1, 2], [True, False, False], 3) == pytest.approx([1 / 3] * 3)
    assert np.isnan(majority_curve([], [], 2)).all()


def test_many_votes_approach_the_answer_that_is_most_likely():
    """Condorcet: at 60 % right, one wrong answer, the vote of 64 of 1000 is nearly always right; 3 by the textbook."""
    labels = [0] * 600 + [1] * 400

    curve = majority_curve(labels, [label == 0 for label in labels], 100)

    n3 = math.comb(1000, 3)
    assert curve[2] == pytest.approx((math.comb(600, 3) + math.comb(600, 2) * 400) / n3, rel=1e-12)
    assert 0.94 < curve[MOST_VOTES - 1] < 0.96
    assert np.isnan(curve[MOST_VOTES:]).all()


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (0, 3.0),
        (1, math.exp(-(1 / 2 * math.log(1 / 2) + 1 / 3 * math.log(1 / 3) + 1 / 6 * math.log(1 / 6)))),
        (2, 36 / (9 + 4 + 1)),
        (3, (216 / (27 + 8 + 1)) ** 0.5),
    ],
)
def test_hill_numbers_of_three_two_and_one(q, expected):
    assert hill_number(LABELS, q) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.integers(1, 7))
def test_hill_numbers_among_k_come_from_the_expected_counts_of_all_subsets(labels, k):
    if k > len(labels):
        assert math.isnan(hill_number(labels, 1, k))
        return
    subsets = list(combinations(labels, k))
    counts = [np.unique(one, return_counts=True)[1] for one in subsets]

    assert hill_number(labels, 0, k) == pytest.approx(expected_clusters(labels, k), abs=1e-9)
    entropy = np.mean([-(c / k * np.log(c / k)).sum() for c in counts])
    assert hill_number(labels, 1, k) == pytest.approx(math.exp(entropy), abs=1e-9)
    assert hill_number(labels, 2, k) == pytest.approx(1 / np.mean([(c**2).sum() / k**2 for c in counts]), abs=1e-9)
    assert hill_number(labels, 0, k) + 1e-9 >= hill_number(labels, 1, k) >= hill_number(labels, 2, k) - 1e-9


def test_hill_numbers_of_few_answers_are_too_low_and_sameness_is_not():
    """Ten answers that are equally likely: eight draws show fewer, and the pairs agree one time in ten on average."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, 10, (4000, 8))

    effective = [np.mean([hill_number(one, q) for one in draws[:500]]) for q in (0, 1, 2)]

    assert max(effective) < 6.0
    assert np.mean([pair_sameness(one) for one in draws]) == pytest.approx(0.1, abs=0.004)


def test_hill_numbers_refuse_what_is_no_order():
    for q in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="expected a finite order"):
            hill_number(LABELS, q)
    assert math.isnan(hill_number([], 1))


def test_sameness_of_pairs_by_hand():
    assert pair_sameness(LABELS) == pytest.approx((3 + 1) / 15)
    assert pair_sameness([0, 1]) == 0.0
    assert math.isnan(pair_sameness([0]))


def test_area_under_pass_at_k():
    # pass@1..3 of one right answer in four: 1/4, 1/2, 3/4; trapezoids 3/8 and 5/8.
    curve = auc_at_k_curve(pass_at_k_curve(4, 1, 5))

    assert curve[:3] == pytest.approx([1 / 4, 3 / 8, 1 / 2])
    assert math.isnan(curve[4])
    assert curve[3] == pytest.approx(np.trapezoid([pass_at_k(4, 1, k) for k in (1, 2, 3, 4)]) / 3)


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_all_pass_curve_is_the_exact_fraction(counts):
    n, c = counts

    assert all_pass_at_k_curve(n, c, n) == pytest.approx([all_pass_at_k(n, c, k) for k in range(1, n + 1)], abs=1e-12)
    assert math.isnan(all_pass_at_k_curve(n, c, n + 1)[-1])


def test_answers_without_a_reward_or_a_label_are_left_out_and_their_k_is_undefined():
    rewards = np.array([1.0, 1.0, math.nan, 0.0])
    curves = curves_of(Counted(rewards, rewards >= 1.0, np.array([0, MISSING, 1, 2])))

    n_defined = {name: int((~np.isnan(curve)).sum()) for name, curve in curves.items()}
    assert n_defined == {
        "pass": 3, "distinct_correct": 2, "coverage": 2, "distinct": 3, "utility": 2, "auc": 3, "all_pass": 3, "maj": 2,
    }  # fmt: skip
    assert curves["distinct"][2] == 3.0
    # The right one first or last: (1 + 0) / 1.8 and (0 + 0.8) / 1.8.
    assert curves["utility"][1] == pytest.approx(0.5)
    assert curves["maj"][1] == pytest.approx(0.5)
    nothing = np.full(2, math.nan)
    for name, curve in curves_of(Counted(nothing, nothing >= 1.0, np.array([0, 0]))).items():
        assert name == "distinct" or np.isnan(curve).all(), name


def test_every_curve_has_a_key_that_is_read_back():
    for name, one in CURVES.items():
        assert split_at_k(key_at_k(name, 12)) == (name, 12)
        metric = find_metric(key_at_k(name, 2))
        assert (metric.sign, metric.best) == (1.0, 2.0 if one.grows else 1.0)
        told = f"{metric.name} {metric.meaning} {metric.subject} {metric.signature.format(same='x')}"
        assert "{" not in told
    assert split_at_k("pass^8") == ("all_pass", 8)
    assert split_at_k("other@8") is None
    with pytest.raises(ValueError, match="maj@K is computed for K up to 64"):
        find_metric("maj@65")
