"""Checkers that raise, hang, leak, print, fork or die take nothing down and leave nothing behind."""

import os
import time

import pytest

from polychromic.errors import CheckerError
from polychromic.records import Check, Prompt, as_messages
from polychromic.tasks.checking import isolation
from polychromic.tasks.checking.isolation import isolated_checker

PROMPTS = [Prompt("p", as_messages("Q"), ("A",), {"k": [1]})]


def ask(checker, *texts):
    return checker.run(PROMPTS * len(texts), texts)


def test_prompt_and_text_arrive_whole(checker):
    seen = checker("def check(prompt, text):\n    return (prompt.text, prompt.references, prompt.meta, text) == "
                   "('Q', ('A',), {'k': [1]}, 'naïve \\n\\x00 \\ud800')")  # fmt: skip
    assert ask(seen, "naïve \n\x00 \ud800", "other") == [Check(1.0), Check(0.0)]


def test_an_exception_is_a_reason(checker):
    assert ask(checker("def check(prompt, text):\n    return 1 / 0\n"), "x") == [
        Check(None, "ZeroDivisionError: division by zero")
    ]


def test_printing_and_reading_do_not_disturb_the_conversation(checker):
    noisy = checker(
        "import os, sys\nprint('at import')\n"
        "def check(prompt, text):\n"
        "    print('{\"reward\": 1.0}'); os.write(1, b'raw'); sys.stderr.write('x' * 200_000)\n"
        "    return 0.25 if sys.stdin.read() == '' else 1.0\n"
    )
    assert ask(noisy, "a", "b") == [Check(0.25), Check(0.25)]


def test_a_checker_that_hangs_is_stopped_and_the_next_text_is_judged(checker):
    hanging = checker(
        "import time\ndef check(prompt, text):\n    time.sleep(60 if text == 'hang' else 0)\n    return 1.0\n",
        seconds=1.0,
    )
    started = time.monotonic()
    first, second = ask(hanging, "hang", "fine")
    assert first == Check(None, "the checker did not answer within 1 s and was stopped")
    assert second == Check(1.0)
    assert time.monotonic() - started < 20


def test_a_checker_that_leaks_is_a_memory_error(checker):
    leaking = checker("def check(prompt, text):\n    return len(bytearray(3 * 2**30)) > 0\n", memory_gb=2.0)
    [check] = ask(leaking, "x")
    assert check.reward is None
    assert "MemoryError" in check.error


def test_a_checker_that_leaks_bit_by_bit_is_started_anew(checker):
    """Past bug: once its memory was gone, it failed for every later text."""
    source = (
        "kept = []\n"
        "def check(prompt, text):\n    kept.append(bytearray(int(text) * 2**20))\n    return len(kept) / 100\n"
    )
    # An allocation that is never touched takes address space, which is what is limited, and no time.
    checks = ask(checker(source, memory_gb=1.5, seconds=60.0), *["450"] * 8)
    failed = [index for index, check in enumerate(checks) if check.reward is None]
    assert failed
    assert all("MemoryError" in checks[index].error for index in failed)
    assert all(checks[index + 1] == Check(0.01) for index in failed if index + 1 < len(checks))


@pytest.mark.parametrize("number", ["10**400", "-(10**5000)", "float('nan')", "float('inf')", "1 + 1j", "1.01"])
def test_an_impossible_number_is_a_reason(checker, number):
    """Past bug: a whole number too large for a float ended the process, and the reason named a signal."""
    [check] = ask(checker(f"def check(prompt, text):\n    return {number}\n"), "x")
    assert check.reward is None
    assert check.error.startswith("the checker returned ")
    assert "expected a number from 0 to 1" in check.error


def test_a_reason_is_short_and_cannot_fail_itself(checker):
    """Past bug: a message of a megabyte was written beside every generation."""
    source = (
        "class Bad(Exception):\n    def __str__(self):\n        raise RuntimeError\n"
        "def check(prompt, text):\n    raise Bad if text == 'bad' else ValueError('x' * 2**20)\n"
    )
    bad, long = ask(checker(source), "bad", "long")
    assert bad == Check(None, "Bad: (Bad that cannot be shown: RuntimeError)")
    assert long.error.endswith("... (1,048,576 characters)")
    assert len(long.error) < 600


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("os._exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("os.abort()", "SIGABRT"),
    ],
)
def test_a_checker_that_dies_is_started_again(checker, end, reason):
    dying = checker(f"import os\ndef check(prompt, text):\n    if text == 'die':\n        {end}\n    return 1.0\n")
    first, second = ask(dying, "die", "fine")
    assert first.reward is None
    assert reason in first.error
    assert second == Check(1.0)


