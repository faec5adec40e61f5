"""Code executed by `run_isolated` can give data and nothing else: no lies about it, no way out, nothing lives on."""

import errno
import gc
import math
import os
import signal
import threading
import time
import warnings
from collections import Counter, OrderedDict
from enum import IntEnum
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polychromic.records import Check, Prompt, as_messages
from polychromic.tasks import run_isolated
from polychromic.tasks.checking.family import Keeper, ProcessFailedError
from polychromic.tasks.checking.protocol import decode, encode

PROMPT = Prompt("p", as_messages("Q"), ("A",))
PROTECTION = run_isolated("").protection
needs_proc = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="reads /proc")


def value(code, expression="answer"):
    done = run_isolated(code, [expression], seconds=60.0)
    assert done.error is None
    assert done.errors == (None,)
    return done.values[0]


def test_values_come_back_as_plain_data():
    done = run_isolated("def add(a, b):\n    return a + b\n", ["add(1, 2)", "add('a', 'b')", "[(1,), {2: {3}}]"])
    assert done.values == (3, "ab", [(1,), {2: {3}}])
    assert done.errors == (None, None, None)
    assert done.error is None


def test_what_has_no_value_says_why_and_stops_nothing_else():
    done = run_isolated("answer = 1", ["missing", "1 / 0", "object()", "answer"], seconds=60.0)
    assert done.values == (None, None, None, 1)
    assert done.errors[0].startswith("NameError")
    assert done.errors[1].startswith("ZeroDivisionError")
    assert "no plain data" in done.errors[2]


def test_printing_and_reading_are_given_and_bounded():
    done = run_isolated("print(input()); print('x' * 10**6)", stdin="hello\n", seconds=60.0)
    assert done.printed.startswith("hello\nxxx")
    assert len(done.printed) == 2**16


@pytest.mark.parametrize(
    "code",
    [
        "class Answer:\n    __eq__ = lambda self, other: True\n    __hash__ = object.__hash__\nanswer = Answer()",
        "answer = iter(int, 1)",
        "answer = []\nanswer.append(answer)",
        "answer = type('Liar', (), {'__class__': int})()",
    ],
)
def test_what_lies_about_being_equal_or_never_ends_is_no_value(code):
    done = run_isolated(code, ["answer"], seconds=60.0)
    assert done.values == (None,)
    assert done.errors[0]


def test_a_subclass_comes_back_as_what_it_holds():
    lies = "    __eq__ = lambda s, o: True\n    __int__ = __index__ = __repr__ = lambda s: 7\n"
    code = f"class Lie(int):\n{lies}answer = Lie(3)"
    assert value(code) == 3
    assert type(value(code)) is int


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt('why')", "KeyboardInterrupt: why"),
        ("import os\nos._exit(0)", "the code's process ended (exit code 0)"),
        ("import os\nos.abort()", "the code's process ended (killed by SIG"),
        ("def f(:", "SyntaxError"),
        ("x = bytearray(4 * 2**30)", "MemoryError"),
        (
            "import os\nfor descriptor in range(3, 32):\n    try:\n        os.write(descriptor, b'{}\\n')\n"
            "    except OSError:\n        pass",
            "the code wrote something else",
        ),
    ],
)
def test_what_the_code_does_is_said(code, reason):
    done = run_isolated(code, seconds=60.0)
    assert done.error.startswith(reason)


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    pass",
        "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass",
        "import time\nwhile True:\n    print('x' * 10**5)",
        "import os\nwhile True:\n    for descriptor in range(3, 32):\n"
        "        try:\n            os.write(descriptor, b'\\n')\n        except OSError:\n            pass",
    ],
)
def test_code_that_never_ends_is_stopped(code):
    started = time.monotonic()
    done = run_isolated(code, ["1"], seconds=1.0)
    assert done.values == (None,)
    assert "stopped" in done.error
    assert time.monotonic() - started < 60


def test_a_thread_left_running_holds_nothing_up():
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\nanswer = 1"
    assert value(code) == 1


def test_more_than_is_taken_back_is_a_reason():
    assert "more than" in run_isolated("", ["'x' * 10**7"], seconds=60.0).error


@needs_proc
def test_neither_the_environment_nor_our_descriptors_are_there(monkeypatch):
    monkeypatch.setenv("POLYCHROMIC_TEST_SECRET", "of-this-test")
    code = (
        "import os\n"
        "answer = open('/proc/self/environ').read() + open('/proc/self/cmdline').read() + repr(dict(os.environ))\n"
        "sockets = []\n"
        "for name in os.listdir('/proc/self/fd'):\n"
        "    try:\n        link = os.readlink(f'/proc/self/fd/{name}')\n"
        "    except FileNotFoundError:\n        continue  # the listing's own, closed by now\n"
        "    sockets += [] if link.startswith('/dev/null') else [link]\n"
    )
    assert "of-this-test" not in value(code)
    assert len(value(code, "sockets")) == 1
    assert value(code, "os.getcwd()") != os.getcwd()  # noqa: PTH109


