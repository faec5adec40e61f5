"""Every reference output in tests/vectors that is about diversity; the file names the tool each came from.

Outputs of other definitions are checked where ours can express them (another tokenizer, a mean over pairs).
LEFT_OUT names those that are not, each with its reason; a test holds that no output is missing from both.
"""

import json
import math
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from polychromic.diversity import (
    cluster_by_judge,
    compression_ratio,
    cosine_distances,
    distinct_n,
    ead,
    label_codes,
    load_embedder,
    n_clusters,
    rouge_l,
    self_bleu,
    self_bleu_each,
    semantic_distance,
    tokenize,
    vendi_score,
    vendi_score_from_embeddings,
)
from polychromic.diversity.lexical import rouge_words

FOLDER = Path(__file__).parent.parent / "vectors"


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


GROUPS = load("inputs")["groups"]
DISTINCT = load("distinct_n")["cases"]
BLEU = load("self_bleu")["cases"]
COMPRESSION = load("compression")["cases"]
VENDI = load("vendi_embedding")
NOVELTY = load("noveltybench_rouge")
ALL = ("inputs", "distinct_n", "self_bleu", "compression", "vendi_embedding", "noveltybench_rouge")
LEFT_OUT = {
    "cshaib_gzip": "compresses twice, with a file name and the time in the header",
    "cshaib_xz": "another codec",
    "helm_sacrebleu": "other tokens, other smoothing, blanks dropped, 0 where undefined",
    "nb_pair_bleu_0_1": "other tokens and no smoothing",
    "utility": "weighs rewards by patience; the partition and the scores it rests on are checked",
    "reward_bucket_cases": "thresholds of one reward model",
    "score_X_q2_BUG_q_ignored": "ignores q",
    "intdiv_X_BUG": "raises TypeError",
}
TEXTS_ABOUT_THE_FILE = {
    "note",
    "meta",
    "reference",
    "definition",
    "package",
    "sentence_transformers",
    "torch",
    "tolerance",
}
ORDERS = {"q0.5": 0.5, "q1": 1.0, "q2": 2.0, "qinf": math.inf}


def test_no_reference_output_is_passed_over():
    checks = Path(__file__).read_text(encoding="utf-8")
    names = {name for file in ALL for name in output_names(load(file))} - set(GROUPS)
    assert {name for name in names if f'"{name}"' not in checks and not checked_by_pattern(name)} == set()
    assert set(LEFT_OUT) <= names
    assert len(names) > 50


def output_names(content):
    """Keys of all mappings in a file, however deep, but not of what it says about itself."""
    if isinstance(content, dict):
        kept = {name: value for name, value in content.items() if name not in TEXTS_ABOUT_THE_FILE}
        return set(kept).union(*map(output_names, kept.values()))
    return set().union(*map(output_names, content)) if isinstance(content, list) else set()


def checked_by_pattern(name):
    """Families of keys that a check goes through by number: n-gram lengths, BLEU-n, orders q."""
    return name in {"1", "2", "3", "4", *ORDERS, *(f"vendi_{order}" for order in ORDERS)} or bool(
        re.fullmatch("(nltk|fastbleu)_m1_[2-5]", name)
    )


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
def test_self_repetition_is_the_mean_log_of_4grams_found_elsewhere(name):
    counts = tokenize(GROUPS[name]).ngrams(4)
    everywhere = np.bincount(counts.pair_ngram, weights=counts.pair_count)
    elsewhere = (everywhere[counts.pair_ngram] - counts.pair_count) * (counts.pair_length == 4)
    repeated_N = np.bincount(counts.pair_text, weights=elsewhere, minlength=len(GROUPS[name]))
    assert np.log1p(repeated_N).mean() == close(DISTINCT[name]["cshaib_self_repetition_n4"], abs=1e-6)


@by_group
def test_self_bleu(name):
    texts, case = GROUPS[name], BLEU[name]
    for n in (2, 3, 4, 5):
        expected = case[f"nltk_m1_{n}"]
        assert self_bleu(texts, n) == close(math.nan if expected is None else expected, abs=1e-6, nan_ok=True)
        if name not in ("single", "short_lt4"):  # undefined; fast-bleu reads out of bounds on short texts
            assert self_bleu(texts, n) == close(case[f"fastbleu_m1_{n}"], abs=1e-6)
    if all(len(text.split()) >= 4 for text in texts) and len(texts) > 1:  # sacrebleu treats shorter ones its own way
        assert self_bleu(texts) == close(case["sacre_floor_none_4"], abs=1e-6)
    assert self_bleu_each(texts).tolist() == close(case["nltk_m1_4_per_response"], abs=1e-6)
    if case["nltk_m1_4_lower"] is not None:
        assert self_bleu(texts, lowercase=True) == close(case["nltk_m1_4_lower"], abs=1e-6)
        pairs = [self_bleu(pair) for pair in combinations(texts, 2)]
        assert np.mean(pairs) == close(case["pairwise_nltk4"], abs=1e-6)


