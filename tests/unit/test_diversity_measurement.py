import math
from functools import partial

import numpy as np
import pytest

from polychromic.diversity import (
    DIRECTIONS,
    MeasureSettings,
    Signature,
    check_measures,
    distinct_n,
    load_embedder,
    measure_group,
    measure_signatures,
    rarefied_distinct_n,
    require_comparable,
    rouge_l,
    self_bleu,
    semantic_distance,
    vendi_score_from_embeddings,
)
from polychromic.diversity import measurement as measurement_module
from polychromic.diversity.tokens import rouge_words

TEXTS = ["The cat sat on the mat", "the cat ran", "a dog"]
EMBEDDINGS = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])


def test_a_group_is_measured_as_by_the_single_functions():
    settings = MeasureSettings(budget=5, max_n=3, q=2.0, lowercase=True, embedder="by hand")
    values = measure_group(TEXTS, settings, embeddings=EMBEDDINGS).values
    assert list(values) == list(DIRECTIONS)
    assert values["rarefied_distinct_2"] == rarefied_distinct_n(TEXTS, 2, 5, lowercase=True)
    assert values["distinct_3"] == distinct_n(TEXTS, 3, lowercase=True)
    assert values["self_bleu"] == self_bleu(TEXTS, 3, lowercase=True, leave_out_short=True)
    assert values["rouge_l"] == rouge_l(TEXTS, lowercase=True)
    assert values["distinct_texts"] == 3
    assert values["semantic_distance"] == semantic_distance(EMBEDDINGS)
    assert values["vendi"] == vendi_score_from_embeddings(EMBEDDINGS, 2.0)


def test_counts_explain_an_undefined_value():
    measured = measure_group(["a b", "", "c"], MeasureSettings(budget=2))
    assert math.isnan(measured.values["rarefied_distinct_2"])
    assert math.isnan(measured.values["distinct_3"])
    assert measured.counts == {"generations": 3, "empty": 1, "ngrams_1": 3, "ngrams_2": 1, "ngrams_3": 0}


def test_an_empty_group_has_no_value():
    assert all(math.isnan(value) for value in measure_group([]).values.values())


def test_without_embeddings_nothing_semantic_is_given():
    assert not {"semantic_distance", "vendi"} & set(measure_group(TEXTS).values)


def test_embeddings_must_fit_and_be_named():
    with pytest.raises(ValueError, match="2 embeddings for 3 texts"):
        measure_group(TEXTS, MeasureSettings(embedder="x"), embeddings=EMBEDDINGS[:2])
    with pytest.raises(ValueError, match="name what made them"):
        measure_group(TEXTS, embeddings=EMBEDDINGS)


def test_signatures_are_printed_in_one_line():
    signatures = measure_signatures(MeasureSettings(embedder="m@1"), 64)
    assert str(signatures["self_bleu"]) == (
        "self_bleu|n:4|smoothing:method1|short:left_out|tokens:words|case:kept|k:64|version:1"
    )
    assert str(signatures["vendi"]) == "vendi|q:1.0|kernel:cosine|embedder:m@1|k:64|version:1"
    assert list(signatures) == list(DIRECTIONS)


def test_numbers_measured_in_another_way_are_refused():
    ours = measure_signatures(MeasureSettings(), 64)
    same = measure_signatures(MeasureSettings(), 64)
    theirs = measure_signatures(MeasureSettings(lowercase=True), 32)
    require_comparable(ours["self_bleu"], same["self_bleu"])
    with pytest.raises(ValueError, match="self_bleu cannot be compared: case kept against lower, k 64 against 32"):
        require_comparable(ours["self_bleu"], theirs["self_bleu"])
    with pytest.raises(ValueError, match="n 1 against 2"):
        require_comparable(ours["distinct_1"], ours["distinct_2"])
    with pytest.raises(ValueError, match="different measures"):
        require_comparable(ours["self_bleu"], ours["rouge_l"])


