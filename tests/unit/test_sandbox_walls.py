"""The sandbox behind a wall: one protocol over standard input and output, and clear words where it does not start."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from polychromic.errors import CheckerError
from polychromic.tasks.checking.containers import Wall, _copy_modules
from polychromic.tasks.checking.family import ProcessFailedError
from polychromic.tasks.checking.sandbox import CandidateError, Limits, Sandbox, executed
from polychromic.tasks.code import Problem, judged

ADD = Problem("add", "Write add.", tests=("assert add(2, 3) == 5", "assert add(-1, 1) == 0"))
RIGHT = "def add(a, b): return a + b"
BARE = Wall("command", command=("env", "-i"))
# No home, no packages: the standard library of the system and a few modules of ours.
BWRAP = Wall(
    "command",
    command=("bwrap", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64",
             "/lib64", "--ro-bind", "{modules}", "{modules}", "--dir", "/tmp", "--dev", "/dev", "--proc", "/proc",
             "--unshare-all", "--die-with-parent", "--clearenv"),
    python="/usr/bin/python3",
)  # fmt: skip


def has_bwrap():
    """Says whether this system lets bubblewrap start anything, with a Python that is new enough."""
    if not shutil.which("bwrap") or not Path("/usr/bin/python3").exists():
        return False
    words = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "/usr/bin/python3", "-c", "import tomllib"]
    return subprocess.run(words, capture_output=True, check=False, timeout=30).returncode == 0


@pytest.fixture(scope="module", params=["env -i", "bwrap"])
def sandbox(request):
    if request.param == "bwrap" and not has_bwrap():
        pytest.skip("bubblewrap does not start here")
    sandbox = Sandbox(BWRAP if request.param == "bwrap" else BARE)
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (RIGHT, ""),
        ("def add(a, b): return a - b", "wrong answer"),
        ("def add(a, b): return 1 / 0", "raised: ZeroDivisionError: division by zero"),
        ("def add(a, b):\n    while True: pass", "timeout: "),
        ("import os\ndef add(a, b): os._exit(0)", "raised: the code's process ended (exit code 0)"),
        ("def add(a, b): return 'x' * 2**20", "raised: the code gave more than 65,536 bytes"),
        # To the gate's own streams, and to every process that it can see.
        ("import os\nfor n in range(64):\n  try: os.write(n, b'{\"said\": {\"value\": 5}}\\n')\n"
         "  except OSError: pass\ndef add(a, b): return None", ""),
        ("import os, signal\nfor n in range(2, 400):\n  try: os.kill(n, 9)\n  except OSError: pass\n" + RIGHT, "*"),
    ],
)  # fmt: skip
def test_code_is_judged_as_without_a_wall(sandbox, code, reason):
    verdict = judged(ADD, code, sandbox, Limits(seconds=2.0, most_bytes=2**16))
    if reason != "*":
        assert verdict.passed == (code == RIGHT)
        assert verdict.reason.startswith(reason)
        assert verdict.timed_out == reason.startswith("timeout")
    # The next candidate is judged as if nothing had been.
    assert judged(ADD, RIGHT, sandbox).passed


def test_what_protects_begins_with_the_wall(sandbox):
    assert judged(ADD, RIGHT, sandbox).protection[:2] == ("behind command", "limits")


def test_programs_that_read_and_write_are_run_behind_the_wall_too(sandbox):
    done = executed(sandbox, "print(input())\nx = 3", ["x + 1"], stdin="hello\n", seconds=20.0)
    assert (done.printed, done.values, done.protection[0]) == ("hello\n", (4,), "behind command")


def test_the_gate_needs_the_standard_library_alone(tmp_path):
    """A container's Python has no packages: none may be imported on the way."""
    _copy_modules(tmp_path / "polychromic")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}]\n"
        "from polychromic.tasks.checking import gate; print(gate.__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path))
    assert not list(tmp_path.rglob("*.jsonl*")), "problems and their tests stay outside"


def test_a_gate_that_was_killed_is_replaced():
    sandbox = Sandbox(BARE)
    with sandbox.session() as session:
        session.define("x = 1")
    sandbox._room._gate._popen.kill()
    sandbox._room._gate._popen.wait()
    assert judged(ADD, RIGHT, sandbox).passed
    sandbox.close()


def test_a_gate_that_hangs_is_a_failed_candidate_and_is_stopped(monkeypatch):
    """A gate that says nothing more is not waited for: the deadline is ours."""
    monkeypatch.setattr("polychromic.tasks.checking.containers._PATIENCE_SECONDS", 0.5)
    sandbox = Sandbox(BARE)
    with sandbox.session(Limits(seconds=0.5)) as session:
        session.define("x = 1")
        sandbox._room._gate._popen.send_signal(19)  # SIGSTOP
        with pytest.raises((CandidateError, ProcessFailedError), match="was stopped"):
            session.call("x")
    assert judged(ADD, RIGHT, sandbox).passed
    sandbox.close()


@pytest.mark.parametrize(
    ("wall", "words"),
    [
        (Wall("command", command=("nowhere-at-all",)), "nowhere-at-all cannot be started"),
        (Wall("command", command=("sh", "-c", "echo no room here >&2; exit 3")), "no room here"),
        (Wall("command", command=("echo", "hello")), "did not start the sandbox"),
    ],
)
def test_what_does_not_start_says_why(wall, words):
    with pytest.raises(CheckerError, match=words):
        judged(ADD, RIGHT, Sandbox(wall))


def test_a_gate_that_ends_before_its_first_process_says_why():
    """Past bug: its last words were closed with it, and the message ended where they should stand."""
    script = """echo '{"ready": "3"}'; read request; echo no memory left >&2"""
    sandbox = Sandbox(Wall("command", command=("sh", "-c", script)))
    with pytest.raises(CheckerError, match="no process for code: the container has ended no memory left"):
        judged(ADD, RIGHT, sandbox)
    sandbox.close()


def test_a_docker_that_does_not_answer_is_named(tmp_path, monkeypatch):
    """The client's own words reach the user."""
    client = tmp_path / "docker"
    client.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CheckerError, match=r"task.sandbox: docker .* Cannot connect to the Docker daemon.*docker run"):
        judged(ADD, RIGHT, Sandbox(Wall("docker")))


def test_the_words_for_docker_and_podman():
    words = Wall("podman", options=("--runtime=runsc",), memory_gb=1.5).words(Path("/modules"), "name")
    assert words[:5] == ["podman", "run", "--rm", "--interactive", "--name=name"]
    for option in ("--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
                   "--pids-limit=256", "--memory=1.5g", "--user=65534:65534",
                   "--volume=/modules:/polychromic:ro"):  # fmt: skip
        assert option in words
    assert words[-5:-1] == ["--runtime=runsc", "python:3.12-slim", "python3", "-c"]
    assert "'/polychromic'" in words[-1]
