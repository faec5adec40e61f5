"""Code that leaves word, or damage, for the next candidate: that one is judged as if nothing had been."""

import subprocess
from pathlib import Path

import pytest

from polychromic.tasks.checking.rooms import _remove_all
from polychromic.tasks.checking.sandbox import Limits, Sandbox
from polychromic.tasks.code import Problem, judged

FIVE = Problem("five", "Write f.", tests=("assert f() == 5",))
RIGHT = "def f(): return 5"
SHARED = """
import ctypes
c = ctypes.CDLL(None)
c.shmat.restype = ctypes.c_void_p
def f():
    if (place := c.shmget(4242, 4096, {how})) < 0: return None
    at = c.shmat(place, None, 0)
    {do}
"""
MESSAGE = """
import ctypes
c = ctypes.CDLL(None)
def f():
    if (queue := c.msgget(4242, {how})) < 0: return None
    text = ctypes.create_string_buffer(24)
    text[0:8] = (1).to_bytes(8, "little")
    {do}
"""
# What one candidate leaves, and how the next one would find it.
TRACES = {
    "a file beside its folder": (
        "def f(): open('../word', 'w').write('5'); return 5",
        "def f(): return int(open('../word').read())",
    ),
    "a folder beside its folder": (
        "import os\ndef f(): os.mkdir('../5'); return 5",
        "import os\ndef f(): return max(int(name) for name in os.listdir('..') if name.isdigit())",
    ),
    "shared memory": (
        SHARED.format(how="0o1666", do="ctypes.memmove(at, b'5', 1)"),
        SHARED.format(how="0o666", do="return int(ctypes.string_at(at, 1))"),
    ),
    "a queue of messages": (
        MESSAGE.format(how="0o1666", do="c.msgsnd(queue, text, 8, 0)"),
        MESSAGE.format(how="0o666", do="return 5 if c.msgrcv(queue, text, 8, 0, 0o4000) == 8 else None"),
    ),
    "an attribute of its folder's folder": (
        "import os\ndef f(): os.setxattr('..', 'user.word', b'5'); return 5",
        "import os\ndef f(): return int(os.getxattr('..', 'user.word'))",
    ),
    "the mode of its folder's folder": (
        "import os\ndef f(): os.chmod('..', 0o755); return 5",
        "import os\ndef f(): return 5 if os.stat('..').st_mode & 0o777 == 0o755 else None",
    ),
    "the time of a library": (
        "import json, os\ndef f(): os.utime(json.__file__, (5, 5)); return 5",
        "import json, os\ndef f(): return int(os.stat(json.__file__).st_mtime)",
    ),
}


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize("trace", TRACES)
def test_no_candidate_leaves_word_for_the_next(sandbox, trace):
    """Past bug: one that passed could leave its answers in the folder of the room, in shared memory or in a message."""
    leaves, finds = TRACES[trace]
    first = judged(FIVE, leaves, sandbox)
    if not {"own files", "fewer system calls"} <= set(first.protection):
        pytest.skip("this system does not keep code from files and calls (extra `sandbox`)")
    assert not judged(FIVE, finds, sandbox).passed
    assert judged(FIVE, RIGHT, sandbox).passed


@pytest.mark.parametrize("trace", ["shared memory", "a queue of messages"])
def test_without_a_filter_of_calls_messages_have_a_namespace_for_each_candidate(monkeypatch, trace):
    popen = subprocess.Popen
    without = (
        "from polychromic.tasks.checking import reaping, process; reaping.call_filter = lambda: None; process.main()"
    )
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **options: popen([command[0], "-c", without, *command[3:]], **options)
    )
    sandbox = Sandbox()
    leaves, finds = TRACES[trace]
    first = judged(FIVE, leaves, sandbox)
    monkeypatch.undo()
    assert "fewer system calls" not in first.protection
    if "own processes" not in first.protection:
        pytest.skip("this system lets nobody have namespaces")
    assert not judged(FIVE, finds, sandbox).passed
    sandbox.close()


@pytest.mark.parametrize(
    "closing",
    [
        "os.chmod('..', 0)",
        "os.mkdir('a'); open('a/b', 'w').close(); os.chmod('a', 0); os.chmod('.', 0)",
        "ctypes.CDLL(None).chmod(b'..', 0)",
    ],
)
def test_a_folder_that_a_candidate_closes_is_open_for_the_next(sandbox, closing):
    """Past bug: every later candidate of that worker failed ("the code's process ended"), whatever it answered."""
    judged(FIVE, f"import ctypes, os\ndef f():\n    {closing}\n    return 5", sandbox)
    shared = Path(sandbox._room._folder)
    shared.chmod(0)  # as where no filter keeps code from it
    for _ in range(2):
        assert judged(FIVE, RIGHT, sandbox).passed
    assert list(shared.iterdir()) == []
    shared.rmdir()  # as where code is not kept from files
    sandbox._room.open().end()


