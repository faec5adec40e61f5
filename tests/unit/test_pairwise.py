"""Partitions of pairwise answers: the rules, the number of questions, and what has no answer."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychromic.diversity.equivalence import MISSING
from polychromic.diversity.pairwise import pairwise_partitions
from polychromic.records import Prompt, as_messages

PROMPT = Prompt("p", as_messages("Name one."))
TEXTS = st.lists(st.sampled_from("abcdefgh"), max_size=14)
SAME = st.sets(st.sampled_from([frozenset(pair) for pair in combinations("abcdefgh", 2)]))


def divide(texts, same, rule="greedy"):
    """Labels, and all that was asked."""
    asked = []

    def ask(questions):
        asked.extend((a, b) for _, a, b in questions)
        return [same(a, b) for _, a, b in questions]

    [found] = pairwise_partitions([(PROMPT, texts)], ask, rule)
    return found.labels_N.tolist(), asked


def one_by_one(texts, same):
    """NoveltyBench's assignment, text after text."""
    firsts, labels = [], []
    for text in texts:
        label = next((c for c, first in enumerate(firsts) if first == text or same(first, text)), len(firsts))
        if label == len(firsts):
            firsts.append(text)
        labels.append(label)
    return labels


@given(TEXTS, SAME)
def test_rounds_give_the_greedy_assignment_of_one_text_after_another(texts, pairs):
    def same(a, b):
        return frozenset((a, b)) in pairs

    labels, asked = divide(texts, same)
    assert labels == one_by_one(texts, same)
    assert len(set(asked)) == len(asked) <= len(set(texts)) * len(set(labels))


@given(TEXTS, SAME)
def test_the_transitive_rule_joins_exactly_what_a_chain_of_asked_answers_joins(texts, pairs):
    def same(a, b):
        return frozenset((a, b)) in pairs

    labels, asked = divide(texts, same, "transitive")
    joined = {text: {text} for text in texts}
    for a, b in asked:
        if same(a, b):
            whole = joined[a] | joined[b]
            joined.update(dict.fromkeys(whole, whole))
    label_of = dict(zip(texts, labels, strict=True))
    assert all((label_of[a] == label_of[b]) == (b in joined[a]) for a in label_of for b in label_of)
    assert labels == [*map({label: n for n, label in enumerate(dict.fromkeys(labels))}.get, labels)]
    opened = len({a for a, _ in asked}) + 1
    assert len(set(asked)) == len(asked) <= len(set(texts)) * opened


@given(TEXTS, st.integers(1, 4))
def test_both_rules_agree_where_the_answers_are_transitive(texts, n):
    def same(a, b):
        return ord(a) % n == ord(b) % n

    greedy, _ = divide(texts, same)
    assert divide(texts, same, "transitive")[0] == greedy
    assert len(set(greedy)) == len({ord(text) % n for text in texts})


def test_the_rules_differ_on_a_chain():
    """a is b and b is c, but a is not c; d is a's and c's."""
    chain = {("a", "b"), ("b", "c"), ("a", "d"), ("c", "d")}

    def same(a, b):
        return (a, b) in chain or (b, a) in chain

    assert divide("abcd", same)[0] == [0, 0, 1, 0]
    assert divide("abcd", same, "transitive")[0] == [0, 0, 0, 0]


def test_calls_grow_with_distinct_texts_and_classes_not_with_pairs():
    texts = [f"{i % 3}-{i}" for i in range(60)] * 10
    labels, asked = divide(texts, lambda a, b: a[0] == b[0])
    assert len(set(labels)) == 3
    assert len(asked) == 59 + 39 + 19


def test_all_groups_share_their_rounds_and_equal_questions_are_asked_once():
    batches = []

    def ask(questions):
        batches.append([(prompt.id, a, b) for prompt, a, b in questions])
        return [a[0] == b[0] for _, a, b in questions]

    other = Prompt("q", as_messages("Another."))
    groups = [(PROMPT, ["ab", "ac", "b"]), (PROMPT, ["ab", "ac", "ad"]), (other, ["ab", "ac"]), (other, [])]
    found = pairwise_partitions(groups, ask)
    assert [one.labels_N.tolist() for one in found] == [[0, 0, 1], [0, 0, 0], [0, 0], []]
    assert batches == [[("p", "ab", "ac"), ("p", "ab", "b"), ("p", "ab", "ad"), ("q", "ab", "ac")]]


@pytest.mark.parametrize("rule", ["greedy", "transitive"])
def test_a_text_without_an_answer_has_no_label_and_its_reason(rule):
    def ask(questions):
        return ["no word on it" if "x" in (a, b) else a == b for _, a, b in questions]

    [found] = pairwise_partitions([(PROMPT, ["a", "x", "b", "x", "a"])], ask, rule)
    assert found.labels_N.tolist() == [0, MISSING, 1, MISSING, 0]
    assert found.reasons == ("no word on it",) * 2
