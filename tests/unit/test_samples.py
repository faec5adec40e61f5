"""The explorer's data: groups of the same content in all arms, values by prompt, one compressed blob."""

import base64
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report.samples import answer_groups, packed


def row(text, reward=0.0, cluster=None, finish="stop"):
    return GenerationRow("p", 0, text, 3, finish, SamplingParameters(), 0, reward=reward, cluster=cluster)


def test_near_duplicates_share_one_group_across_arms():
    groups = answer_groups(
        {
            "a": [row("A walk in the park."), row("a walk  in the Park!"), row("Something else")],
            "b": [row("A walk in the park!"), row("Nothing like it at all")],
        }
    )
    assert [one["group"] for one in groups["a"]] == [0, 1]
    assert [one["group"] for one in groups["b"]] == [0, 2]
    assert groups["a"][0]["wordings"] == [["A walk in the park.", 1, 0.0], ["a walk  in the Park!", 1, 0.0]]


def test_a_checkers_word_outranks_the_spelling():
    groups = answer_groups(
        {"a": [row("1+2", cluster="x"), row("2+1", cluster="x"), row("1+2 ", cluster="y"), row("1+2.")]}
    )
    assert [len(one["wordings"]) for one in groups["a"]] == [2, 1, 1]


def test_passing_groups_stand_first_then_the_frequent_ones():
    rows = [row("wrong")] * 3 + [row("right indeed", 1.0)] + [row("unknown", None)] * 2
    groups = answer_groups({"a": [*rows, row("", finish="missing")]})
    assert [(one["wordings"][0][0], one["wordings"][0][1]) for one in groups["a"]] == [
        ("right indeed", 1), ("wrong", 3), ("unknown", 2),
    ]  # fmt: skip


def test_the_form_of_an_empty_answer_is_a_form_too():
    groups = answer_groups({"a": [row("", cluster=""), row("  ", cluster=""), row("x", cluster="x")]})["a"]
    assert sorted(len(group["wordings"]) for group in groups) == [1, 2]


@given(st.lists(st.tuples(st.text(max_size=12), st.sampled_from(["", "x", "y"])), max_size=30))
def test_no_answer_is_lost_or_counted_twice(answers):
    groups = answer_groups({"a": [row(text, cluster=label) for text, label in answers]})["a"]
    assert sum(one[1] for group in groups for one in group["wordings"]) == len(answers)
    assert len({group["group"] for group in groups}) == len(groups)


def test_what_is_packed_is_there_again_and_always_the_same_bytes():
    value = {"text": "</script> \x1b[31m ü", "n": 1}
    assert packed(value) == packed(value)
    assert json.loads(gzip.decompress(base64.b64decode(packed(value)))) == value
    assert packed({"x": float("nan")}) == packed({"x": None})


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_empty_answers_are_near_duplicates_of_nothing(text):
    groups = answer_groups({"a": [row(text), row("full"), row(text)]})["a"]
    assert sorted(len(group["wordings"]) for group in groups) == [1, 1]
