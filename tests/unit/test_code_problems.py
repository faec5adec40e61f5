"""Files of problems of one's own: odd rows, openings of functions, ids of two splits."""

import json

import pytest

from polychromic.errors import DataError
from polychromic.tasks.code import CodeTask, load_problems

ROW = {"prompt": "Write f.", "tests": ["assert f(1) == 1"]}


def loaded(tmp_path, *rows):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return load_problems(file)


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0c", "\x1c"])
def test_characters_that_python_takes_for_line_ends_end_no_line(tmp_path, mark):
    """Past bug: "no JSON (Unterminated string ...)" for a line of JSON."""
    [problem] = loaded(tmp_path, {**ROW, "prompt": f"a{mark}b"})
    assert problem.prompt == f"a{mark}b"


def test_the_mark_of_utf8_is_passed_over(tmp_path):
    (tmp_path / "mine.jsonl").write_text(json.dumps(ROW), encoding="utf-8-sig")
    assert len(load_problems(tmp_path / "mine.jsonl")) == 1


def test_null_is_a_key_left_out(tmp_path):
    """Past bug: a `setup` that is null made every answer a wrong one (TypeError), and the id was "None"."""
    [problem] = loaded(tmp_path, {**ROW, "setup": None, "id": None, "entry_point": None, "solution": None})
    assert (problem.id, problem.setup, problem.solutions) == ("mine-00001", "", ())


def test_numbers_of_cases_are_read_as_texts(tmp_path):
    """Past bug: an output that is a number ended the run (AttributeError)."""
    problems = loaded(tmp_path, {"prompt": "Double.", "cases": [{"input": 2, "output": 4.5}]})
    assert problems[0].cases == (("2", "4.5"),)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": None}, "prompt: null is null, expected a text"),
        ({"prompt": 3, "entry_point": "f"}, "prompt: 3 is a number, expected a text"),
        ({"tests": None}, "expected tests"),
        ({"cases": [{"input": "1", "output": "2"}]}, "not both"),
        ({"tests": [], "cases": [["1", "2"]]}, 'cases[0]: ["1", "2"], expected an object'),
        ({"tests": [], "cases": [{"input": "1", "output": None}]}, "cases[0].output: null is null"),
        ({"tests": [], "cases": [{"input": "", "output": "x" * 70_000}]}, "70,000 characters, and 65,536"),
        ({"setup": ["import math"]}, "setup: "),
        ({"solution": 1}, "solution: 1 is a number"),
        ({"id": 1.5}, "id: 1.5"),
        ({"test_list": None}, "key 'task_id' is missing"),
        ({"test": None, "canonical_solution": "x", "entry_point": "f", "task_id": "a"}, "test: null is null"),
    ],
)
def test_rows_that_cannot_be_judged_are_named(tmp_path, change, told):
    with pytest.raises(DataError) as refused:
        loaded(tmp_path, ROW, {**ROW, **change})
    assert "mine.jsonl:2: " in str(refused.value) and told in str(refused.value)


WHOLE = "def add(a, b):\n    return a + b"
SIGNATURE = 'def add(a, b):\n    """Adds."""'


@pytest.mark.parametrize(
    ("prompt", "continued"),
    [
        (f"{SIGNATURE}\n", "    return a + b"),
        ("def add(a, b):", " return a + b"),
        # Past bugs: of each of these every answer was judged wrong, with a SyntaxError that was the prompt's.
        (SIGNATURE, "\n    return a + b"),
        (f"Complete this from the given lines:\n\nimport math\n\n{SIGNATURE}\n", "    return a + b"),
        (f"Complete this.\n```python\n{SIGNATURE}\n```", "    return a + b"),
    ],
)
def test_an_answer_continues_the_function_that_the_prompt_opens(tmp_path, prompt, continued):
    problems = loaded(tmp_path, {"prompt": prompt, "entry_point": "add", "tests": ["assert add(2, 3) == 5"]})
    task = CodeTask("code", {"test": problems})
    answers = [continued, WHOLE, f"```python\n{WHOLE}\n```"]
    checks = task.check(task.prompts("test") * 3, answers)
    assert [(check.reward, check.error) for check in checks] == [(1.0, None)] * 3


def test_problems_of_two_splits_may_have_the_same_ids(tmp_path):
    """Past bug: an answer to a training prompt was judged by the tests of the test split's problem of that id."""
    problems = {}
    for split, value in (("train", 1), ("test", 2)):
        folder = tmp_path / split
        folder.mkdir()
        problems[split] = loaded(folder, {"prompt": f"Write f() = {value}.", "tests": [f"assert f() == {value}"]})
    for kind in ("form", "behaviour"):
        task = CodeTask("code", problems, same_answer=kind)
        for prompts, passed in ((task.prompts("train"), 1.0), (task.prompts("test"), 0.0)):
            assert [check.reward for check in task.check(prompts, ["def f(): return 1"])] == [passed]
            assert task.cluster(prompts[0], "def f(): return 1") == task.cluster(prompts[0], "def f(): return 1  # one")


def test_lines_of_mbpp_plus_are_judged_by_all_their_tests(tmp_path):
    """Past bug: the many tests of `test` were passed over, and a program that knows the three was right."""
    plus = "import numpy as np\nfor given, expected in zip([[1], [7]], [2, 8]):\n    assert more(*given) == expected"
    row = {"task_id": 2, "prompt": "Add one.", "code": "def more(a): return a + 1", "test_imports": [],
           "test_list": ["assert more(1) == 2"], "test": plus}  # fmt: skip
    task = CodeTask("code", {"test": loaded(tmp_path, row)})
    [prompt] = task.prompts("test")
    assert "zip" not in prompt.text
    checks = task.check([prompt] * 2, ["def more(a): return a + 1", "def more(a): return 2"])
    assert [check.reward for check in checks] == [1.0, 0.0]


def test_lines_of_humaneval_plus_need_no_call_of_check(tmp_path):
    row = {"task_id": "HumanEval/0", "prompt": "def more(a):\n", "canonical_solution": "    return a + 1",
           "entry_point": "more", "test": "def check(candidate):\n    assert candidate(1) == 2"}  # fmt: skip
    kept = {"prompt": row["prompt"], "entry_point": "more", "tests": [row["test"]]}
    for line in (row, kept):
        task = CodeTask("code", {"test": loaded(tmp_path, line)})
        checks = task.check(task.prompts("test") * 2, ["    return a + 1", "    return a"])
        assert [check.reward for check in checks] == [1.0, 0.0]
