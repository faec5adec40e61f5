"""Checkers that flood, start daemons or ask for rights: the limits hold, and nothing lives on."""

import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polychromic.records import Check, Prompt, as_messages
from polychromic.tasks.checking import reaping

PROMPT = Prompt("p", as_messages("Q"), ("A",))
needs_proc = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="reads /proc")
needs_adoption = pytest.mark.skipif(
    subprocess.run(
        [
            sys.executable,
            "-c",
            "from polychromic.tasks.checking import reaping; raise SystemExit(not reaping.become_subreaper())",
        ],
        check=False,
    ).returncode != 0,
    reason="this system does not let a process adopt orphans (prctl)",
)  # fmt: skip

FLOOD = """
import os, time
def check(prompt, text):
    while True:
        for descriptor in range(3, 32):
            try:
                os.write(descriptor, LINE)
            except OSError:
                pass
        PAUSE
"""


@pytest.mark.parametrize("line", [b"{}\n" * 10_000, b"x" * 30_000])
def test_a_flood_of_lines_ends_at_once_and_fills_no_memory(checker, line):
    """Past bug: 120 million lines took a limit of 10 s to 476 s and this process to 2.5 GB."""
    flooding = checker(FLOOD.replace("LINE", repr(line)).replace("PAUSE", "pass"), seconds=60.0, recheck=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    [check] = flooding.run([PROMPT], ["x"])
    assert check.reward is None
    assert "wrote more than" in check.error
    assert time.monotonic() - started < 50
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


def test_lines_that_drip_do_not_put_the_time_limit_off(checker):
    dripping = checker(FLOOD.replace("LINE", "b'{}\\n'").replace("PAUSE", "time.sleep(0.01)"), seconds=1.0)
    assert dripping.run([PROMPT], ["x"]) == [Check(None, "the checker did not answer within 1 s and was stopped")]


DAEMON = """
import os, subprocess, sys, time
def check(prompt, text):
    program = "import os, time; open(%r, 'a').write(f'{os.getpid()}\\\\n'); time.sleep(600)" % FILE
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            subprocess.Popen([sys.executable, "-c", program], env={}, start_new_session=True)
        os._exit(0)
    while not os.path.exists(FILE):
        time.sleep(0.02)
    time.sleep(60 if text == "hang" else 0)
    return 1.0
"""


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def daemons(file):
    return [int(line) for line in file.read_text().split()]


def wait_until_none_runs(processes):
    deadline = time.monotonic() + 60
    while any(is_running(process) for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@needs_proc
@needs_adoption
@pytest.mark.parametrize("text", ["hang", "fine"])
def test_a_daemon_with_an_empty_environment_in_a_session_of_its_own_is_ended(checker, tmp_path, text):
    """Past bug: what a checker started was found by a mark in its environment, and this one lived on."""
    file = tmp_path / "daemons"
    starting = checker(DAEMON.replace("FILE", repr(str(file))), seconds=3.0, recheck=False)
    starting.run([PROMPT], [text])
    if text == "fine":
        assert all(map(is_running, daemons(file)))
        starting.close()
    wait_until_none_runs(daemons(file))


@needs_proc
@needs_adoption
def test_daemons_end_when_the_one_that_asks_is_killed(tmp_path):
    """In a plain script without a main guard, which a spawned process could not import."""
    file = tmp_path / "daemons"
    (tmp_path / "mine.py").write_text(DAEMON.replace("FILE", repr(str(file))))
    (tmp_path / "script.py").write_text(
        "from polychromic.records import Prompt, as_messages\n"
        "from polychromic.tasks.checking.isolation import IsolatedChecker\n"
        f"checker = IsolatedChecker({str(tmp_path / 'mine.py') + ':check'!r}, seconds=60.0, memory_gb=4.0)\n"
        "checker.run([Prompt('p', as_messages('Q'))], ['hang'])\n"
    )
    script = subprocess.Popen([sys.executable, str(tmp_path / "script.py")])
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    script.send_signal(signal.SIGKILL)
    script.wait()
    wait_until_none_runs(daemons(file))


def test_without_prctl_nothing_is_promised(monkeypatch):
    monkeypatch.setattr(reaping, "_library", lambda: None)
    assert not reaping.become_subreaper()
    assert not reaping.hide()


def test_it_works_without_rights_of_root(tmp_path):
    alone = ["unshare", "--user", "--"]  # a user of its own, without rights
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody become a user without rights")
    (tmp_path / "mine.py").write_text("def check(prompt, text):\n    exec(text)\n    return 0.0\n")
    program = (
        "from polychromic.records import Prompt, as_messages\n"
        "from polychromic.tasks.checking.isolation import IsolatedChecker\n"
        "checker = IsolatedChecker('mine.py:check', seconds=10.0, memory_gb=4.0)\n"
        "print([check.reward for check in checker.run([Prompt('p', as_messages('Q'))] * 2, ['x = 1', 'y = 2'])])\n"
    )
    done = subprocess.run(
        [*alone, sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[0.0, 0.0]\n", done.stderr
