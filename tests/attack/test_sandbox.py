"""Code that cheats: each of these fails its tests, and leaves the machine as it was."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from polychromic.tasks.checking.reaping import children
from polychromic.tasks.checking.sandbox import Limits, Sandbox
from polychromic.tasks.code import Problem, judged

ADD = Problem("add", "Write add.", tests=("assert add(2, 3) == 5", "assert add(-1, 1) == 0", "assert add(10, 7) == 17"))
LIMITS = Limits(seconds=1.5, memory_gb=0.5, most_bytes=2**16)


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


ATTACKS = {
    "equal to everything": """
class Same:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def add(a, b): return Same()
""",
    "int with lying operators": """
class Liar(int):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0
    def __int__(self): return 5
def add(a, b): return Liar(99)
""",
    "str with lying operators": """
class Liar(str):
    def __eq__(self, other): return True
def add(a, b): return Liar("5")
""",
    "float with lying operators": """
class Liar(float):
    def __eq__(self, other): return True
    def __float__(self): return 5.0
def add(a, b): return Liar(99.0)
""",
    "list subclass that iterates otherwise": """
class Liar(list):
    def __eq__(self, other): return True
    def __iter__(self): return iter([5])
def add(a, b): return Liar([1])
""",
    "walks frames": """
import sys
def add(a, b):
    frame, seen = sys._getframe(), []
    while frame is not None:
        seen += [v for v in [*frame.f_locals.values(), *frame.f_globals.values()] if isinstance(v, int)]
        frame = frame.f_back
    return next((v for v in seen if v == a + 0 * b + b and v not in (a, b)), None)
""",
    "sys.exit(0)": "import sys\ndef add(a, b): sys.exit(0)",
    "sys.exit(0) at once": "import sys\nsys.exit(0)",
    "os._exit(0)": "import os\ndef add(a, b): os._exit(0)",
    "os._exit(0) at once": "import os\nos._exit(0)",
    "prints a forged result": """
import sys
def add(a, b):
    print('{"value": 5, "raised": null}'); sys.stdout.flush()
    sys.__stdout__.write('{"value": 5}') if sys.__stdout__ else None
""",
    "writes to every descriptor": """
import os
def add(a, b):
    for fd in range(64):
        for word in (b'{"value": true, "raised": null}\\n', b'{"passed": true}\\n', b'{"reward": 1.0}\\n'):
            try: os.write(fd, word)
            except OSError: pass
    return None
""",
    "patches builtins": """
import builtins
builtins.AssertionError = type('Never', (Exception,), {})
builtins.len = lambda *_: 5
builtins.sum = builtins.eval = builtins.exec = lambda *_, **__: 5
def add(a, b): return len([])* 0
""",
    "patches the test module": """
import sys, gc
for module in list(sys.modules.values()):
    for name in list(vars(module)):
        if name in ("judged", "decode", "encode", "Verdict", "_outcome", "_called"):
            try: setattr(module, name, lambda *_, **__: True)
            except Exception: pass
def add(a, b): return None
""",
    "reads the tests from disk": """
import os
def add(a, b):
    for root in ("/work", "/root", "/home", "/tmp", "/usr", "."):
        for folder, _, files in os.walk(root):
            for file in files:
                if file == "test_sandbox.py":
                    open(os.path.join(folder, file)).read()
                    return a + b
""",
    "reads the tests from /proc": """
import os
def add(a, b):
    for process in os.listdir("/proc"):
        if process.isdigit() and int(process) != os.getpid():
            open(f"/proc/{process}/environ").read()
            open(f"/proc/{process}/mem", "rb").seek(0)
            return a + b
""",
    "forks a daemon and leaves": """
import os, time
def add(a, b):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    os._exit(0)
""",
    "leaves threads running": """
import threading, time, os
def add(a, b):
    for _ in range(4): threading.Thread(target=time.sleep, args=(600,)).start()
    os._exit(0)
""",
    "forks without end": """
import os
def add(a, b):
    while True:
        try: os.fork()
        except OSError: pass
""",
    "infinite loop": "def add(a, b):\n    while True: pass",
    "infinite loop at once": "while True: pass",
    "catches the timeout": """
def add(a, b):
    while True:
        try:
            while True: pass
        except BaseException: pass
""",
    "ignores signals": """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
def add(a, b): time.sleep(600)
""",
    "allocates 10 GB": "def add(a, b):\n    x = bytearray(10 * 2**30)\n    return a + b",
    "writes 10 GB": """
def add(a, b):
    with open("big", "wb") as file:
        for _ in range(10 * 1024): file.write(bytes(2**20))
    return a + b