@by_group
def test_compression_ratio(name):
    case, ratio = COMPRESSION[name], compression_ratio(GROUPS[name])
    assert ratio == close(case["zlib_l9_net"], abs=1e-6)
    assert len(" ".join(GROUPS[name]).encode()) == case["bytes"]
    # An empty zlib stream has 8 bytes, and gzip's frame has 12 more than zlib's.
    assert case["bytes"] / (case["bytes"] / ratio + 8) == close(case["zlib_l9"], abs=1e-6)
    assert case["bytes"] / (case["bytes"] / ratio + 20) == close(case["gzip_single_l9_mtime0"], abs=1e-6)


@pytest.mark.parametrize("name", NOVELTY["groups"])
def test_rouge_l(name):
    case, score = NOVELTY["groups"][name], rouge_l(GROUPS[name], tokens="rouge")
    assert score == close(case["mean_pairwise_rougeL_f"], abs=1e-6)
    if name != "disjoint3":  # called identical there
        assert round(score, 3) == close(case["cshaib_homogenization_rougel"], abs=1e-6)


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
    labels = label_codes(case["partition"])
    assert labels.tolist() == case["partition"]
    first_members = np.unique(labels, return_index=True)[1]
    assert [case["generation_scores"][i] for i in first_members] == case["partition_scores"]
    assert sum(case["generation_scores"]) == sum(case["partition_scores"])
    # The file's own count, labelled as one too low.
    assert n_clusters(labels) - 1 == case["distinct_field_in_file_(off_by_one)"]


def same_short_text(first, second):
    """NoveltyBench's rule for texts of at most five words."""
    words, others = first.split(), second.split()
    return 2 * len(set(words) & set(others)) >= max(len(words), len(others))


@pytest.mark.parametrize("case", [case for case in NOVELTY["short_rule_cases"] if case[2] is not None])
def test_partition_of_short_texts_by_a_callers_rule(case):
    first, second, is_same = case
    # The rule itself keeps case; the cases say that texts are lower-cased before it.
    labels = cluster_by_judge([first.lower(), second.lower()], same_short_text)
    assert n_clusters(labels) == (1 if is_same else 2)


@pytest.mark.parametrize("case", VENDI["kernel_cases"], ids=lambda case: case["id"])
@pytest.mark.parametrize("order", ORDERS)
def test_vendi_score_of_a_kernel(case, order):
    assert vendi_score(case["K"], ORDERS[order]) == close(case[order], abs=1e-6)


@pytest.mark.parametrize("case", VENDI["kernel_cases"][:3], ids=lambda case: case["id"])
def test_weighted_vendi_score(case):
    expected = case["weighted_p_first_half_q1"]
    assert vendi_score(case["K"], weights=[0.5, 0.25, 0.25]) == close(expected, abs=1e-6)


@pytest.mark.parametrize("case", VENDI["X_cases"])
def test_vendi_score_of_vectors_uses_q(case):
    assert vendi_score_from_embeddings(case["X"]) == close(case["score_X_q1"], abs=1e-6)
    assert vendi_score_from_embeddings(case["X"]) == close(case["score_dual_q1"], abs=1e-6)
    assert vendi_score_from_embeddings(case["X"], q=2) == close(case["score_dual_q2_correct"], abs=1e-6)
    assert cosine_distances(case["X"]).mean() == close(case["intdiv_K_cosine"], abs=1e-6)


@pytest.mark.network
@pytest.mark.filterwarnings("default")  # loading third-party weights may warn; the values below decide
@by_group
def test_pinned_embeddings(name, tmp_path_factory):
    embedder = load_embedder("minilm", cache_folder=tmp_path_factory.mktemp("embeddings"))
    embeddings, case = embedder.encode(GROUPS[name]), VENDI["embedding_cases"][name]
    for order, q in ORDERS.items():
        assert vendi_score_from_embeddings(embeddings, q) == close(case[f"vendi_{order}"], abs=1e-4)
    assert len(embeddings) == case["n"]
    distance = case.get("mean_pairwise_cos_distance", math.nan)
    assert semantic_distance(embeddings) == close(distance, abs=1e-4, nan_ok=True)
    if name != "single":
        distances = cosine_distances(embeddings)
        between = distances[~np.eye(len(distances), dtype=bool)].reshape(len(distances), -1)
        assert np.clip(between, 0, 1).mean() == close(case["vs_avg_diversity(1-clip(sim,0,1))"], abs=1e-4)
        assert between.min() == close(case["min_pairwise"], abs=1e-4)
        assert between.max() == close(case["max_pairwise"], abs=1e-4)
        # Rounded to three places, the first with the zero diagonal counted.
        assert distances.mean() == close(case["cshaib_remote_clique(incl_diag,round3)"], abs=6e-4)
        assert between.min(axis=1).mean() == close(case["cshaib_chamfer(round3)"], abs=6e-4)
    if name == "identical3":
        first = VENDI["embedding_model"]["first5_of_identical3[0]"]
        assert embeddings[0, :5].tolist() == close(first, abs=1e-4)
    if name == "fox3_readme":
        cosine = 1 - cosine_distances(embeddings)[0, 1]
        assert cosine == close(VENDI["embedding_model"]["cos(fox0,fox1)"], abs=1e-4)
