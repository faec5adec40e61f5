"""Programs and functions of answers as they are started: their name, their streams, their time."""

import os
import time

import pytest

from polychromic.errors import DataError
from polychromic.tasks.base import Split
from polychromic.tasks.checking.sandbox import Limits, Sandbox, run_isolated
from polychromic.tasks.code import CodeTask, Problem, judged
from polychromic.tasks.code.behaviour import behaviour

CODE = "def f(x):\n    return x"


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize(
    "guarded",
    ["print(f(int(input())))", "import unittest; unittest.main()", "raise SystemExit(f(1))"],
)
def test_what_is_for_the_main_program_is_not_run_where_a_function_is_asked_for(sandbox, guarded):
    """Past bug: a right function with a demonstration that reads its input was a wrong answer (EOFError)."""
    problem = Problem("p", "", ("assert f(1) == 1",))
    data = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\n"
    assert judged(problem, f"{data}{CODE}\nif __name__ == '__main__':\n    {guarded}\n", sandbox).passed


@pytest.mark.parametrize(
    "code",
    [
        "if __name__ == '__main__':\n    print(int(input()) + 1)",
        # Past bug: "'_io.StringIO' object has no attribute 'buffer'" was the judgement on each of these.
        "import sys\nprint(int(sys.stdin.buffer.readline()) + 1)",
        "import sys\nsys.stdout.buffer.write(b'2\\n')",
        "import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\nprint(2)",
        "import sys\nsys.stdout.reconfigure(line_buffering=True)\nprint(2)",
        # Past bug: what was still to be done behind the last line was not done, and the output was empty.
        "import threading, time\ndef main():\n    time.sleep(0.1)\n    print(int(input()) + 1)\n"
        "threading.Thread(target=main).start()",
        "import atexit\natexit.register(print, 2)",
    ],
)
def test_programs_read_and_write_text_and_bytes(sandbox, code):
    assert judged(Problem("p", "", cases=(("1\n", "2\n"),)), code, sandbox).reason == ""


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory are Linux's")
def test_the_descriptor_of_standard_input_holds_it_too(sandbox):
    assert judged(Problem("p", "", cases=(("1\n", "2\n"),)), "print(int(open(0).read()) + 1)", sandbox).passed


def test_line_ends_are_read_as_python_reads_them():
    done = run_isolated("print([input(), input()])", stdin="a\r\nb")
    assert done.printed == "['a', 'b']\n"


def test_what_is_printed_is_cut_by_characters():
    assert len(run_isolated("print('\\0' * 100_000)").printed) == 2**16
    assert len(run_isolated("print('\\U0001f600' * 100_000)").printed) == 2**16


def test_all_cases_together_have_the_seconds_of_an_answer(sandbox):
    """Past bug: each case had them, so that an answer could take as many times as long as there are cases."""
    problem = Problem("p", "", cases=(("", "1\n"),) * 20)
    began = time.monotonic()
    verdict = judged(problem, "import time\ntime.sleep(0.4)\nprint(1)", sandbox, Limits(seconds=1.0))
    assert (verdict.passed, verdict.timed_out) == (False, True)
    assert time.monotonic() - began < 4.0


def test_programs_are_one_by_behaviour_where_they_print_the_same_for_every_case(sandbox):
    """Past bug: nothing was tried, so that wrong and right programs were one answer, and two ways of reading two."""
    problem = Problem("p", "", cases=(("1\n", "2\n"), ("5\n", "6\n"), ("x\n", "?\n")))
    texts = [
        "print(int(input()) + 1)",
        "import sys\nprint(1 + int(sys.stdin.read()))  # the same",
        "print(2)",
        "print(input())",
        "a = input()\nprint(int(a) + 1 if a != 'x' else '?')",
        "while True: pass",
    ]
    done = [behaviour(problem, text, [], sandbox, Limits(seconds=2.0)) for text in texts]
    assert done[0] == done[1]
    assert len(set(done)) == len(texts) - 1


@pytest.mark.parametrize(
    ("test", "solutions", "shown"),
    [
        ("assert add(2, 3) == 5", (), True),
        ("assert add(a=2, b=3) == 5", ("def add(a, b): return a + b",), False),
        ("assert len(add(a=[], b=[])) == 0", ("def add(a, b): return a + b",), False),
        ("x = [1]\nassert add(x, []) == [1]", (), False),
        ("x = [1]\nassert add(x, []) == [1]", ("def add(a, b): return a + b",), True),
        ("assert sum([1]) == 1", ("def sum(a): return 1",), True),
    ],
)
def test_behaviour_is_refused_where_tests_show_no_call(test, solutions, shown):
    """Past bug: all programs were one answer there."""
    problems: dict[Split, list[Problem]] = {"test": [Problem("add", "Write add.", (test,), solutions=solutions)]}
    CodeTask("code", problems)
    if shown:
        CodeTask("code", problems, same_answer="behaviour")
    else:
        with pytest.raises(DataError, match=r"(?s)behaviour.*1 of the problems.*'add'.*by position.*same_answer: form"):
            CodeTask("code", problems, same_answer="behaviour")


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("0.50 1", "0.5 1", True),
        ("1.0", "1", True),
        ("5e-1", "0.5", True),
        ("x = 2.00\n", "x = 2.0", True),
        ("0.51", "0.5", False),
        ("0110", "110", False),  # digits may be a text
        ("1 2", "1  2", False),
        ("0.5", "0.5 0.5", False),
        ("nan", "0.5", False),
        ("1e999999999", "1.5", False),
    ],
)
def test_numbers_with_a_point_are_compared_by_value(sandbox, printed, expected, same):
    """Past bug: 0.50 was a wrong answer where 0.5 is expected."""
    problem = Problem("p", "", cases=(("", expected),))
    assert judged(problem, f"print({printed!r})", sandbox).passed == same
