"""Wrong arguments of public functions are named with their value and what is expected, as `set_advantages` does."""

import re

import numpy as np
import pytest

from polychromic import diversity, evaluation

WRONG = [
    (diversity.distinct_n, ("one text",), "texts='one text'…: expected a list of texts, not one string"),
    (diversity.distinct_n, (None,), "texts=None (NoneType): expected a list of texts"),
    (diversity.distinct_n, (["a", 3],), "texts[1]=3 (int): expected a text"),
    (diversity.distinct_n, (["a"], 2.5), "n=2.5 (float): expected an n-gram length of at least 1"),
    (diversity.distinct_n, (["a"], True), "n=True (bool): expected an n-gram length of at least 1"),
    (diversity.self_bleu, (["a", "b"], 0), "max_n=0: expected an n-gram length of at least 1"),
    (diversity.rarefied_distinct_n, (["a b"], 1, 0), "budget=0: expected a number of draws of at least 1"),
    (diversity.compression_ratio, ([None],), "texts[0]=None (NoneType): expected a text"),
    (diversity.ead, (["a"], 1, 2.0), "vocabulary_size=2.0 (float): expected a number of symbols of at least 1"),
    (
        diversity.vendi_score,
        (["a", "b"],),
        "kernel holds texts; expected a square matrix of similarities. For texts: "
        'vendi_score_from_embeddings(load_embedder("minilm").encode(texts))',
    ),
    (diversity.vendi_score, (np.array(["a", "b"]),), "kernel holds texts"),
    (diversity.vendi_score, ([[1.0, 0.5], [0.5]],), "with rows of one length"),
    (diversity.vendi_score, ([[1.0]], "x"), "q='x' (str): expected an order of at least 0"),
    (diversity.semantic_distance, (["a", "b"],), 'load_embedder("minilm").encode(texts) gives embeddings'),
    (diversity.cluster_by_embedding, (np.eye(2), 2.0), "threshold=2: expected a cosine in [-1, 1]"),
    (diversity.expected_clusters, (3, 1), "labels=3 (int) has shape (); expected one label a generation"),
    (diversity.expected_clusters, ([0, 1], 0), "k=0: expected a number of generations of at least 1"),
    (evaluation.pass_at_k, (10, 3.0, 1), "c=3.0 (float): expected a number of generations that pass"),
    (evaluation.pass_at_k, (10, 3, 11), "k=11: expected between 1 and n=10; sample at least k"),
    (evaluation.pass_at_k_curve, ([10], [3], 0), "k_max=0: expected a number of tries of at least 1"),
    (evaluation.paired_comparison, ([1.0], ["a"]), "b=['a'] (list): expected [seeds, prompts] or [prompts]"),
    (evaluation.prompts_needed, (0.3, 5), "alpha=5: expected a share between 0 and 1"),
    (evaluation.detectable_effect, (20.5, 0.05, 0.8), "n_prompts=20.5 (float): expected a number of prompts"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "arguments", "said"), WRONG)
def test_a_wrong_argument_is_named_with_its_value_and_what_is_expected(function, arguments, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        function(*arguments)


def test_numbers_of_numpy_and_generators_of_texts_are_as_good_as_any():
    assert evaluation.pass_at_k(np.int64(10), np.int32(3), 2) == pytest.approx(1 - 21 / 45)
    assert diversity.distinct_n((text for text in ("a b", "a b")), np.int64(1)) == 0.5
    assert diversity.vendi_score([[1, 0], [0, 1]], np.float32(1)) == pytest.approx(2.0)
    assert diversity.vendi_score(np.eye(2), float("inf")) == pytest.approx(2.0)
