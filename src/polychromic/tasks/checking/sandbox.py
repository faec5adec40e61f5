"""Runs code that a model wrote and lets a trusted caller call what it defined: tests stay on our side.

The child process has the code and nothing else: no test, no expected value, no environment, no file of ours. The caller
sends calls and gets plain values back, so that whatever the code forges is worth what a wrong answer is worth. What
cannot be written as plain data stays in the child; the caller gets a `Handle` that equals nothing but itself.

Limits of a session: time by the clock and of the processor, memory, file size, and the bytes of each reply. What
else the system keeps the code from is in `Session.protection`. See SECURITY.md for what this does not promise.
"""

from __future__ import annotations

import builtins
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from polychromic.tasks.checking.containers import Wall, WalledRoom
from polychromic.tasks.checking.family import ProcessFailedError
from polychromic.tasks.checking.protocol import NOT_DEFINED, Done, decode, encode, plain_number
from polychromic.tasks.checking.rooms import Executor, LocalRoom, Room

MOST_PRINTED = 2**16
"""Characters that are read of what a program prints."""


class CandidateError(Exception):
    """The code raised, ended its process, or answered with something that is no value; `words` say what.

    What the code raised of a class of Python's own is an error of that class too: tests may expect it.
    """

    def __init__(self, words: str, message: str | None = None) -> None:
        Exception.__init__(self, words if message is None else message)
        self.words = words

    def __str__(self) -> str:
        return str(self.args[0])


class CandidateTimeoutError(CandidateError):
    """The code did not answer in time."""


class UnsentError(TypeError):
    """A test passes to the code what is no plain data; the message says what. That is the test's fault."""


@dataclass(frozen=True, eq=False, slots=True)
class Handle:
    """Stands for an object in the child that is no plain data; it can be passed back and equals only itself."""

    number: int
    kind: str


class Proxied:
    """Stands on our side for a function or an object of the code, by its name or its handle; it can be passed back."""

    __slots__ = ("_of_code",)

    def __init__(self, of_code: str | Handle) -> None:
        self._of_code = of_code


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one session: seconds by the clock (one more of the processor) and memory; `most_bytes` of each reply."""

    seconds: float = 10.0
    memory_gb: float = 1.0
    most_bytes: int = 2**20


DEFAULT_LIMITS = Limits()


class Session:
    """One process with code in it. Use it from one thread."""

    def __init__(self, executor: Executor, limits: Limits) -> None:
        self._executor = executor
        self._limits = limits
        self._deadline = time.monotonic() + limits.seconds
        self.protection: tuple[str, ...] = ()
        """Words for what the system keeps the code from."""
        self.calls = 0
        """Times that the code was asked for something."""
        self.broken: CandidateError | None = None
        """Says what no test can have expected: the process of the code ended, was late, or lacks what is called."""

    def define(self, code: str) -> None:
        """Executes the code. Raises CandidateError with what it raised."""
        limits = {
            "stdin": "",
            "memory": int(self._limits.memory_gb * 2**30),
            "cpu_seconds": math.ceil(self._limits.seconds) + 1,
            "most_printed": 0,
        }
        # Said before any code has run: nothing else that comes from there is to be believed.
        self.protection = (*self._executor.around, *map(str, self._say(limits)["value"]))
        self._say({"code": code})

    def call(self, target: Any, /, *arguments: Any, **named: Any) -> Any:
        """Returns target(*arguments, **named), rebuilt from plain data: its classes are exactly Python's own. A target
        is a name that the code defines, an object of the code, or one of Python's own functions for classes.

        Raises CandidateError where there is none, and UnsentError where an argument is no plain data.
        """
        return self._value({"call": _target(target), "arguments": _encoded(arguments, named)})

    def change(self, target: str | Handle, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Does as `call`; lists, dictionaries and sets among the arguments become what the code has made of them."""
        request = {"call": _target(target), "arguments": _encoded(arguments, named), "changes": True}
        value = self._value(request)
        if type(value) is not list or len(value) != 2 or type(value[1]) is not list:
            raise CandidateError("the code wrote something else in place of a value")
        for ours, theirs in zip(arguments, value[1], strict=False):
            _take_over(ours, theirs)
        return value[0]

    def attribute(self, target: str | Handle, name: str) -> Any:
        """Returns an attribute of what the code defines or has made; a method is an object that can be called."""
        return self._value({"of": _target(target), "attribute": name})

    def _value(self, request: Mapping[str, Any]) -> Any:
        self.calls += 1
        reply = self._say(request)
        try:
            return decode(reply["value"], _received)
        except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError, MemoryError) as error:
            raise CandidateError("the code wrote something else in place of a value") from error

    def _say(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        seconds = self._deadline - time.monotonic()
        try:
            reply = self._executor.execute("session", request, seconds, self._limits.most_bytes)
        except ProcessFailedError as failure:
            late = time.monotonic() >= self._deadline
            self.broken = self.broken or (CandidateTimeoutError if late else CandidateError)(str(failure))
            raise self.broken from failure
        if type(reply) is not dict:
            raise CandidateError("the code wrote something else in place of a value")
        if reply.get("raised") is not None:
            words = str(reply["raised"])[:500]
            error = _error_class(str(reply.get("kind")))(words, words.partition(": ")[2])
            if words.startswith(f"NameError: {NOT_DEFINED}"):
                self.broken = self.broken or error
            raise error
        return reply


Place = Wall | Literal["local", "open files"]
"""Places where code runs: on this machine, with files of its own or with ours to read and write, or behind a wall."""

LOCAL: Place = "local"
OPEN_FILES: Place = "open files"


class Sandbox:
    """Starts sessions, each in a fresh process of one room. Use it from one thread."""

    def __init__(self, place: Place = LOCAL) -> None:
        self._room: Room = WalledRoom(place) if isinstance(place, Wall) else LocalRoom(own_files=place == LOCAL)

    @contextmanager
    def session(self, limits: Limits = DEFAULT_LIMITS) -> Iterator[Session]:
        """Opens a process for one candidate; everything that it started is ended with the block."""
        with self._opened() as executor:
            yield Session(executor, limits)

    def execute(self, request: Mapping[str, Any], seconds: float, most_bytes: int) -> Any:
        """Executes the code of a request and returns what came of it. Raises ProcessFailedError where nothing did."""
        with self._opened() as executor:
            reply = executor.execute("execute", request, seconds, most_bytes)
            return {**reply, "protection": [*executor.around, *reply["protection"]]}

    def close(self) -> None:
        """Ends all processes and removes their folders."""
        self._room.close()

    @contextmanager
    def _opened(self) -> Iterator[Executor]:
        executor = self._room.open()
        try:
            yield executor
        finally:
            executor.end()


_idle: dict[tuple[int, Place], list[Sandbox]] = {}


@contextmanager
def borrowed_sandbox(place: Place = LOCAL) -> Iterator[Sandbox]:
    """Lends a sandbox that no other thread uses meanwhile; it is kept for the next one to ask.

    A fork of this process has its own: two must not talk on one conversation.
    """
    idle = _idle.setdefault((os.getpid(), place), [])
    try:
        sandbox = idle.pop()
    except IndexError:
        sandbox = Sandbox(place)
    try:
        yield sandbox
    finally:
        idle.append(sandbox)


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
    with borrowed_sandbox(OPEN_FILES) as sandbox:
        return executed(sandbox, code, ask, stdin=stdin, seconds=seconds, memory_gb=memory_gb, most_bytes=most_bytes)


def executed(
    sandbox: Sandbox,
    code: str,
    ask: Sequence[str] = (),
    *,
    stdin: str = "",
    seconds: float = 5.0,
    memory_gb: float = 1.0,
    most_bytes: int = 2**20,
) -> Execution:
    """Does as `run_isolated`, in a sandbox of one's choice."""
    ask = list(ask)
    request = {
        "code": code,
        "ask": ask,
        "stdin": stdin,
        "memory": int(memory_gb * 2**30),
        "cpu_seconds": math.ceil(seconds) + 1,
        "most_printed": MOST_PRINTED,
    }
    try:
        return _execution(sandbox.execute(request, seconds, most_bytes), len(ask))
    except ProcessFailedError as failure:
        reason = str(failure)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError, MemoryError):
        reason = "the code wrote something else in place of its outcome"
    return Execution((None,) * len(ask), (reason,) * len(ask), "", reason, ())