def test_a_folder_with_closed_folders_in_it_is_removed(tmp_path):
    folder = tmp_path / "own"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("x")
    (folder / "link").symlink_to(tmp_path)
    for path in (folder / "a" / "b", folder / "a", folder):
        path.chmod(0)
    _remove_all(str(folder))
    assert not folder.exists() and tmp_path.stat().st_mode & 0o700 == 0o700


def test_files_in_memory_cannot_take_the_machines(sandbox):
    """Past bug: no limit of a process counts them, and 250 of one GB each may be open."""
    code = """
import os
def f():
    try: return len([os.memfd_create(str(number)) for number in range(3)])
    except OSError: return 5
"""
    verdict = judged(FIVE, code, sandbox)
    if "fewer system calls" not in verdict.protection:
        pytest.skip("this system has no filter of calls")
    assert verdict.passed


CHEATS = {
    "closes the conversation": "import os\ndef f():\n    os.closerange(3, 256)\n    return 5 * 0",
    "answers before it is asked": """
import os
for fd in range(3, 64):
    try: os.write(fd, b'{"value": 4, "raised": null}\\n' * 8)
    except OSError: pass
def f(): return 4
""",
    "answers from a thread": """
import os, threading
def talk():
    while True:
        for fd in range(3, 9):
            try: os.write(fd, b'{"value": true, "raised": null}\\n')
            except OSError: pass
threading.Thread(target=talk, daemon=True).start()
def f(): return 4
""",
    "rewrites json": """
import json
json.dumps = lambda *_, **__: '{"value": true, "raised": null}'
def f(): return 4
""",
    "a handle out of nowhere": """
import os
def f():
    for fd in range(3, 64):
        try: os.write(fd, b'{"value": {"handle": [Infinity, "int"]}, "raised": null}\\n')
        except OSError: pass
""",
    "not a number": "def f(): return float('nan')",
    "a handle of a class": "def f(): return int",
    "raises an error that claims to be a passed test": "class Passed(BaseException): pass\ndef f(): raise Passed('ok')",
    "raises an error that cannot be shown": """
class Loud(Exception):
    def __str__(self): raise SystemExit(0)
def f(): raise Loud()
""",
    "ends its parent": "import os, signal\ndef f():\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 4",
    "ends all processes": "import os, signal\ndef f():\n    os.kill(-1, signal.SIGKILL)\n    return 4",
    "stops itself": "import os, signal\ndef f():\n    os.kill(os.getpid(), signal.SIGSTOP)\n    return 5 * 0",
    "traces every call": """
import sys
def look(frame, event, given):
    frame.f_locals['value'] = True
    return look
sys.settrace(look)
sys.setprofile(lambda frame, event, given: frame.f_locals.update(value=True))
def f(): return 4
""",
    "a hundred thousand items that hash alike": """
def f():
    import os
    part = b', '.join(b'{"int": "%x"}' % (n * (2**61 - 1)) for n in range(2000))
    for fd in range(3, 64):
        try: os.write(fd, b'{"value": {"set": [' + part + b']}, "raised": null}\\n')
        except OSError: pass
""",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_it_fails_its_tests(sandbox, cheat):
    verdict = judged(FIVE, CHEATS[cheat], sandbox, Limits(seconds=1.5, most_bytes=2**16))
    assert not verdict.passed and verdict.reason
    assert judged(FIVE, RIGHT, sandbox).passed


def test_the_packages_own_problems_cannot_be_read(sandbox):
    """They hold the tests and solutions of HumanEval and MBPP."""
    code = """
import sys
from pathlib import Path
def f():
    for folder in sys.path:
        place = Path(folder) / "polychromic/tasks/code/data/humaneval.jsonl.gz"
        try: return 4 if place.read_bytes() else 4
        except OSError: continue
    return 5
"""
    verdict = judged(FIVE, code, sandbox)
    if "own files" not in verdict.protection:
        pytest.skip("this system does not keep code from files (Landlock)")
    assert verdict.passed
    assert Path("src/polychromic/tasks/code/data/humaneval.jsonl.gz").exists()
