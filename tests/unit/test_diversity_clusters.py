import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polychromic.diversity import (
    cluster_by_embedding,
    cluster_by_form,
    cluster_by_judge,
    cluster_by_text,
    cosine_distances,
    expected_clusters,
    label_codes,
    n_clusters,
)


def test_labels_count_up_in_order_of_first_appearance():
    labels = label_codes(["x", None, "x", 3, None])
    assert labels.tolist() == [0, 1, 0, 2, 1]
    assert labels.dtype == np.int64


def test_text_and_form():
    texts = ["1 + 2", "2 + 1", "1+2", "1 + 2"]
    assert cluster_by_text(texts).tolist() == [0, 1, 2, 0]
    assert cluster_by_form(texts, lambda text: frozenset(text.replace(" ", ""))).tolist() == [0, 0, 0, 0]


def directions(degrees):
    return [[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in degrees]


def test_no_chain_of_neighbours_joins_strangers():
    # Neighbours are 10° apart; single linkage would join all nine, whose ends are at right angles.
    labels = cluster_by_embedding(directions(range(0, 90, 10)), threshold=math.cos(math.radians(25)))
    assert n_clusters(labels) >= 3


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(-1, 1))
def test_all_pairs_of_a_cluster_reach_the_threshold(n, seed, threshold):
    embeddings = np.random.default_rng(seed).normal(size=(n, 3))
    labels, distances = cluster_by_embedding(embeddings, threshold), cosine_distances(embeddings)
    for i, j in combinations(range(n), 2):
        if labels[i] == labels[j]:
            assert 1 - distances[i, j] >= threshold - 1e-8
    # Nor are two clusters left apart that could be one.
    for a, b in combinations(range(n_clusters(labels)), 2):
        assert distances[np.ix_(labels == a, labels == b)].max() > 1 - threshold - 1e-8


def test_the_ends_of_the_threshold():
    embeddings = np.array([[1, 0], [0.3, 0.4], [3, 4], [-1, 0]], dtype=np.float32)
    assert cluster_by_embedding(embeddings, 1.0).tolist() == [0, 1, 1, 2]
    assert cluster_by_embedding(embeddings, -1.0).tolist() == [0, 0, 0, 0]
    assert cluster_by_embedding(embeddings[:1], 0.9).tolist() == [0]
    assert cluster_by_embedding(embeddings[:0], 0.9).tolist() == []
    with pytest.raises(ValueError, match=r"threshold=1\.5: expected a cosine"):
        cluster_by_embedding(embeddings, 1.5)


def test_a_judge_sees_each_cluster_once():
    calls = []

    def same(first, second):
        calls.append((first, second))
        return first[0] == second[0]

    assert cluster_by_judge(["ax", "bx", "ay", "by", "c"], same).tolist() == [0, 1, 0, 1, 2]
    assert calls == [("ax", "bx"), ("ax", "ay"), ("ax", "by"), ("bx", "by"), ("ax", "c"), ("bx", "c")]


@given(st.lists(st.integers(0, 3), max_size=7), st.integers(1, 5))
def test_expected_clusters_is_the_mean_over_all_draws(labels, k):
    draws = [len(set(draw)) for draw in combinations(labels, k)]
    expected = np.mean(draws) if draws else math.nan
    assert expected_clusters(np.array(labels, dtype=int), k) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_an_empty_group_has_no_cluster():
    assert n_clusters(cluster_by_text([])) == 0
    assert math.isnan(expected_clusters([], 1))
