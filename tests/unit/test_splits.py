"""Data is divided so that no prompt is on two sides, also not in other words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychromic.errors import DataError
from polychromic.evaluation.audits.checker import find_leakage, plain_content
from polychromic.experiment.starting.splits import MOST_TEST, divide
from polychromic.records import Message, Prompt, as_messages
from polychromic.tasks.data.prompts import prompts_of
from polychromic.tasks.data.rows import Row


def prompts(*texts, references=()):
    return [Prompt(f"p{number}", as_messages(text), references) for number, text in enumerate(texts)]


def numbered(n):
    return prompts(*(f"Name use number {i} for a brick" for i in range(n)))


def ids(divided):
    return {split: [one.id for one in found] for split, found in divided.splits.items()}


def sides(divided):
    return [{plain_content(one) for one in found} for found in divided.splits.values()]


@pytest.mark.parametrize(("n", "test", "validation"), [(3, 1, 1), (10, 3, 1), (60, 18, 6), (2000, 200, 100)])
def test_shares_and_most(n, test, validation):
    found = divide({"": numbered(n)}).splits
    assert {split: len(ones) for split, ones in found.items()} == {
        "test": test,
        "validation": validation,
        "train": n - test - validation,
    }


@pytest.mark.parametrize("texts", [["a"], ["a", "b"], ["a", "A ", " a"]])
def test_too_few_different_prompts_are_refused(texts):
    with pytest.raises(DataError, match="at least three different ones are needed"):
        divide({"": prompts(*texts)})


def test_the_same_prompt_is_one_with_all_references():
    twice = [
        Prompt("a", as_messages("Hi"), ("Hello", "Hey")),
        Prompt("b", as_messages("Hi"), ("Hello", "Yo")),
        *prompts("x", "y", "z"),
    ]
    divided = divide({"": twice})
    (merged,) = [one for found in divided.splits.values() for one in found if one.text == "Hi"]
    assert (merged.id, merged.references) == ("a", ("Hello", "Hey", "Yo"))
    assert divided.lines == ("1 row with a prompt that stood before: merged, with all references",)


@pytest.mark.parametrize(
    ("question", "answer", "others"),
    [("question", "answer", []), ("query", "response", []), ("prompt", "chosen", ["rejected"])],
)
def test_a_copy_of_the_answer_in_the_meta_does_not_keep_equal_questions_apart(question, answer, others):
    """Past bug: rows of question and answer, which keep the answer in the meta too, were as many prompts as answers."""
    rows = [
        Row(f"line {n}", n, {question: text, answer: reply} | dict.fromkeys(others, reply[::-1]))
        for n, (text, reply) in enumerate([("Hi", "Yo"), ("Hi", "Hey"), ("x", "1"), ("y", "2"), ("z", "3")], start=1)
    ]
    divided = divide({"": prompts_of(rows, "data.jsonl", "data").prompts})
    (merged,) = [one for found in divided.splits.values() for one in found if one.text == "Hi"]
    assert merged.references == ("Yo", "Hey")
    assert divided.lines == ("1 row with a prompt that stood before: merged, with all references",)


@given(
    st.lists(
        st.sampled_from(["Hi", "hi ", "HI", "Who?", "who?", "Why\n?", "why ?", "Café", "Cafe\u0301", "a", "b"]),
        min_size=8,
    )
)
def test_prompts_that_differ_in_spelling_stay_together_and_none_is_lost(texts):
    rows = [Prompt(f"p{i}", as_messages(text), meta={"row": i}) for i, text in enumerate(texts)]
    if len({plain_content(row) for row in rows}) < 3:
        return
    divided = divide({"": rows})
    first, second, third = sides(divided)
    assert not (first & second or first & third or second & third)
    assert sorted(one for found in ids(divided).values() for one in found) == sorted(row.id for row in rows)


def conversation(name, *texts, answer="", **meta):
    turns = tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))
    return Prompt(name, turns, (answer,) if answer else (), meta)


def test_the_turns_of_one_conversation_stay_together():
    """The end of one row, with its answer, is the beginning of another; what only begins alike is another one."""
    rows = [
        conversation("a", "Hello", answer="What is it?"),
        conversation("b", "Hello", "What is it?", "My shoe", answer="Which?"),
        conversation("c", "Hello", "What is it?", "My shoe", "Which?", "The left one"),
        *(conversation(f"x{i}", "Hello", f"Answer {i}", "Thanks") for i in range(20)),
    ]
    (side,) = [split for split, found in ids(divide({"": rows})).items() if "a" in found]
    assert {"a", "b", "c"} <= set(ids(divide({"": rows}))[side])
    assert all(len(found) >= 2 for found in ids(divide({"": rows})).values())


def test_rows_with_one_conversation_id_stay_together():
    rows = [conversation(f"p{i}", f"Question {i}", conversation_id=i % 5) for i in range(40)]
    for found in divide({"": rows}).splits.values():
        here = {one.meta["conversation_id"] for one in found}
        assert len(found) == 8 * len(here)


def test_nearly_equal_prompts_join_training():
    story = "A farmer has {} sheep and sells four of them at the market on Monday in town {}"
    rows = prompts(*(story.format("twelve" if i % 2 else "eleven", "abcdefghij"[i // 2] * 9) for i in range(20)))
    others = [Prompt(f"q{i}", as_messages(f"Something else altogether, number {i * 7919}, please")) for i in range(20)]
    divided = divide({"": [*rows, *others]})
    held_out = [*divided.splits["test"], *divided.splits["validation"]]
    assert find_leakage(held_out, divided.splits["train"]).seen == ()
    assert any("nearly equal to one of training: moved to training" in line for line in divided.lines)


def test_splits_that_the_data_names_are_kept_and_cleaned():
    test = [Prompt("t1", as_messages("Seen?")), Prompt("t2", as_messages("Unseen?"))]
    train = [Prompt(f"p{i}", as_messages(f"Question {i}?")) for i in range(20)] + [Prompt("p99", as_messages("SEEN?"))]
    divided = divide({"train": train, "test": test})
    assert ids(divided)["test"] == ["t2"]
    assert len(divided.splits["validation"]) == 2
    assert divided.lines == ("1 prompt nearly equal to one of training: left out",)
    with pytest.raises(DataError, match="the id 't1' stands in two splits"):
        divide({"train": [*train, test[0]], "test": test})


def test_more_data_moves_nothing_that_was_there():
    few, many = numbered(300), numbered(330)
    before, after = divide({"": few}), divide({"": many})
    assert len(before.splits["test"]) == 90 and len(after.splits["test"]) <= MOST_TEST
    kept = set(ids(before)["test"]) & set(ids(after)["test"])
    assert len(kept) >= 80  # the order is that of hashes: only the ends of the shares move
