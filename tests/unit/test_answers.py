"""Checkers of short answers: regular expressions and mathematics, and the forms that their same answers share."""

import json
import subprocess
import sys
from itertools import combinations

import pytest
from pydantic import ValidationError

from polychromic.records import Check, Prompt, as_messages
from polychromic.tasks.base import build_task
from polychromic.tasks.checking.answers import math_equal, math_form, regex_form, regex_match
from polychromic.tasks.checking.checkers import run_checker
from polychromic.tasks.settings import CustomSettings

verify = pytest.importorskip("math_verify").verify

# Each line is one answer in several writings; no two lines are the same answer.
SAME = [
    ["1/2", "0.5", r"\frac{1}{2}", r"$\frac12$", "50%", r"So it is \boxed{\frac{1}{2}}."],
    [r"$\sqrt{8}$", r"$2\sqrt{2}$"],
    ["12", "$12$", "The answer is 12", "12.0", r"\boxed{3 \cdot 4}", "3 × 4", "3·4", "It is 3 × 4."],
    ["100", "10²", "The answer is 10².", "10^2", "10^{2}", r"\boxed{10²}", "10**2"],
    ["0.01", "10⁻²", "10^-2", r"1\%", "It is 1%."],
    ["12000", r"12\,000", r"$12{,}000$"],
    ["1000", "1,000", "$10^3$", "1e3", r"\boxed{1.0E+3}", "It is 1e3."],
    ["0.0015", "1.5e-3"],
    ["3.5", "3 1/2", "7/2", "3½", r"3\frac{1}{2}"],
    [r"$5\sqrt{2}$", r"5\sqrt{2}", "5√2", "5*sqrt(2)"],
    ["-3.5", "-3 1/2"],
    ["$x^2+2x+1$", "$(x+1)^2$", r"\boxed{(1+x)(x+1)}", "x² + 2x + 1", "(x+1)²", "x^2 + 2x + 1."],
    ["$2x+1$", "2x + 1"],
    ["$p-q$", "p - q"],
    [r"$x \ge 2$", "x ≥ 2", "x >= 2"],
    [r"$(-\infty, 2)$", "(-∞, 2)"],
    ["$x^2+2x-1$"],
    [r"$\{1,2\}$", r"$\{2,1\}$", "{1, 2}", r"\{2, 1\}", "1, 2"],
    ["(1,2)", "$(1, 2)$", "(1, 2)", r"x \in (1, 2)", r"$x \in (1,2)$"],
    ["(1, 2, 3)", "$(1,2,3)$"],
    [r"(\frac{1}{2}, 3)", "(0.5, 3)"],
    [r"$(3, \frac{\pi}{2})$", r"\left( 3, \frac{\pi}{2} \right)"],
    ["1,-2", "$1,-2$"],
    ["(2,1)"],
    ["$[0,1)$", "$[0, 1.0)$"],
    ["$(0,1]$"],
    ["$1/3$", "0.333333"],
    [r"$\pi$", "π"],
    [r"$2\pi$", r"2\pi", "2*pi"],
    ["-3", "$-3$", "−3", "x = -3", "$x=-3$", "$2 - 5 = -3$"],
    ["3", "3 m", "a) 3", "Answer: 3"],
    ["$3+4i$", "3 + 4i"],
]


def prompt(*references):
    return Prompt("p", as_messages("Q"), references)


def test_writings_of_one_answer_have_one_form_and_others_have_others():
    forms = [{math_form(prompt(), text) for text in line} for line in SAME]
    assert [len(form) for form in forms] == [1] * len(SAME), forms
    assert len(set.union(*forms)) == len(SAME)


@pytest.mark.parametrize(
    ("reference", "wrong"),
    [("(1, 2)", "2"), ("1e3", "1"), ("3 1/2", "1"), ("1, 2", "2"), ("6 - 5i", "5"), (r"2\pi", "2"), ("2x + 1", "1")],
)
def test_an_answer_is_read_whole(reference, wrong):
    """Past bug: of these one number was read, so that it alone passed."""
    assert math_equal(prompt(reference), reference)
    assert not math_equal(prompt(reference), wrong)


