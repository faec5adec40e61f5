"""The audit catches checkers that cannot tell answers apart; the origin's own is one."""

import math

import pytest

from polychromic.evaluation import audit_checker
from polychromic.records import Check, Prompt, as_messages
from polychromic.tasks.arithmetic import ArithmeticTask

REPLIES = [
    "Sorry about the delay!",
    "Glad you liked the show.",
    "Your order ships on Monday.",
    "Try turning it off.",
]
PROMPTS = [
    Prompt(f"p{index}", as_messages(f"Post number {index}, please answer"), references=(reply,))
    for index, reply in enumerate(REPLIES)
]


def at_least_ten_characters(prompts, texts):
    return [Check(float(len(text) >= 10)) for text in texts]


def exact(prompts, texts):
    return [Check(float(text in prompt.references)) for prompt, text in zip(prompts, texts, strict=True)]


def test_the_origins_checker_of_ten_characters_is_caught():
    audit = audit_checker(at_least_ten_characters, PROMPTS, pass_threshold=1.0)

    assert audit.lenient and not audit.harsh
    assert audit.controls["references"].pass_rate == 1.0
    assert audit.controls["shuffled references"].pass_rate == 1.0
    assert audit.controls["echoed prompt"].pass_rate == 1.0
    assert audit.controls["empty"].pass_rate == 0.0
    assert audit.sentence == (
        "The checker is lenient: it passes shuffled references (100 %), echoed prompt (100 %) "
        "and repeated word (100 %)."
    )


def test_a_checker_that_knows_the_answers_is_neither_lenient_nor_harsh():
    audit = audit_checker(exact, PROMPTS, pass_threshold=1.0)

    assert not audit.lenient and not audit.harsh
    assert audit.sentence == "The checker tells references from bad controls."


def test_a_checker_that_passes_nothing_is_harsh():
    audit = audit_checker(lambda prompts, texts: [Check(0.0)] * len(texts), PROMPTS, pass_threshold=1.0)

    assert audit.harsh and not audit.lenient
    assert audit.sentence == "The checker is harsh: it passes 0 % of references."


def test_what_the_checker_could_not_judge_is_counted_apart():
    audit = audit_checker(lambda prompts, texts: [Check(None, "down")] * len(texts), PROMPTS, pass_threshold=1.0)

    assert audit.controls["references"].unjudged == len(PROMPTS)
    assert math.isnan(audit.controls["references"].pass_rate)
    assert not audit.lenient


def test_a_shuffled_reference_that_is_right_anyway_is_no_control():
    same = [Prompt(f"p{index}", as_messages("hi"), references=("hello",)) for index in range(3)]

    audit = audit_checker(exact, same, pass_threshold=1.0)

    assert audit.controls["shuffled references"].n == 0
    assert not audit.lenient


def test_every_shuffled_reference_belongs_to_another_prompt():
    seen = []

    def record(prompts, texts):
        seen.append(list(zip(prompts, texts, strict=True)))
        return [Check(0.0)] * len(texts)

    audit_checker(record, PROMPTS, pass_threshold=1.0)

    _, shuffled, *_ = seen
    assert len(shuffled) == len(PROMPTS)
    assert all(text not in prompt.references for prompt, text in shuffled)


def test_the_arithmetic_checker_passes_its_audit_without_references():
    task = ArithmeticTask(test_problems=20)

    audit = audit_checker(task.check, task.prompts("test"), pass_threshold=task.pass_threshold)

    assert not audit.lenient and not audit.harsh
    assert audit.controls["references"].n == 0
    assert audit.controls["echoed prompt"].n == 20


def test_no_prompts_is_an_error():
    with pytest.raises(ValueError, match="at least one prompt"):
        audit_checker(exact, [], pass_threshold=1.0)


def test_without_references_replies_that_passed_are_shuffled():
    """Past bug: a checker that never looks at the prompt was not caught where no prompt had references."""
    prompts = [Prompt(f"p{index}", as_messages("Write.")) for index in range(6)]
    replies = {f"p{index}": f"a fine text, number {index}" for index in range(5)}

    audit = audit_checker(at_least_ten_characters, prompts, pass_threshold=1.0, replies=replies)

    assert audit.controls["shuffled replies"].n == 5
    assert audit.controls["shuffled references"].n == 0
    assert "shuffled replies (100 %)" in audit.sentence


def test_replies_are_not_needed_where_there_are_references():
    audit = audit_checker(exact, PROMPTS, pass_threshold=1.0, replies={"p0": "x", "p1": "y"})

    assert audit.controls["shuffled replies"].n == 0
    assert not audit.lenient
