"""Answers of a checker's process: what is believed of them, and what is noticed before it gives any."""

import json
import socket
import sys
import threading

import pytest

from polychromic.records import Check, Prompt, as_messages
from polychromic.tasks.checking.family import Process, ProcessFailedError
from polychromic.tasks.checking.protocol import Conversation
from polychromic.tasks.checking.watch import AnswerExecutedError, ExecutionWatch

PROMPT = Prompt("p", as_messages("Q"), ("A",))


def answers(*lines):
    """Returns what is made of a process that says this to each of our messages, as bytes or as JSON with our token."""
    ours, theirs = socket.socketpair()

    def speak():
        with theirs, theirs.makefile("rwb") as stream:
            stream.readline()
            stream.write(b'{"returned": 1}\n')
            stream.flush()
            token = json.loads(stream.readline())["token"]
            for line in lines:
                stream.write(line if isinstance(line, bytes) else json.dumps({"token": token} | line).encode())
                stream.write(b"\n")
            stream.flush()

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        return Process(Conversation(ours), Process(Conversation(socket.socket()))).ask(PROMPT, "x", 5.0, watch=True)
    finally:
        speaker.join()


@pytest.mark.parametrize(
    "reward",
    [1e9, -0.1, 1.0000001, "lots", "1.0", [1], {"a": 1}, True, 1, 10**400, float("nan"), float("inf"), None],
)
def test_a_reward_of_another_type_or_range_is_none(reward):
    """Past bug: 1e9 went into the statistics, [1] came out as a traceback."""
    check = answers({"reward": reward, "error": None}).check
    assert check.reward is None
    assert "expected a number from 0 to 1" in check.error


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"reward": 0.5, "error": "but"},
        {"reward": None, "error": ["x"]},
        {"reward": None, "error": "x" * 9999},
    ],
)
def test_an_answer_of_another_shape_is_none(answer):
    assert answers(answer).check.reward is None


def test_lines_that_are_no_answer_are_passed_over():
    noise = [
        b"[" * 60_000,
        b"{" * 1000,
        b"\xff\xfe",
        b"null",
        b"[1]",
        b'{"token": "guessed", "reward": 1.0, "error": null}',
    ]
    assert answers(*noise, {"reward": 0.25, "error": None}).check == Check(0.25)


def test_no_answer_at_all_is_a_reason():
    with pytest.raises(ProcessFailedError, match="process ended"):
        answers(b"{}")


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "GeneratorExit", "SystemExit", "asyncio.CancelledError", "Mine"])
def test_whatever_a_checker_raises_is_named(checker, name):
    """Past bug: what is no Exception was "killed by SIGKILL"."""
    raising = checker(
        f"import asyncio\nclass Mine(BaseException): pass\ndef check(prompt, text):\n    raise {name}('why')\n"
    )
    [check] = raising.run([PROMPT], ["x"])
    assert check.reward is None
    assert check.error.startswith(name.rpartition(".")[2])


def test_a_number_that_lies_about_itself_is_taken_for_what_it_holds(checker):
    lying = checker(
        "class Lie(float):\n"
        "    __le__ = __ge__ = __lt__ = __gt__ = __eq__ = lambda self, other: True\n"
        "    def __float__(self): return 1.0\n"
        "def check(prompt, text):\n    return Lie(text)\n"
    )
    low, high = lying.run([PROMPT] * 2, ["0.25", "1e9"])
    assert low == Check(0.25)
    assert high.reward is None


def watched(function, text):
    watch = ExecutionWatch()
    sys.addaudithook(watch)  # for good, but it does nothing outside `over`
    with watch.over(text):
        try:
            function(text)
        except AnswerExecutedError:
            return True
    assert not watch.found
    return False


def from_file(folder):
    def run(text):
        (folder / "answer_module.py").write_text(text)
        sys.path.insert(0, str(folder))
        try:
            import answer_module  # noqa: F401 # type: ignore[import-not-found]
        finally:
            sys.path.remove(str(folder))

    return run


def through_a_tree(text):
    import ast

    exec(compile(ast.parse(text), "answer", "exec"), {})


def as_a_function(text):
    import types

    types.FunctionType(compile(text, "answer", "exec"), {})()


def test_execution_of_an_answer_is_noticed_before_it_runs(tmp_path):
    text = "raise RuntimeError('it ran')"
    for function in (
        exec,
        eval,
        lambda text: exec("def f():\n  " + text + "\nf()"),
        lambda text: exec(text.encode()),
        through_a_tree,
        as_a_function,
        from_file(tmp_path),
    ):
        assert watched(function, "1 + 1" if function is eval else text)


def test_what_only_reads_an_answer_is_no_execution():
    import ast
    from collections import namedtuple

    assert not watched(ast.literal_eval, "[1, 2]")
    assert not watched(ast.parse, "x = 1")
    assert not watched(json.loads, "[1]")
    assert not watched(lambda text: namedtuple("Point", text), "first second")
    assert not watched(lambda text: exec("x = len(text)", {"text": text}), "return True")