def processes_in(file):
    """Those of the file, one a line, that have not ended."""
    return [number for number in file.read_text().split() if os.path.isdir(f"/proc/{number}")]  # noqa: PTH112


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")  # noqa: PTH112
def test_what_a_checker_forks_is_ended_with_it(checker, tmp_path):
    file = tmp_path / "forks"
    forking = checker(
        "import os, time\n"
        "def check(prompt, text):\n"
        f"    child = os.fork()\n    open({str(file)!r}, 'a').write(f'{{child or os.getpid()}}\\n')\n"
        "    if child == 0:\n        time.sleep(600)\n"
        "    return 1.0\n",
        recheck=False,
    )
    assert ask(forking, "a", "b") == [Check(1.0), Check(1.0)]
    assert len(set(processes_in(file))) == 2
    forking.close()
    deadline = time.monotonic() + 10
    while processes_in(file):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")  # noqa: PTH112
def test_what_leaves_the_group_neither_holds_the_run_up_nor_lives_on(checker, tmp_path):
    """Past bug: a child in a session of its own kept our pipe open, and stopping the checker waited for it."""
    file = tmp_path / "escapes"
    escaping = checker(
        "import os, subprocess, time\n"
        "def check(prompt, text):\n"
        "    started = subprocess.Popen(['sleep', '600'], start_new_session=True).pid\n"
        f"    open({str(file)!r}, 'a').write(f'{{started}}\\n')\n"
        "    if os.fork() == 0:\n"
        f"        os.setsid()\n        open({str(file)!r}, 'a').write(f'{{os.getpid()}}\\n')\n        time.sleep(600)\n"
        "    time.sleep(600 if text == 'hang' else 0)\n    return 1.0\n",
        seconds=2.0,
        recheck=False,
    )
    started = time.monotonic()
    assert [check.reward for check in ask(escaping, "hang", "fine")] == [None, 1.0]
    assert time.monotonic() - started < 30
    escaping.close()
    assert file.read_text().count("\n") >= 3
    assert processes_in(file) == []


def test_a_process_that_reads_no_more_does_not_hold_the_run_up(checker):
    """Past bug: a text larger than a pipe holds was written for ever to a process that had stopped."""
    stopping = checker(
        "import os, signal, threading\n"
        "def check(prompt, text):\n"
        "    if text == 'stop':\n        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGSTOP)).start()\n"
        "    return 1.0\n",
        seconds=2.0,
    )
    assert ask(stopping, "stop") == [Check(1.0)]
    time.sleep(0.5)
    first, second = ask(stopping, "x" * 2**20, "y" * 2**20)
    assert first == Check(None, "the checker did not answer within 2 s and was stopped")
    assert second == Check(1.0)


def test_a_fork_that_comes_back_from_the_checker_answers_nothing(checker):
    """Past bug: both processes answered, and every later reward belonged to the text before."""
    forking = checker("import os\ndef check(prompt, text):\n    os.fork()\n    return 1.0 if text == 'a' else 0.0\n")
    assert [check.reward for check in ask(forking, *"abaabb")] == [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]


def test_a_process_whose_checker_leaves_children_behind_is_replaced(checker, monkeypatch):
    monkeypatch.setattr(isolation, "_MOST_LEFT_CHILDREN", 3)
    source = (
        "import os\ncalls = 0\n"
        "def check(prompt, text):\n"
        "    global calls\n    calls += 1\n"
        "    if text == 'fork' and os.fork() == 0:\n        os._exit(0)\n"
        "    return calls / 10\n"
    )
    assert [check.reward for check in ask(checker(source), *["fork"] * 6)] == [0.1, 0.2, 0.3, 0.4, 0.1, 0.2]
    assert [check.reward for check in ask(checker(source), *["none"] * 6)] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_what_a_checker_writes_to_every_stream_is_no_answer(checker):
    writing = checker(
        "import os\ndef check(prompt, text):\n"
        "    for stream in range(3, 20):\n"
        "        for line in (b'{\"reward\": 5, \"error\": null}\\n', b'noise\\n', b'[]\\n'):\n"
        "            try:\n                os.write(stream, line)\n            except OSError:\n                pass\n"
        "    return 0.5\n"
    )
    assert ask(writing, "a", "b", "c") == [Check(0.5)] * 3


def test_one_that_fails_again_and_again_ends_with_its_reason(checker):
    dying = checker("import os\ndef check(prompt, text):\n    os._exit(1)\n")
    with pytest.raises(CheckerError, match=r"failed 10 times in a row: .*exit code 1"):
        ask(dying, *"abcdefghijkl")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import not_there\n", "cannot be imported: ModuleNotFoundError"),
        ("import os; os._exit(4)\n", "exit code 4"),
    ],
)
def test_one_that_cannot_be_loaded_says_so_at_once(checker, source, message):
    with pytest.raises(CheckerError, match=message):
        checker(source)


def test_a_changed_file_is_another_checker(tmp_path):
    file = tmp_path / "mine.py"
    values = []
    for value in (0.25, 0.75):
        file.write_text(f"def check(prompt, text):\n    return {value}\n")
        shared = isolated_checker(f"{file}:check", seconds=5.0, memory_gb=4.0)
        assert shared is isolated_checker(f"{file}:check", seconds=5.0, memory_gb=4.0)
        values += [check.reward for check in ask(shared, "x")]
    assert values == [0.25, 0.75]
