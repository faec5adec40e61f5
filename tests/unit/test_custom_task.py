import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychromic.errors import CheckerError
from polychromic.records import Check, Prompt, as_messages
from polychromic.tasks.checking.checkers import load_checker, run_checker
from polychromic.tasks.jsonl_task import CustomTask

PROMPT = Prompt("p", as_messages("Capital of France?"), ("Paris", "It is Paris"))


def one(function, text="x") -> Check:
    (check,) = run_checker(function, [PROMPT], [text])
    return check


def task(folder: Path, **options) -> CustomTask:
    path = folder / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "Capital of France?", "references": ["Paris"]}) + "\n")
    return CustomTask(path, path, path, embedder="hash", **options)


def write_checker(folder: Path, source: str) -> str:
    path = folder / "mine.py"
    path.write_text(source)
    return str(path)


@pytest.mark.parametrize(
    ("name", "text", "reward"),
    [
        ("exact_match", " Paris\n", 1.0),
        ("exact_match", "paris", 0.0),
        ("contains", "I think it is PARIS, or is it?", 1.0),
        ("contains", "Lyon", 0.0),
        # LCS of (it, is) with (it, is, paris) is 2: F1 = 2·2 / (2 + 3)
        ("rouge_l", "It is", 0.8),
        ("rouge_l", "Lyon", 0.0),
    ],
)
def test_built_in_checkers(name, text, reward):
    assert one(load_checker(name), text) == Check(pytest.approx(reward))


@pytest.mark.parametrize("name", ["exact_match", "contains", "rouge_l"])
def test_a_prompt_without_references_is_a_reason_and_no_reward(name):
    (check,) = run_checker(load_checker(name), [Prompt("q", as_messages("a"))], ["b"])
    assert check == Check(None, "ValueError: prompt 'q' has no references to compare with")


def test_a_function_of_a_file_is_called_with_prompt_and_text(tmp_path):
    source = "def check(prompt, text):\n    return float(text in prompt.references) / 2\n"
    mine = task(tmp_path, checker=write_checker(tmp_path, source) + ":check")
    assert mine.check([PROMPT, PROMPT], ["Paris", "Rome"]) == [Check(0.5), Check(0.0)]


def test_a_file_may_define_dataclasses(tmp_path):
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Part:\n    value: float\ndef check(prompt, text):\n    return Part(0.25).value\n"
    )
    assert one(load_checker(write_checker(tmp_path, source) + ":check")) == Check(0.25)


def test_a_function_of_a_module_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_checkers.py").write_text("def always(prompt, text):\n    return True\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert one(load_checker("my_checkers:always")) == Check(1.0)


@pytest.mark.parametrize(
    ("value", "reward"),
    [(True, 1.0), (False, 0.0), (1, 1.0), (0.25, 0.25), (np.float32(0.5), 0.5), (np.bool_(True), 1.0)],
)
def test_values_that_are_rewards(value, reward):
    assert one(lambda prompt, text: value) == Check(reward)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -0.01, 1.01, 2, "1", [1], {}, 1j, np.float64("nan"), np.ones(1)[:0]]
)
def test_values_that_are_no_rewards_carry_a_reason(value):
    check = one(lambda prompt, text: value)
    assert check.reward is None
    assert check.error


def test_none_means_that_the_checker_cannot_tell():
    assert one(lambda prompt, text: None) == Check(None, "the checker returned None: it cannot tell")


@pytest.mark.parametrize("error", [ValueError("bad"), RecursionError("bad"), SystemExit("bad"), AssertionError("bad")])
def test_an_exception_is_a_reason_and_no_reward(error):
    def raising(prompt, text):
        raise error

    assert one(raising) == Check(None, f"{type(error).__name__}: bad")


def test_a_keyboard_interrupt_is_not_swallowed():
    def interrupted(prompt, text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one(interrupted)


@given(st.floats() | st.integers() | st.text() | st.none() | st.lists(st.integers()))
def test_every_value_is_a_reward_in_range_or_a_reason(value):
    check = one(lambda prompt, text: value)
    assert (check.reward is None) == bool(check.error)
    assert check.reward is None or 0 <= check.reward <= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "exactmatch",
            "expected one of exact_match, contains, rouge_l, regex, math, path/to/file.py:function or module:function",
        ),
        (":check", "is not known"),
        ("mine.py:", "is not known"),
        ("no_such_file.py:check", "there is no file no_such_file.py"),
        ("no_such_module:check", "cannot be imported: ModuleNotFoundError"),
        ("json:no_such_function", "json does not define function no_such_function; it defines "),
    ],
)
def test_a_checker_that_cannot_be_loaded_says_why(name, message):
    with pytest.raises(CheckerError) as caught:
        load_checker(name)
    assert repr(name) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def check(prompt, text:\n", "cannot be imported: SyntaxError"),
        ("import no_such_library\n", "cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit(3)\n", "cannot be imported: SystemExit: 3"),
        ("def score(prompt, text):\n    return 1\n", "does not define function check; it defines score"),
        ("check = 3\n", "does not define function check; it defines nothing"),
        ("def check(text):\n    return 1\n", "is called as check(prompt, text) but is defined as (text)"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path, source, message):
    with pytest.raises(CheckerError) as caught:
        task(tmp_path, checker=write_checker(tmp_path, source) + ":check")
    assert message in str(caught.value)


def test_two_files_of_one_name_are_two_checkers(tmp_path):
    functions = []
    for value in (0.25, 0.75):
        folder = tmp_path / str(value)
        folder.mkdir()
        path = write_checker(folder, f"VALUE = {value}\ndef check(prompt, text):\n    return VALUE\n")
        functions.append(load_checker(path + ":check"))
    assert [one(function).reward for function in functions] == [0.25, 0.75]


def test_a_task_without_checker_gives_no_rewards_and_one_without_judge_none(tmp_path):
    bare = task(tmp_path)
    assert bare.check([PROMPT], ["Paris"]) == [Check(None, "task.checker is not set")]
    assert bare.judge([PROMPT], ["Paris"]) is None
    assert bare.pass_threshold == 0.5


def test_the_judge_is_a_checker_of_its_own(tmp_path):
    both = task(tmp_path, checker="exact_match", judge="contains")
    assert both.check([PROMPT], ["in Paris"]) == [Check(0.0)]
    assert both.judge([PROMPT], ["in Paris"]) == [Check(1.0)]


def test_prompts_and_distances_come_from_the_files_and_the_embedder(tmp_path):
    mine = task(tmp_path)
    assert [prompt.text for prompt in mine.prompts("test")] == ["Capital of France?"]
    assert mine.distances(["a", "a"]) == pytest.approx(np.zeros((2, 2)), abs=1e-6)
    assert "sentence_transformers" not in sys.modules or mine.embedder.name.startswith("hashed")