class Splitter:
    def __init__(self, separator):
        self.separator = separator

    def split(self, text):
        return text.split(self.separator)


@pytest.mark.parametrize(
    "tokens",
    [lambda text: text.split("a"), Splitter("a").split, partial(str.split, sep="a")],
    ids=["lambda", "method", "partial"],
)
def test_a_function_that_nothing_identifies_is_never_comparable(tokens):
    # Two lambdas, or one method of two objects, have one name between them: their values looked comparable.
    signature = measure_signatures(MeasureSettings(tokens=tokens), 3)["self_bleu"]
    assert "tokens:unnamed function" in str(signature)
    with pytest.raises(ValueError, match="tokens is a function that nothing identifies"):
        require_comparable(signature, signature)


def test_a_function_of_a_module_is_named_by_it():
    signature = measure_signatures(MeasureSettings(tokens=rouge_words), 3)["self_bleu"]
    assert "tokens:polychromic.diversity.tokens.rouge_words|" in str(signature)
    require_comparable(signature, signature)
    assert "tokens:builtins.list|" in str(measure_signatures(MeasureSettings(tokens=list), 3)["rouge_l"])


def test_a_printed_signature_can_be_read_back():
    for signature in measure_signatures(MeasureSettings(embedder="a|b:c@1"), 3).values():
        assert Signature.parse(str(signature)) == signature
    with pytest.raises(ValueError, match="expected measure"):
        Signature.parse("self_bleu|n4")


CLUSTERS = [f"clusters_by_{how}" for how in ("text", "form", "embedding", "judge")]


def test_every_measure_passes_its_self_test():
    checks = check_measures(load_embedder("hash"))
    assert [check.measure for check in checks] == [*DIRECTIONS, "ead_2", *CLUSTERS]
    assert [check.measure for check in checks if not check.passed] == []
    assert {(check.identical, check.mixed, check.different) for check in checks[-4:]} == {(1, 5, 8)}


@pytest.mark.network
@pytest.mark.filterwarnings("default")  # loading third-party weights may warn; the values decide
def test_every_measure_passes_its_self_test_with_the_pinned_model(tmp_path):
    checks = check_measures(load_embedder("minilm", cache_folder=tmp_path))
    assert [check.measure for check in checks if not check.passed] == []


@pytest.mark.parametrize("broken", [0.0, math.nan])
@pytest.mark.parametrize(
    ("function", "measures"),
    [
        ("rarefied_distinct_n", ["rarefied_distinct_2"]),
        ("distinct_n", ["distinct_1", "distinct_2", "distinct_3"]),
        ("self_bleu", ["self_bleu"]),
        ("rouge_l", ["rouge_l"]),
        ("compression_ratio", ["compression_ratio"]),
        # Every partition is counted by it.
        ("n_clusters", ["distinct_texts", *CLUSTERS]),
        ("semantic_distance", ["semantic_distance"]),
        ("vendi_score_from_embeddings", ["vendi"]),
        ("ead", ["ead_2"]),
        ("cluster_by_form", ["clusters_by_form"]),
        ("cluster_by_embedding", ["clusters_by_embedding"]),
        ("cluster_by_judge", ["clusters_by_judge"]),
    ],
)
def test_the_self_test_catches_each_measure_that_fell_silent(monkeypatch, function, measures, broken):
    # The origin of this project: a metric whose data was missing returned 0 for every group.
    monkeypatch.setattr(f"polychromic.diversity.measurement.{function}", lambda *_, **__: broken)
    assert [check.measure for check in check_measures() if not check.passed] == measures


def test_the_self_test_catches_a_measure_that_points_the_wrong_way(monkeypatch):
    monkeypatch.setattr(measurement_module, "distinct_n", lambda *arguments, **_: -distinct_n(*arguments[:2]))
    failed = [check.measure for check in check_measures() if not check.passed]
    assert failed == ["distinct_1", "distinct_2", "distinct_3"]
