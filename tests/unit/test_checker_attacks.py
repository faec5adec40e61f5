"""Answers that cheat: they forge rewards, poison the process that judges them, or reach for the ones above it."""

import json
import logging
import os
import secrets
from pathlib import Path

import pytest

from polychromic.errors import CheckerError
from polychromic.evaluation.collect import CollectionPlan, collect
from polychromic.generations import read_generations
from polychromic.records import Check, Generation, Prompt, SamplingParameters, as_messages
from polychromic.tasks import run_isolated
from polychromic.tasks.checking import isolation
from polychromic.tasks.jsonl_task import CustomTask

PROMPTS = [Prompt(name, as_messages(f"Question {name}"), ("A",)) for name in "pqr"]
needs_proc = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="reads /proc")

EXECUTES = """
def check(prompt, text):
    try:
        exec(text, {})
    except BaseException:
        pass
    return 0.0
"""

LINES_TO_GUESSED_DESCRIPTORS = """
import os, json
for descriptor in range(3, 64):
    for number in range(1, 60):
        for line in (
            {"number": number, "reward": 1.0, "error": None, "children": False, "exhausted": False},
            {"returned": number}, {"token": number, "reward": 1.0, "error": None}, {"token": None, "reward": 1.0},
        ):
            try:
                os.write(descriptor, (json.dumps(line) + "\\n").encode())
            except OSError:
                break
"""
FRAME_WALKING = """
import sys, json
frame = sys._getframe()
while frame is not None:
    found = list(frame.f_locals.values()) + [getattr(frame.f_locals.get("self"), "__dict__", {})]
    for request in [value for value in found if isinstance(value, dict) and "number" in value]:
        for stream in found:
            for say in ("write", "send"):
                for line in ({"number": request["number"], "reward": 1.0, "error": None}, {"token": None, "reward": 1}):
                    try:
                        getattr(stream, say)(line if say == "send" else (json.dumps(line) + "\\n").encode())
                        stream.flush()
                    except Exception:
                        pass
    request = frame.f_locals.get("request")
    if isinstance(request, dict):
        request.update(reward=1.0, control=1.0)
    frame = frame.f_back
"""
NEW_WORDS_FOR_ALL = """
import gc, sys
from polychromic.records import Check
for module in list(sys.modules.values()):
    if hasattr(module, "run_checker"):
        module.run_checker = lambda function, prompts, texts: [Check(1.0)] * len(texts)
for function in gc.get_objects():
    if getattr(function, "__qualname__", "") == "check":
        function.__code__ = (lambda prompt, text: 1.0).__code__
"""


def ask(checker, *texts):
    return checker.run([PROMPTS[index % len(PROMPTS)] for index in range(len(texts))], texts)


@pytest.mark.parametrize("attack", [LINES_TO_GUESSED_DESCRIPTORS, FRAME_WALKING])
def test_an_executed_answer_gives_itself_no_reward_and_no_other(checker, attack):
    """Past bug: one such answer turned 24 of 24 rewards from 0 to 1, in other arms too."""
    rewards = [check.reward for check in ask(checker(EXECUTES), attack, *["x = 1"] * 23)]
    assert rewards[0] in (0.0, None)
    assert rewards[1:] == [0.0] * 23


def test_an_executed_answer_that_rewrites_its_process_is_found_out_and_touches_no_other(checker):
    first, *others = ask(checker(EXECUTES), NEW_WORDS_FOR_ALL, *["x = 1"] * 5)
    assert first.reward is None
    assert "has changed what that process says" in first.error
    assert others == [Check(0.0)] * 5


@needs_proc
def test_tokens_stand_nowhere_while_an_answer_runs(checker, tmp_path, monkeypatch):
    drawn = []
    draw = secrets.token_hex
    monkeypatch.setattr(secrets, "token_hex", lambda n: drawn.append(draw(n)) or drawn[-1])
    attack = f"""
import fcntl, os, sys
seen = [open("/proc/self/environ", "rb").read(), open("/proc/self/cmdline", "rb").read()]
for descriptor in range(3, 64):
    try:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        seen.append(os.read(descriptor, 65536))
    except OSError:
        pass
for line in open("/proc/self/maps"):
    if "rw-p" in line:
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        try:
            memory = os.open("/proc/self/mem", os.O_RDONLY)
            seen.append(os.pread(memory, end - start, start))
            os.close(memory)
        except (OSError, OverflowError):
            pass
with open({str(tmp_path / "seen")!r}, "ab") as file:
    file.write(b"".join(seen))
"""
    ask(checker(EXECUTES, recheck=False), attack, attack)
    seen = (tmp_path / "seen").read_bytes()
    assert b"Question p" in seen  # it saw all that there was to see
    assert drawn
    assert not [token for token in drawn if token.encode() in seen]


