"""Texts of megabytes are measured in time that grows with their length, and what is cut is said."""

import zlib

import numpy as np
import pytest

from polychromic.diversity import measure_signatures, overlap, rouge_l
from polychromic.diversity.embedders import HashedNgramEmbedder
from polychromic.diversity.measurement import MeasureSettings
from polychromic.experiment.compare import long_texts
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report import samples
from polychromic.report.samples import answer_groups


def row(text):
    return GenerationRow("p", 0, text, 3, "stop", SamplingParameters(), 0, reward=0.0, cluster=None)


def wordings(texts):
    return [[one[:2] for one in group["wordings"]] for group in answer_groups({"a": map(row, texts)})["a"]]


def test_rouge_l_reads_the_first_tokens_of_each_text_and_its_signature_says_so(monkeypatch):
    monkeypatch.setattr(overlap, "ROUGE_L_TOKENS", 3)
    assert rouge_l(["a b c d e", "a b c x y z", "b"]) == rouge_l(["a b c", "a b c", "b"])
    assert "|first:5000|" in str(measure_signatures(MeasureSettings(), 2)["rouge_l"])


def test_hashed_ngrams_are_counted_as_if_each_were_added_alone():
    text = "abab" * 50 + "ü\ud800"
    marked, expected_D = f"\x02{text}\x03", np.zeros(1024)
    for length in (2, 3, 4):
        for start in range(len(marked) - length + 1):
            number = zlib.crc32(marked[start : start + length].encode("utf-8", "surrogatepass"))
            expected_D[(number >> 1) % 1024] += 1.0 if number & 1 else -1.0
    found_D = HashedNgramEmbedder().encode([text])[0]
    np.testing.assert_allclose(found_D, expected_D / np.linalg.norm(expected_D), rtol=1e-6)


def test_long_answers_share_a_group_only_where_they_are_equal(monkeypatch):
    monkeypatch.setattr(samples, "_LONG", 20)
    near, nearly = "a walk in the park, long", "a walk in the park, lonG!"
    assert wordings([near, nearly, near.upper()]) == [[[near, 1], [near.upper(), 1]], [[nearly, 1]]]
    assert len(wordings(["a walk, short", "a walk, short!"])) == 1


@pytest.mark.parametrize("length", [20_000, 20_001])
def test_the_page_shows_the_start_of_a_long_answer_and_how_much_is_left_out(length):
    [[[text, _]]] = wordings(["x" * length])
    more = " … [1 more characters are not shown]" if length > 20_000 else ""
    assert text == "x" * 20_000 + more


def test_a_comparison_says_how_many_texts_are_read_in_part():
    rows = {("a", 0): [row("w " * 5_001), row("w " * 5_000), row("w" * 9_999), row("")]}
    (note,) = long_texts(rows, "words")
    assert note.text == "ROUGE-L reads the first 5,000 tokens of 1 longer text"
    assert long_texts({("a", 0): [row("w " * 5_000)]}, "words") == []