def _execution(reply: Any, n: int) -> Execution:
    answers = reply["answers"]
    values = tuple(decode(answer["value"]) for answer in answers)
    errors = tuple(_reason(answer["error"]) for answer in answers)
    if len(answers) != n:
        raise ValueError("another number of values")
    return Execution(
        values,
        errors,
        str(reply["printed"])[:MOST_PRINTED],
        _reason(reply["error"]),
        tuple(map(str, reply["protection"])),
    )


def _reason(error: Any) -> str | None:
    return None if error is None else str(error)[:1000]


def _target(target: Any) -> Any:
    return target if isinstance(target, str) else _sent(target)


def _encoded(arguments: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    return [encode(list(arguments), _sent), encode(dict(named), _sent)]


def _sent(value: Any) -> Any:
    if isinstance(value, Proxied):
        value = value._of_code
        return {"name": value} if isinstance(value, str) else {"handle": value.number}
    if isinstance(value, Handle):
        return {"handle": value.number}
    if getattr(builtins, getattr(value, "__name__", ""), None) is value:
        return {"builtin": value.__name__}
    try:
        return plain_number(value)
    except TypeError as error:
        raise UnsentError(f"a test passes a {type(value).__name__} to the code, which is no plain data") from error


def _take_over(ours: Any, theirs: Any) -> None:
    """Makes a list, a dictionary or a set of ours hold what the other one holds."""
    if isinstance(ours, list) and isinstance(theirs, list):
        ours[:] = theirs
    elif isinstance(ours, (dict, set)) and type(ours) is type(theirs):
        ours.clear()
        ours.update(theirs)


@lru_cache(maxsize=128)
def _error_class(kind: str) -> type[CandidateError]:
    """Returns a class for what the code has raised, which is also Python's own class of that name."""
    base = getattr(builtins, kind, None)
    if not isinstance(base, type) or not issubclass(base, Exception) or base is Exception:
        return CandidateError
    # In a generator of a test, these say that it has ended; a group is made of other errors.
    if issubclass(base, (StopIteration, StopAsyncIteration, BaseExceptionGroup)):
        return CandidateError
    return type(f"Candidate{kind}", (CandidateError, base), {})


def _received(kind: str, content: Any) -> Any:
    if kind == "iterator":
        return iter([decode(item, _received) for item in content])
    if kind == "coroutine":
        return Done(decode(content, _received))
    if kind == "handle":
        number, name = content
        return Handle(int(number), str(name))
    raise ValueError(f"no encoded value: {kind!r}")