@needs_proc
def test_what_an_answer_starts_cannot_reach_into_the_processes_above_it(checker, tmp_path):
    """They belong to the same user, whose processes may read and write each other's memory through /proc."""
    out = tmp_path / "reached"
    no_rights = "no rights" in run_isolated("").protection or os.getuid() == 0
    attack = f"""
import subprocess, sys
program = '''
import os
process, reached = os.getppid(), []
for _ in range(4):  # the judge, the template, the keeper, and the one that asks
    try:
        if _ < 3 or {no_rights}:
            os.close(os.open(f"/proc/{{process}}/mem", os.O_RDWR))
            reached.append(process)
    except OSError:
        pass
    try:
        for name in os.listdir(f"/proc/{{process}}/fd"):
            if (_ < 3 or {no_rights}) and os.path.exists(f"/proc/{{process}}/fd/{{name}}"):
                reached.append((process, name))
    except OSError:
        pass
    process = int(open(f"/proc/{{process}}/stat").read().rpartition(")")[2].split()[1])
open({str(out)!r}, "w").write(repr(reached))
'''
subprocess.run([sys.executable, "-c", program])
"""
    assert ask(checker(EXECUTES, recheck=False), attack) == [Check(0.0)]
    assert out.read_text() == "[]"


KEEPS = """
SAID = {}
def check(prompt, text):
    return float(SAID.setdefault("all", text == "poison"))
"""


def test_an_answer_that_changes_the_process_without_being_executed_stops_the_run_and_is_named(checker):
    with pytest.raises(
        CheckerError, match=r"says 1 of the answer .*, but 0 in a process that has met no other answer"
    ) as caught:
        ask(checker(KEEPS), "poison", *"abcdefgh")
    assert "'poison' to prompt 'p' changes the process that judges it" in str(caught.value)


def test_the_process_that_was_changed_is_not_asked_again(checker):
    poisoned = checker(KEEPS)
    with pytest.raises(CheckerError):
        ask(poisoned, "poison", *"abcdefgh")
    assert ask(poisoned, "a", "b") == [Check(0.0), Check(0.0)]


def test_a_checker_that_varies_by_itself_is_told_of_and_goes_on(checker, caplog):
    varying = checker("import random\ndef check(prompt, text):\n    return random.random()\n")
    with caplog.at_level(logging.WARNING, logger="polychromic"):
        for _ in range(3):
            assert all(check.reward is not None for check in ask(varying, *"abcdef"))
    assert caplog.text.count("it varies by itself") <= 3


def test_asking_again_can_be_switched_off(checker):
    checks = ask(checker(KEEPS, recheck=False), "poison", "a")
    assert checks == [Check(1.0), Check(1.0)]


def test_a_checker_that_executes_and_cannot_be_forked_says_so(checker):
    source = (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n" + EXECUTES
    )
    [check] = ask(checker(source), "x = 1")
    assert check.reward is None
    assert "cannot have one for each answer" in check.error


def test_a_checker_that_imports_threads_is_asked_in_the_process_that_imported_it(checker):
    source = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    threaded = checker(
        source + "def check(prompt, text):\n    if text == 'x':\n        raise SystemExit\n    return 0.5\n"
    )
    assert [check.reward for check in ask(threaded, "a", "x", "b")] == [0.5, None, 0.5]


class Says:
    """A sampler whose answers to each prompt are known."""

    def __init__(self, texts):
        self._texts = texts

    def sample(self, prompts, n, parameters, seeds):
        return [[Generation(text, (1,), "stop") for text in self._texts[prompt.id]] for prompt in prompts]


def test_a_chunk_whose_rewards_are_taken_back_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "_MOST_SHARE", 1e9)  # every batch, however little time has passed
    (tmp_path / "mine.py").write_text(
        "SAID = {}\ndef check(prompt, text):\n    SAID.update({text: 1.0})\n    return SAID.get('poison', 0.0)\n"
    )
    data = tmp_path / "prompts.jsonl"
    data.write_text(json.dumps({"prompt": "Q"}) + "\n")
    task = CustomTask(data, data, data, checker=f"{tmp_path / 'mine.py'}:check", embedder="hash")
    plan = CollectionPlan(tuple(PROMPTS), 4, (SamplingParameters(),), ("test",), max_decode_batch=4)
    sampler = Says({"p": list("abcd"), "q": ["poison", *"abc"], "r": list("abcd")})
    path = tmp_path / "generations.jsonl"
    with pytest.raises(CheckerError, match="not used"):
        collect(plan, lambda: sampler, task, path)
    assert {(row.prompt_id, row.reward) for row in read_generations(path)} == {("p", 0.0)}
