import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polychromic.diversity import (
    cosine_distances,
    semantic_distance,
    vendi_score,
    vendi_score_from_embeddings,
    vendi_scores,
)

shapes = st.tuples(st.integers(2, 12), st.integers(1, 12))


def vectors(shape, seed):
    return np.random.default_rng(seed).normal(size=shape)


@settings(deadline=None)
@given(shapes, st.integers(0, 2**32 - 1))
def test_semantic_distance_is_the_mean_over_pairs(shape, seed):
    embeddings = vectors(shape, seed)
    off_diagonal = ~np.eye(shape[0], dtype=bool)
    expected = cosine_distances(embeddings)[off_diagonal].mean()
    assert semantic_distance(embeddings) == pytest.approx(expected, abs=1e-12)


def test_semantic_distance_of_known_vectors():
    assert semantic_distance([[1, 0], [0, 2]]) == 1.0
    assert semantic_distance([[1, 0], [-3, 0]]) == 2.0
    assert semantic_distance([[0.6, 0.8]] * 5) == 0.0
    assert semantic_distance([[1, 0], [1, 1]]) == pytest.approx(1 - math.sqrt(0.5), abs=1e-15)


def test_too_few_rows_are_nan():
    assert math.isnan(semantic_distance([[1.0, 0.0]]))
    assert math.isnan(semantic_distance(np.empty((0, 3))))
    assert math.isnan(vendi_score_from_embeddings(np.empty((0, 3))))
    assert math.isnan(vendi_score(np.empty((0, 0))))


def test_cosine_distances_are_symmetric_with_a_zero_diagonal():
    distances = cosine_distances(vectors((6, 3), 0).astype(np.float32))
    assert (distances == distances.T).all()
    assert (np.diagonal(distances) == 0).all()
    assert distances.min() >= 0
    assert distances.max() <= 2


@settings(deadline=None)
@given(shapes, st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 2.0, 7.5, math.inf]))
def test_vendi_score_of_embeddings_is_that_of_their_kernel(shape, seed, q):
    embeddings = vectors(shape, seed)  # more rows than columns as well: the dual form
    kernel = 1 - cosine_distances(embeddings)
    score = vendi_score_from_embeddings(embeddings, q)
    # Where N > d the kernel has eigenvalues that are 0 up to rounding, of which small q magnifies the rest.
    assert score == pytest.approx(vendi_score(kernel, q), rel=1e-6)
    assert 1 - 1e-9 <= score <= min(shape) + 1e-9


def test_vendi_score_of_order_zero_counts_directions():
    assert vendi_score_from_embeddings([[1, 0, 0], [2, 0, 0], [0, 1, 0], [1, 1, 0]], q=0) == pytest.approx(2)
    assert vendi_score(np.ones((5, 5)), q=0) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(3, 5, 8), (3, 8, 5), (2, 0, 4)])
@pytest.mark.parametrize("q", [0.0, 1.0, 2.0, math.inf])
def test_many_groups_at_once_get_the_scores_of_each(shape, q):
    embeddings = vectors(shape, 7)
    expected = [vendi_score_from_embeddings(group, q) for group in embeddings]
    assert vendi_scores(embeddings, q).tolist() == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_vendi_score_is_continuous_at_order_one():
    kernel = [[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]]
    assert vendi_score(kernel, 1 - 1e-6) == pytest.approx(vendi_score(kernel, 1.0), abs=1e-5)
    assert vendi_score(kernel, 1 + 1e-6) == pytest.approx(vendi_score(kernel, 1.0), abs=1e-5)


@pytest.mark.parametrize("q", [300.0, 1e4, 1e12])
def test_large_orders_do_not_underflow(q):
    # (1/3)^1000 is 0 in double precision, which gave an infinite number of items.
    assert vendi_score(np.eye(3), q) == pytest.approx(3.0, rel=1e-12)
    kernel = [[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]]
    assert vendi_score(kernel, q) == pytest.approx(vendi_score(kernel, math.inf), rel=2 / q)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.999, 1.0, 1.001, 2.0, 7.0]))
def test_vendi_score_is_the_textbook_formula(n, seed, q):
    shares = np.random.default_rng(seed).dirichlet(np.ones(n))
    entropy = -(shares * np.log(shares)).sum() if q == 1 else np.log((shares**q).sum()) / (1 - q)
    # Items that are all different, with unequal weights, have those weights as eigenvalues.
    assert vendi_score(np.eye(n), q, weights=shares) == pytest.approx(math.exp(entropy), rel=1e-9)


def test_two_equal_halves_weigh_like_one_item():
    twice = [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert vendi_score(twice, weights=[0.25, 0.25, 0.5]) == pytest.approx(2.0, abs=1e-12)
    assert vendi_score(twice, weights=[0.0, 0.5, 0.5]) == pytest.approx(2.0, abs=1e-12)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.5, -0.5, 0.0], [0.5, 0.5, 0.5], [math.nan, 0.5, 0.5]])
def test_weights_that_are_no_shares_are_refused(weights):
    with pytest.raises(ValueError, match="expected 3 shares"):
        vendi_score(np.eye(3), weights=weights)


@settings(deadline=None)
@given(shapes, st.integers(0, 2**32 - 1))
def test_higher_orders_count_fewer_items(shape, seed):
    scores = [vendi_score_from_embeddings(vectors(shape, seed), q) for q in (0, 0.5, 1, 2, math.inf)]
    assert all(higher <= lower + 1e-9 for lower, higher in pairwise(scores))


def test_single_precision_kernels_are_accepted():
    unit = vectors((40, 8), 3).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    kernel = unit @ unit.T  # rank 8: 32 eigenvalues are rounding, some below zero
    assert vendi_score(kernel) == pytest.approx(vendi_score_from_embeddings(unit), abs=1e-3)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ([[1, 2], [2, 1]], "not positive semi-definite: its smallest eigenvalue is -1"),
        ([[1, 0.2], [0.4, 1]], "not symmetric"),
        ([[1, 0], [0, 2]], r"kernel\[1, 1\]=2: expected 1"),
        ([[1, math.nan], [math.nan, 1]], "nan or infinite"),
        (np.ones((3, 2)), r"shape \(3, 2\).*vendi_score_from_embeddings"),
    ],
)
def test_what_is_no_kernel_is_refused(kernel, message):
    with pytest.raises(ValueError, match=message):
        vendi_score(kernel)


@pytest.mark.parametrize("q", [-1, math.nan])
def test_an_order_below_zero_is_refused(q):
    with pytest.raises(ValueError, match=f"q={q}: expected an order"):
        vendi_score(np.eye(2), q)


@pytest.mark.parametrize("measure", [semantic_distance, vendi_score_from_embeddings, cosine_distances])
@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        ([[1, 0], [0, 0]], r"embeddings\[1\] has length 0"),
        ([[math.nan, 0], [1, 0]], r"embeddings\[0\] has length nan"),
        ([1.0, 0.0], r"shape \(2,\)"),
    ],
)
def test_a_row_without_direction_is_refused(measure, embeddings, message):
    with pytest.raises(ValueError, match=message):
        measure(embeddings)