def test_forms_agree_with_math_verify():
    """Its own comparison is the reference: what it holds for equal has one form, and the other way round.

    But it takes a set for a pair, which is left out.
    """
    lines = [line for line in SAME if "{1,2" not in line[0]]
    wrong = []
    for a, b in [*combinations([line[0] for line in lines], 2), *(line[:2] for line in lines if len(line) > 1)]:
        same = run_checker(math_equal, [prompt(a)], [b])[0].reward == 1.0
        wrong += [] if same == (math_form(prompt(), a) == math_form(prompt(), b)) else [(a, b, same)]
    assert wrong == []


@pytest.mark.parametrize(
    ("references", "text", "reward"),
    [
        (("1/2",), "First 3, then $x = 7$. The final answer is $0.5$", 1.0),
        (("1/2",), "The final answer is $0.6$", 0.0),
        (("4", "9"), r"\boxed{9}", 1.0),
        (("4",), "I do not know.", 0.0),
        (("4",), "", 0.0),
        (("no mathematics",), "4", None),
        ((), "4", None),
    ],
)
def test_mathematics_is_compared_with_every_reference(references, text, reward):
    [check] = run_checker(math_equal, [prompt(*references)], [text])
    assert check.reward == reward
    assert (check.error is None) == (reward is not None)


def test_a_pattern_matches_the_whole_answer():
    dates = prompt(r"(\d{4})-(\d\d)-\d\d", r"in (\d{4})")
    assert regex_match(dates, " 1999-12-31\n")
    assert not regex_match(dates, "on 1999-12-31")
    assert regex_form(dates, "1999-12-31") == regex_form(dates, "1999-12-01") != regex_form(dates, "1999-11-01")
    assert regex_form(dates, "in 1999") == "1999"
    assert regex_form(dates, "no  date") == "no date"


def test_a_pattern_that_is_none_or_takes_for_ever_is_no_reward_with_the_reason(monkeypatch):
    monkeypatch.setattr("polychromic.tasks.checking.answers._REGEX_SECONDS", 0.1)
    [broken, slow] = run_checker(regex_match, [prompt("(unclosed"), prompt(r"(?:(?:a|a)+)+b$")], ["x", "a" * 40])
    assert broken == Check(None, "ValueError: reference '(unclosed' is no regular expression: missing ) at position 9")
    assert slow.reward is None
    assert slow.error.startswith("TimeoutError")


def settings(tmp_path, **keys):
    rows = [{"id": "half", "prompt": "1 divided by 2?", "reference": "1/2"}]
    files = {}
    for split in ("train", "validation", "test"):
        files[split] = str(tmp_path / f"{split}.jsonl")
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return CustomSettings(name="custom", **files, **keys)


def test_mathematics_from_an_experiment_file(tmp_path):
    """The checker and the forms run in processes of their own; 1/2 and 0.5 are right, and one answer."""
    task = build_task(settings(tmp_path, checker="math", same_answer="canonical"))
    [half] = task.prompts("test")
    texts = ["0.5", r"\boxed{\frac{2}{4}}", "1/3", "$10^{10^{10^{10}}}$"]
    checks = task.check([half] * 4, texts)
    assert [check.reward for check in checks[:3]] == [1.0, 1.0, 0.0]
    assert checks[3].reward != 1.0
    [partition] = task.equivalence.partitions([(half, texts[:3])])
    assert partition.labels_N.tolist() == [0, 0, 1]


def test_what_has_no_forms_says_so(tmp_path):
    with pytest.raises(ValidationError, match="no canonical form"):
        settings(tmp_path, checker="exact_match", same_answer="canonical")


def test_patterns_are_no_answers(tmp_path):
    """Past bug: preflight tried them as answers and called the checker harsh, and their perplexity was measured."""
    checks = settings(tmp_path, checker="regex")
    rows = [{"prompt": "When?", "references": [r"\d{4}", "in 1999", "(unclosed", "a+b"]}, {"prompt": "Why?"}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = build_task(checks)
    when, why = task.prompts("test")
    assert (when.references, why.references) == (("in 1999",), ())
    assert [prompt.references for prompt in task.prompts("test")] == [when.references, why.references]
    assert [check.reward for check in task.check([when] * 2, ["1999", "in 1999"])] == [1.0, 1.0]
    assert "no regular expression" in str(task.check([when], ["x"])[0].error)
    assert "no references" in str(task.check([why], ["x"])[0].error)


def test_the_library_of_mathematics_is_loaded_before_the_first_text():
    """Past bug: the import counted as time of the first answer, in each new process, and could take it all."""
    code = "import sys; from polychromic.tasks.checking import checkers; checkers.load_checker('math')"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'math_verify' in sys.modules"], check=True)
