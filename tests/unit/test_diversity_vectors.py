"""Every reference output in tests/vectors that is about diversity; the file names the tool each came from.

Outputs of other definitions are checked where ours can express them (another tokenizer, a mean over pairs).
Known-wrong outputs (0.0 where no n-gram exists, single precision that reads out of bounds, an ignored q) are not.
"""

import json
import math
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from polychromic.diversity import (
    as_labels,
    cluster_by_judge,
    compression_ratio,
    distinct_n,
    ead,
    load_embedder,
    n_clusters,
    rouge_l,
    self_bleu,
    self_bleu_each,
    semantic_distance,
    vendi_score,
    vendi_score_from_embeddings,
)
from polychromic.diversity.ngrams import rouge_words

FOLDER = Path(__file__).parent.parent / "vectors"


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


GROUPS = load("inputs")["groups"]
DISTINCT = load("distinct_n")["cases"]
BLEU = load("self_bleu")["cases"]
COMPRESSION = load("compression")["cases"]
VENDI = load("vendi_embedding")
NOVELTY = load("noveltybench_rouge")
ORDERS = {"q0.5": 0.5, "q1": 1.0, "q2": 2.0, "qinf": math.inf}

by_group = pytest.mark.parametrize("name", GROUPS)
close = pytest.approx


def expected_distinct(value):
    # The reference gives 0.0 where a group has no n-gram of the length; nothing was measured there.
    return close(value, abs=1e-6) if value else close(math.nan, nan_ok=True)


@by_group
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_distinct_n(name, n):
    texts, case = GROUPS[name], DISTINCT[name]
    assert distinct_n(texts, n) == expected_distinct(case["distinct_pooled_ws"][str(n)])
    assert distinct_n(texts, n, lowercase=True) == expected_distinct(case["distinct_pooled_ws_lower"][str(n)])
    assert ead(texts, n, 50257) == expected_distinct(case["ead_ws_V50257"][str(n)])
    # Tevet's tokens are split at spaces after full stops are taken out.
    without_stops = [text.replace(".", "") for text in texts]
    assert distinct_n(without_stops, n) == expected_distinct(case["gt_distinct"][str(n)])
    each = [distinct_n([text], n) for text in texts if len(text.split()) >= n]
    assert (np.mean(each) if each else math.nan) == expected_distinct(case["distinct_perresp_ws"][str(n)])


@by_group
def test_ngram_diversity_is_a_sum_over_joined_texts(name):
    joined = [" ".join(GROUPS[name])]
    total = sum(distinct_n(joined, n) for n in (1, 2, 3, 4))
    assert round(total, 3) == close(DISTINCT[name]["cshaib_ngram_diversity_n4"], abs=1e-6)


@by_group
def test_self_bleu(name):
    texts, case = GROUPS[name], BLEU[name]
    for n in (2, 3, 4, 5):
        expected = case[f"nltk_m1_{n}"]
        assert self_bleu(texts, n) == close(math.nan if expected is None else expected, abs=1e-6, nan_ok=True)
    assert self_bleu_each(texts).tolist() == close(case["nltk_m1_4_per_response"], abs=1e-6)
    if case["nltk_m1_4_lower"] is not None:
        assert self_bleu(texts, lowercase=True) == close(case["nltk_m1_4_lower"], abs=1e-6)
        pairs = [self_bleu(pair) for pair in combinations(texts, 2)]
        assert np.mean(pairs) == close(case["pairwise_nltk4"], abs=1e-6)


@by_group
def test_compression_ratio(name):
    assert compression_ratio(GROUPS[name]) == close(COMPRESSION[name]["zlib_l9_net"], abs=1e-6)


@pytest.mark.parametrize("name", NOVELTY["groups"])
def test_rouge_l(name):
    expected = NOVELTY["groups"][name]["mean_pairwise_rougeL_f"]
    assert rouge_l(GROUPS[name], tokens="rouge") == close(expected, abs=1e-6)


def rouge_1_matches(first, second):
    """NoveltyBench's unigram test of sameness: ROUGE-1 F above 0.458."""
    first, second = Counter(rouge_words(first)), Counter(rouge_words(second))
    return 2 * (first & second).total() / (first.total() + second.total()) > 0.458


@pytest.mark.parametrize("name", NOVELTY["groups"])
def test_partition_by_a_callers_judge(name):
    labels = cluster_by_judge(GROUPS[name], rouge_1_matches)
    assert labels.tolist() == NOVELTY["groups"][name]["rouge1_partition"]


@pytest.mark.parametrize("case", [case for case in NOVELTY["utility_cases"] if "partition" in case])
def test_number_of_clusters_of_a_given_partition(case):
    assert n_clusters(case["partition"]) == case["distinct_k_true"]
    assert as_labels(case["partition"]).tolist() == case["partition"]


@pytest.mark.parametrize("case", VENDI["kernel_cases"], ids=lambda case: case["id"])
@pytest.mark.parametrize("order", ORDERS)
def test_vendi_score_of_a_kernel(case, order):
    assert vendi_score(case["K"], ORDERS[order]) == close(case[order], abs=1e-6)


@pytest.mark.parametrize("case", VENDI["X_cases"])
def test_vendi_score_of_vectors_uses_q(case):
    assert vendi_score_from_embeddings(case["X"]) == close(case["score_X_q1"], abs=1e-6)
    assert vendi_score_from_embeddings(case["X"], q=2) == close(case["score_dual_q2_correct"], abs=1e-6)


@pytest.mark.network
@pytest.mark.filterwarnings("default")  # loading third-party weights may warn; the values below decide
@by_group
def test_pinned_embeddings(name, tmp_path_factory):
    embedder = load_embedder("minilm", cache_folder=tmp_path_factory.mktemp("embeddings"))
    embeddings, case = embedder.encode(GROUPS[name]), VENDI["embedding_cases"][name]
    for order, q in ORDERS.items():
        assert vendi_score_from_embeddings(embeddings, q) == close(case[f"vendi_{order}"], abs=1e-4)
    distance = case.get("mean_pairwise_cos_distance", math.nan)
    assert semantic_distance(embeddings) == close(distance, abs=1e-4, nan_ok=True)
    if name == "identical3":
        first = VENDI["embedding_model"]["first5_of_identical3[0]"]
        assert embeddings[0, :5].tolist() == close(first, abs=1e-4)
