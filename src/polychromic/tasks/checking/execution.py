"""Executes a text in a fresh process: `run_isolated`, its child and the watch over it."""

from __future__ import annotations

import io
import math
import os
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from polychromic.tasks.checking.family import Keeper, ProcessFailedError
from polychromic.tasks.checking.protocol import Conversation, decode, encode
from polychromic.tasks.checking.reaping import end_with_parent, give_up_rights, unshare

_TELLING_LINE = 8  # characters: shorter lines are found in any program


class AnswerExecutedError(BaseException):
    """Raised in place of executing the answer."""


class ExecutionWatch:
    """An audit hook: raises AnswerExecutedError where code compiled from the text watched over is to be executed."""

    def __init__(self) -> None:
        self.found = False
        self._text: str | None = None
        self._lines: frozenset[str] = frozenset()
        self._compiled: set[str | None] = set()
        # Times of files come from a clock that lags behind this one by some milliseconds.
        self._started = time.time() - 1.0

    @contextmanager
    def over(self, text: str) -> Iterator[None]:
        """Watches while that text is judged."""
        self.found, self._compiled = False, set()
        lines = (line.strip() for line in text.splitlines())
        self._lines = frozenset(line for line in lines if len(line) >= _TELLING_LINE)
        self._text = text
        try:
            yield
        finally:
            self._text = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Looks at an audit event of Python, at each."""
        if self._text is None:
            return
        if event == "compile":
            self._note(*arguments)
        elif event in ("exec", "function.__new__") and self._compiled:
            filename = arguments[0].co_filename
            # A syntax tree is compiled without the name that its code will have.
            if filename in self._compiled or (None in self._compiled and not os.path.isfile(filename)):  # noqa: PTH113
                self.found = True
                raise AnswerExecutedError

    def _note(self, source: Any, filename: Any) -> None:
        if isinstance(source, bytes):
            source = source.decode(errors="surrogateescape")
        if isinstance(source, str):
            name = os.fsdecode(filename) if isinstance(filename, (str, bytes)) else None
            if self._is_of_the_answer(source) and not self._is_older(name):
                self._compiled.add(name)
        elif self._compiled:
            self._compiled.add(None)

    def _is_of_the_answer(self, source: str) -> bool:
        assert self._text is not None
        whole = source.strip()
        if whole and whole in self._text:
            return True
        return any(line.strip() in self._lines for line in source.splitlines())

    def _is_older(self, filename: str | None) -> bool:
        """Tells a module that is imported now, but was there before any answer: it may share a line with one by
        chance."""
        with suppress(OSError, ValueError, TypeError):
            return os.stat(filename).st_mtime < self._started  # type: ignore[arg-type]  # noqa: PTH116
        return False


_LONGEST_REASON = 500


def serve_execution(
    conversation: Conversation, request: Mapping[str, Any], protection: Sequence[str]
) -> None:
    """Confines this process further, executes the code, evaluates the expressions, sends what came of it, and ends."""
    protection = confine(conversation, request, protection)
    printed = sys.stdout
    assert isinstance(printed, _Printed)
    outcome = _execute(request["code"], request["ask"])
    conversation.send({**outcome, "printed": printed.getvalue(), "protection": protection})
    os._exit(0)


def confine(
    conversation: Conversation, request: Mapping[str, Any], protection: Sequence[str]
) -> Sequence[str]:
    """Takes from this process whatever code does not need, for good; returns in words what the system keeps it from."""
    if unshare("processes"):
        protection = [*protection, "own processes"]
        # Only a child is in the namespace of processes; when that one ends, the system ends all others in it.
        child = os.fork()
        if child:
            conversation.close()
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os.kill(os.getpid(), -code) if code < 0 else os._exit(code)
        end_with_parent(0)  # who is outside has no number here
    _limit(request)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update({"HOME": request["folder"], "TMPDIR": request["folder"], "PATH": os.defpath})
    give_up_rights()
    sys.stdin, sys.stdout, sys.stderr = (
        io.StringIO(request["stdin"]),
        _Printed(request["most_printed"]),
        io.StringIO(),
    )
    return protection


class _Printed(io.StringIO):
    """Keeps the beginning of what is written."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def write(self, text: str) -> int:
        """Claims to have written everything."""
        kept = text[: self._left]
        self._left -= super().write(kept)
        return len(text)


