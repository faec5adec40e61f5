"""Runs the user's checkers in processes of their own: one that hangs, leaks, forks or dies takes nothing down."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from polychromic.errors import CheckerError
from polychromic.files import sha256_file, strict_json
from polychromic.records import Check, Prompt
from polychromic.tasks.reaping import MARK, kill_marked

_START_SECONDS = 120.0
_MOST_FAILURES_IN_A_ROW = 10
_MOST_LEFT_CHILDREN = 200
_PIPE_HOLDS = 2**15  # bytes that a pipe takes though nobody reads; Linux takes twice as many


class IsolatedChecker:
    """A checker by name in a process of its own, started anew when it hangs or dies.

    Raises CheckerError where the checker cannot be loaded, and when its process fails many times in a row.
    """

    def __init__(self, name: str, *, seconds: float, memory_gb: float) -> None:
        self.name = name
        self.seconds = seconds
        self.memory_gb = memory_gb
        self._failures_in_a_row = 0
        self._process = _Process(name, memory_gb)

    def run(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """The checker's word on each pair; what it does not answer in time or dies of is a Check with the reason."""
        return [self._run_one(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]

    def close(self) -> None:
        """End the process."""
        self._process.kill()

    def _run_one(self, prompt: Prompt, text: str) -> Check:
        if not self._process.alive:
            self._process = _Process(self.name, self.memory_gb)
        try:
            answer = self._process.ask({"prompt": asdict(prompt), "text": text}, self.seconds)
        except TimeoutError:
            self._process.kill()
            return self._failed(f"the checker did not answer within {self.seconds:g} s and was stopped")
        except EOFError:
            return self._failed(f"the checker's process ended ({self._process.ending()})")
        self._failures_in_a_row = 0
        self._process.left_children += answer["children"]
        if self._process.left_children > _MOST_LEFT_CHILDREN or answer["exhausted"]:
            # Takes its children and what it has leaked along; the next text has a new process.
            self._process.kill()
        return Check(answer["reward"], answer["error"])

    def _failed(self, reason: str) -> Check:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= _MOST_FAILURES_IN_A_ROW:
            self.close()
            raise CheckerError(
                f"checker {self.name!r} failed {self._failures_in_a_row} times in a row: {reason}. Mend it, or raise "
                "task.checker_seconds or task.checker_memory_gb"
            )
        return Check(None, reason)


def isolated_checker(name: str, *, seconds: float, memory_gb: float) -> IsolatedChecker:
    """The checker of that name, one process for all who ask in this process while its file stays the same."""
    file = Path(name.rpartition(":")[0])
    content = sha256_file(file) if file.suffix == ".py" and file.is_file() else ""
    return _shared(name, seconds, memory_gb, content)


@lru_cache(maxsize=8)
def _shared(name: str, seconds: float, memory_gb: float, _content: str) -> IsolatedChecker:
    return IsolatedChecker(name, seconds=seconds, memory_gb=memory_gb)


class _Process:
    """One process with a conversation of JSON lines. Its own session, so that what it forks is ended with it."""

    def __init__(self, name: str, memory_gb: float) -> None:
        command = [
            sys.executable,
            "-m",
            "polychromic.tasks.checker_process",
            name,
            str(int(memory_gb * 2**30)),
        ]
        mark = uuid.uuid4().hex
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path), MARK: mark},
        )
        self._answers: queue.Queue[bytes] = queue.Queue()
        self._asked = 0
        self.left_children = 0  # answers that came with processes of the checker's still there
        threading.Thread(target=_read_lines, args=(self._popen.stdout, self._answers), daemon=True).start()
        self._end = weakref.finalize(self, _end_all, self._popen, mark)
        try:
            first = self._answer(_START_SECONDS)
        except TimeoutError as error:
            self.kill()
            raise CheckerError(f"checker {name!r} was not imported within {_START_SECONDS:g} s") from error
        except EOFError as error:
            raise CheckerError(
                f"checker {name!r}: its process ended while importing ({self.ending()})"
            ) from error
        if "error" in first:
            self.kill()
            raise CheckerError(first["error"])

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._popen.poll() is None

    def ask(self, request: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        """Its answer. Raises TimeoutError, or EOFError where it has ended."""
        self._asked += 1
        payload = strict_json({**request, "number": self._asked}).encode() + b"\n"
        if len(payload) <= _PIPE_HOLDS:
            _write(self._popen.stdin, payload)
        else:  # a process that has stopped reading must not hold us up beyond its time
            threading.Thread(target=_write, args=(self._popen.stdin, payload), daemon=True).start()
        return self._answer(seconds)

    def ending(self) -> str:
        """How it ended, in words."""
        code = self._popen.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End it and everything that it started."""
        self._end()

    def _answer(self, seconds: float) -> Mapping[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError from None
            if not line:
                self.kill()  # it is gone itself, but may have left others behind
                raise EOFError
            answer = _answer_to(self._asked, line)
            if answer is not None:
                return answer


def _answer_to(number: int, line: bytes) -> Mapping[str, Any] | None:
    """What the line answers, None where it is not an answer to that request: a checker can write to any stream."""
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and answer.get("number") == number else None


def _write(stream: Any, payload: bytes) -> None:
    """Write; where the other side has ended, the missing answer tells."""
    with suppress(BrokenPipeError, ValueError):  # the latter of a stream closed meanwhile
        stream.write(payload)
        stream.flush()


def _read_lines(stream: Any, answers: queue.Queue[bytes]) -> None:
    """Queue every line, and an empty one at the end; only the reader may close what it reads."""
    with stream:
        for line in stream:
            answers.put(line)
    answers.put(b"")


def _end_all(popen: subprocess.Popen[bytes], mark: str) -> None:
    """End the process, its session, and what it started elsewhere; that may hold the other ends of our pipes."""
    with suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    kill_marked(mark)
    popen.wait()
    if popen.stdin is not None:
        with suppress(BrokenPipeError):  # what it has not read
            popen.stdin.close()
