"""Waiting for vLLM in process: its answer, its errors, and its process that ends. `make vllm` kills a real one."""

import signal
import subprocess
import threading
from types import SimpleNamespace

import pytest

from polychromic.errors import EngineError
from polychromic.sampling.vllm import process
from polychromic.sampling.vllm.process import ProcessEngine, _started_guard


class LibraryError(Exception):
    """In the place of vllm.exceptions.VLLMError."""


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(process, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(process, "_LAST_SECONDS", 0.1)
    engine = ProcessEngine.__new__(ProcessEngine)
    engine.place, engine._error, engine.lives = "sampling engine vllm", LibraryError, True
    engine._processes = [SimpleNamespace(is_alive=lambda: engine.lives)]
    return engine


def test_an_answer_is_waited_for_however_long_it_takes(engine):
    done = threading.Event()
    threading.Timer(0.3, done.set).start()
    assert engine._watched(lambda: ["answer"] if done.wait(10) else []) == ["answer"]


@pytest.mark.parametrize("error", [LibraryError("no room\nand more"), RuntimeError("no room"), ValueError("no room")])
def test_its_errors_are_one_sentence(engine, error):
    def fail():
        raise error

    with pytest.raises(EngineError, match="vLLM failed while sampling: no room; what it wrote") as raised:
        engine._watched(fail)
    assert raised.value.__cause__ is error


def test_a_process_that_is_killed_while_it_is_asked_is_not_waited_for(engine):
    never = threading.Event()
    threading.Timer(0.1, lambda: setattr(engine, "lives", False)).start()
    with pytest.raises(EngineError, match=r"vLLM's process has ended while it sampled.* run the same command again"):
        engine._watched(lambda: [never.wait(30)])
    never.set()


def test_what_vllm_says_of_its_end_is_kept(engine):
    def fail():
        engine.lives = False
        raise LibraryError("EngineCore is dead")

    with pytest.raises(EngineError, match="vLLM's process has ended") as raised:
        engine._watched(fail)
    assert str(raised.value.__cause__) == "EngineCore is dead"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_another_kind_does_not_let_it_wait_for_ever(engine):
    with pytest.raises(EngineError, match="it raised another error"):
        engine._watched(lambda: [1 / 0])


def test_processes_are_ended_when_this_one_ends_without_a_word_and_only_then():
    """The end of the guard's input is that of the process that holds its other end."""
    left, kept = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    try:
        abandoned, told = _started_guard([left.pid]), _started_guard([kept.pid])
        abandoned.stdin.close()
        told.communicate("closed\n")
        assert left.wait(10) == -signal.SIGTERM
        assert told.returncode == 0
        assert kept.poll() is None
    finally:
        kept.kill()
        kept.wait()
        abandoned.kill()
        abandoned.wait()