def _execute(code: str, ask: list[str]) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    error = None
    try:
        exec(compile(code, "<code>", "exec"), names)
    except BaseException as raised:  # noqa: BLE001 - the boundary of code that anybody wrote
        error = words_of(raised)
    answers = [_evaluate(expression, names) for expression in ask]
    return {"error": error, "answers": answers}


def _evaluate(expression: str, names: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": encode(eval(expression, names)), "error": None}
    except BaseException as raised:  # noqa: BLE001 - the same boundary
        return {"value": None, "error": words_of(raised)}


def words_of(raised: BaseException) -> str:
    """Class and message of what code raised, at most 500 characters."""
    try:
        text = str(raised)
    except BaseException:  # noqa: BLE001 - the same boundary: these words are the code's too
        text = "(cannot be shown)"
    return f"{type(raised).__name__}: {text}"[:_LONGEST_REASON]


def _limit(request: Mapping[str, Any]) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, request["memory"]),
        (resource.RLIMIT_CPU, request["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, request["memory"]),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


_MOST_PRINTED = 2**16
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_lock = threading.Lock()
_keepers: dict[int, Keeper] = {}


@dataclass(frozen=True, slots=True)
class Execution:
    """Holds what came of executed code. All of it is the code's own word: judge it as you would judge a text."""

    values: tuple[Any, ...]
    """Of each expression, plain data; None where it has none."""
    errors: tuple[str | None, ...]
    """Of each expression, why it has no value."""
    printed: str
    """The beginning of what the code printed, at most 65,536 characters."""
    error: str | None
    """The error that the code raised before any expression, or the reason why the process ended."""
    protection: tuple[str, ...]
    """Active protections of the system: "no rights", "own processes", "no network"; the limits hold in any case."""


def run_isolated(
    code: str,
    ask: Sequence[str] = (),
    *,
    stdin: str = "",
    seconds: float = 5.0,
    memory_gb: float = 1.0,
    most_bytes: int = 2**20,
) -> Execution:
    """Executes the code in a fresh process, then evaluates the expressions there; what comes back is plain data.

    For checkers of code: nothing of the checker is in that process, no prompt, no expected value and no environment, so
    that the code can only answer. Compare the values here:

        def check(prompt, text):
            done = run_isolated(text, ["add(2, 3)", "add(-1, 1)"])
            return done.error is None and done.values == (5, 0)

    `seconds` limit the whole, by the clock and of the processor; `memory_gb` the address space and any file;
    `most_bytes` what comes back. Never raises for what the code does.
    """
    ask = list(ask)
    with tempfile.TemporaryDirectory(prefix="polychromic-", ignore_cleanup_errors=True) as folder:
        request = {
            "code": code,
            "ask": ask,
            "stdin": stdin,
            "folder": folder,
            "memory": int(memory_gb * 2**30),
            "cpu_seconds": math.ceil(seconds) + 1,
            "most_printed": _MOST_PRINTED,
        }
        try:
            return _execution(_said(request, seconds, most_bytes), len(ask))
        except ProcessFailedError as failure:
            reason = str(failure)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            reason = "the code wrote something else in place of its outcome"
    return Execution((None,) * len(ask), (reason,) * len(ask), "", reason, ())


def _said(request: Mapping[str, Any], seconds: float, most_bytes: int) -> Any:
    """Returns what a fork of the keeper says; a keeper that was killed meanwhile is replaced once."""
    with _lock:
        try:
            process = _keeper().fork()
        except ProcessFailedError:
            del _keepers[os.getpid()]
            process = _keeper().fork()
    try:
        return process.execute(request, seconds, most_bytes)
    finally:
        with _lock:
            process.end()
            _keeper().clear()


def _keeper() -> Keeper:
    """Returns the keeper of the process that asks: a fork must not talk on its parent's conversation."""
    process = os.getpid()
    if process not in _keepers:
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        _keepers[process] = Keeper(kept, apart=True)
    return _keepers[process]


def executing_keepers() -> list[int]:
    """Lists the processes that `run_isolated` keeps below this one."""
    return [keeper.process for process, keeper in _keepers.items() if process == os.getpid()]


def _execution(said: Any, n: int) -> Execution:
    answers = said["answers"]
    values = tuple(decode(answer["value"]) for answer in answers)
    errors = tuple(_reason(answer["error"]) for answer in answers)
    if len(answers) != n:
        raise ValueError("another number of values")
    return Execution(
        values,
        errors,
        str(said["printed"])[:_MOST_PRINTED],
        _reason(said["error"]),
        tuple(map(str, said["protection"])),
    )


def _reason(said: Any) -> str | None:
    return None if said is None else str(said)[:1000]