@pytest.mark.skipif("no network" not in PROTECTION, reason="this system offers no network of its own")
def test_there_is_no_network():
    code = (
        "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9), 1)\n"
        "except OSError as error:\n    answer = error.errno\n"
    )
    assert value(code) == errno.ENETUNREACH


@needs_proc
@pytest.mark.skipif("no rights" not in PROTECTION, reason="this system offers no user without rights")
def test_it_cannot_reach_into_our_processes():
    code = (
        "import os\nanswer = []\n"
        f"for process in ({os.getpid()}, {os.getppid()}):\n"
        "    for file, mode in (('mem', os.O_RDWR), ('environ', os.O_RDONLY)):\n"
        "        try:\n            os.close(os.open(f'/proc/{process}/{file}', mode))\n"
        "            answer.append((process, file))\n"
        "        except OSError:\n            pass\n"
    )
    assert value(code) == []


@pytest.mark.skipif("own processes" not in PROTECTION, reason="this system offers no processes of its own")
def test_it_sees_no_process_of_ours_and_leaves_none(tmp_path):
    file = tmp_path / "beats"
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.environ.clear()\n"
        f"        for beat in range(600):\n"
        f"            open({str(file)!r}, 'a').write('x')\n            time.sleep(0.05)\n"
        "    os._exit(0)\n"
        f"while not os.path.exists({str(file)!r}):\n    time.sleep(0.01)\n"
    )
    assert value(code, "os.getpid(), os.getppid()") == (1, 0)
    beats = file.stat().st_size
    time.sleep(0.5)
    assert file.stat().st_size <= beats + 1


def test_threads_may_ask_at_once():
    values = {}

    def run(number):
        values[number] = run_isolated(f"answer = {number}", ["answer"], seconds=60.0).values

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == {number: (number,) for number in range(4)}


def test_a_checker_that_executes_answers_in_it_executes_none_itself(checker):
    mine = checker(
        "from polychromic.tasks import run_isolated\n"
        "def check(prompt, text):\n"
        "    done = run_isolated(text, ['add(2, 3)', 'add(-1, 1)'], seconds=20.0)\n"
        "    return done.error is None and done.values == (5, 0)\n",
        seconds=60.0,
    )
    right = "def add(a, b):\n    return a + b\n"
    lying = (
        "class Any(int):\n    __eq__ = lambda self, other: True\n    __hash__ = int.__hash__\n"
        "def add(a, b):\n    return Any(0)\n"
    )
    leaving = "import sys\nsys.exit(0)\n"
    checks = mine.run([PROMPT] * 4, [right, lying, leaving, right])
    assert checks == [Check(1.0), Check(0.0), Check(0.0), Check(1.0)]
    assert not mine.executes_answers


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
)


@given(PLAIN)
@settings(max_examples=50)
def test_plain_values_come_back_as_they_were(one):
    assert repr(decode(encode(one))) == repr(one)


@given(st.sets(st.integers() | st.text()) | st.frozensets(st.integers() | st.tuples(st.text())))
@settings(max_examples=20)
def test_sets_come_back_as_they_were(one):
    back = decode(encode(one))
    assert (back, type(back)) == (one, type(one))


def test_values_made_of_plain_ones_come_back_as_what_they_are_made_of():
    number = IntEnum("Number", "ONE TWO")
    for one, plain in ((Counter("aab"), {"a": 2, "b": 1}), (OrderedDict(a=1), {"a": 1}), (number.TWO, 2)):
        back = decode(encode(one))
        assert (back, type(back)) == (plain, type(plain))
    assert math.isnan(decode(encode(math.nan)))
    assert decode(encode(10**5000)) == 10**5000


@pytest.mark.parametrize("encoded", [[], {}, {"a": 1, "b": 2}, {"lambda": "x"}, {"set": [{"list": []}]}, {"int": 1}])
def test_what_encodes_no_value_is_refused(encoded):
    with pytest.raises((ValueError, TypeError)):
        decode(encoded)


def test_a_fork_of_an_ended_process_leaves_no_socket_open():
    """Past bug: what was left of the failed fork was found by the garbage collector, in another test."""
    keeper = Keeper({"PATH": os.defpath}, apart=True)
    os.kill(keeper.process, signal.SIGKILL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ProcessFailedError):
            keeper.fork()
        gc.collect()
    keeper.stop()