""",
    "returns 10 GB": "def add(a, b): return 'x' * (10 * 2**30)",
    "returns 1 MB": "def add(a, b): return 'x' * 2**20",
    "prints 10 GB": "import os\ndef add(a, b):\n    while True: print('x' * 2**20)",
    "a number of a million digits": "def add(a, b): return 10 ** 1_000_000",
    "an iterator without end": "def add(a, b):\n    while True: yield 5",
    "a list that holds itself": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "deep nesting": "def add(a, b):\n    x = []\n    for _ in range(100_000): x = [x]\n    return x",
    "recursion without end": "def add(a, b): return add(a, b)",
    "asks for the keyboard": "def add(a, b): return int(input())",
    "a module that cannot be": "import nowhere_at_all\ndef add(a, b): return a + b",
    "no Python": "def add(a, b) return a + b",
    "null bytes": "def add(a, b): return a + b\0",
    "nothing": "",
    "another name": "def plus(a, b): return a + b",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_fails_its_tests(sandbox, attack):
    started = time.monotonic()
    verdict = judged(ADD, ATTACKS[attack], sandbox, LIMITS)
    assert not verdict.passed
    assert verdict.reason
    assert time.monotonic() - started < 60  # far above the limit: the machine may be busy
    assert verdict.timed_out == verdict.reason.startswith("timeout")
    # The next candidate is judged as if nothing had been.
    assert judged(ADD, "def add(a, b): return a + b", sandbox, Limits()).passed


def test_what_runs_out_of_time_is_no_wrong_answer(sandbox):
    late = judged(ADD, ATTACKS["infinite loop"], sandbox, Limits(seconds=0.5))
    assert (late.passed, late.timed_out) == (False, True)
    assert judged(ADD, "def add(a, b): return a - b", sandbox).reason == "wrong answer"


def test_no_process_outlives_its_candidate(sandbox):
    judged(ADD, "", sandbox, LIMITS)  # what waits to be forked is there from here on
    before = processes()
    for attack in ("forks a daemon and leaves", "leaves threads running"):
        judged(ADD, ATTACKS[attack], sandbox, LIMITS)
    deadline = time.monotonic() + 30
    while processes() - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes() <= before


def test_programs_that_have_ended_leave_no_entries(sandbox):
    """Past bug: where files are restricted, ended programs stayed in the system's table of processes, one in four of
    them until it was full: after 30,000 or more, nothing could be started on the machine any more."""
    for _ in range(40):
        assert judged(ADD, "def add(a, b): return a + b", sandbox).passed
    assert children(sandbox._room.keeper) == []


def test_a_daemon_is_ended_where_no_namespace_does_it(monkeypatch):
    """Past bug: where files are restricted and there is no namespace of processes, a program's daemons lived on."""

    popen = subprocess.Popen
    without = (
        "from polychromic.tasks.checking import child, process; child.unshare = lambda *names: False; process.main()"
    )

    def start(command, **options):
        assert command[1] == "-m"
        return popen([command[0], "-c", without, *command[3:]], **options)

    monkeypatch.setattr(subprocess, "Popen", start)
    sandbox = Sandbox()
    verdict = judged(ADD, ATTACKS["forks a daemon and leaves"], sandbox, LIMITS)
    monkeypatch.undo()
    assert "own processes" not in verdict.protection
    deadline = time.monotonic() + 10
    while children(sandbox._room.keeper) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children(sandbox._room.keeper) == []
    sandbox.close()


def processes():
    """The numbers of all processes below this one, and of those of a sandbox that have lost their parents."""
    found, left = set(), [os.getpid()]
    while left:
        below = children(left.pop())
        found |= set(below)
        left += below
    for orphan in children(1):
        try:
            if b"checking.process" in Path(f"/proc/{orphan}/cmdline").read_bytes():
                found.add(orphan)
        except OSError:
            continue
    return found


def test_files_outside_stay(sandbox, tmp_path):
    """Past bug: code ran as the user who trains, who may delete what it has trained."""
    precious = tmp_path / "precious"
    precious.write_text("weights")
    precious.chmod(0o666)
    code = f"""
import os, shutil
def add(a, b):
    for what in (lambda: os.remove({str(precious)!r}), lambda: open({str(precious)!r}, 'w').write('')):
        try: what()
        except OSError: pass
    return a + b
"""
    verdict = judged(ADD, code, sandbox)
    if "own files" not in verdict.protection:
        pytest.skip("this system does not keep code from files (Landlock); SECURITY.md says what to use then")
    assert precious.read_text() == "weights"


def test_no_network(sandbox):
    code = """
import socket
def add(a, b):
    try: socket.create_connection(("127.0.0.1", PORT), timeout=1)
    except OSError: return 5
    return a * b * 100
"""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        problem = Problem("net", "", tests=("assert add(2, 3) == 5",))
        verdict = judged(problem, code.replace("PORT", str(port)), sandbox)
    if "no network" not in verdict.protection:
        pytest.skip("this system does not keep code from the network")
    assert verdict.passed


def test_processes_are_limited_and_threads_are_not_forgotten(sandbox):
    code = """
import os, threading, time
def forks():
    count = 0
    for _ in range(200):
        try: child = os.fork()
        except OSError: break
        if child == 0: time.sleep(60); os._exit(0)
        count += 1
    return count
def threads():
    done = []
    started = [threading.Thread(target=done.append, args=(number,)) for number in range(40)]
    for thread in started: thread.start()
    for thread in started: thread.join()
    return len(done)
"""
    assert judged(Problem("threads", "", tests=("assert threads() == 40",)), code, sandbox).passed
    verdict = judged(Problem("forks", "", tests=("assert 0 < forks() < 64",)), code, sandbox)
    if os.getuid() == 0 or "no rights" not in verdict.protection:
        pytest.skip("root's processes are not counted, nor can those of one candidate be without a namespace of users")
    assert verdict.passed


def test_environment_descriptors_and_home_are_empty(sandbox):
    os.environ["POLYCHROMIC_SECRET"] = "token"
    code = """
import os
def seen(): return sorted(os.environ), os.listdir(os.environ["HOME"]), os.getcwd() == os.environ["HOME"]
def open_files():
    found = 0
    for fd in range(3, 256):
        try: os.fstat(fd); found += 1
        except OSError: pass
    return found
"""
    problem = Problem(
        "env",
        "",
        tests=("assert seen() == (['HOME', 'PATH', 'TMPDIR'], [], True)", "assert open_files() == 1"),
    )
    try:
        assert judged(problem, code, sandbox).passed
    finally:
        del os.environ["POLYCHROMIC_SECRET"]
