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
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import GeneratorType
from typing import Any

from polychromic.tasks.checking.execution import confine, words_of
from polychromic.tasks.checking.family import Keeper, Process, ProcessFailedError
from polychromic.tasks.checking.protocol import Conversation, decode, encode

_VIEWS = tuple(type(view) for view in ({}.keys(), {}.values(), {}.items()))
_ITERATORS = (GeneratorType, map, filter, zip, range, enumerate, reversed, *_VIEWS)
_MOST_ITEMS = (
    100_000  # of an iterator: one that never ends is cut off by the limit of bytes or of time anyway
)
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")


class CandidateError(Exception):
    """The code raised, ended its process, or answered with something that is no value; the message says what."""


class CandidateTimeoutError(CandidateError):
    """The code did not answer in time."""


@dataclass(frozen=True, eq=False, slots=True)
class Handle:
    """Stands for an object in the child that is no plain data; it can be passed back and equals only itself."""

    number: int
    kind: str


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one session: seconds by the clock (one more of the processor) and memory; `most_bytes` of each reply."""

    seconds: float = 10.0
    memory_gb: float = 1.0
    most_bytes: int = 2**20


DEFAULT_LIMITS = Limits()


class Session:
    """One process with code in it. Use it from one thread."""

    def __init__(self, process: Process, folder: str, limits: Limits) -> None:
        self._process = process
        self._limits = limits
        self._deadline = time.monotonic() + limits.seconds
        self._folder = folder
        self.protection: tuple[str, ...] = ()
        """Words for what the system keeps the code from."""

    def define(self, code: str) -> None:
        """Executes the code. Raises CandidateError with what it raised."""
        request = {
            "code": code,
            "ask": [],
            "stdin": "",
            "folder": self._folder,
            "memory": int(self._limits.memory_gb * 2**30),
            "cpu_seconds": math.ceil(self._limits.seconds) + 1,
            "most_printed": 0,
        }
        said = self._say(request)
        self.protection = tuple(str(word) for word in said.get("protection", ()))[:8]

    def call(self, name: str, /, *arguments: Any, **named: Any) -> Any:
        """Returns name(*arguments, **named), rebuilt from plain data: its classes are exactly Python's own.

        Raises CandidateError where there is none.
        """
        content = [encode(list(arguments), _sent_handle), encode(named, _sent_handle)]
        said = self._say({"call": name, "arguments": content})
        try:
            return decode(said["value"], _received)
        except (ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
            raise CandidateError("the code wrote something else in place of a value") from error

    def _say(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        seconds = self._deadline - time.monotonic()
        try:
            said = self._process.execute(request, seconds, self._limits.most_bytes, "session")
        except ProcessFailedError as failure:
            late = time.monotonic() >= self._deadline
            raise (CandidateTimeoutError if late else CandidateError)(str(failure)) from failure
        if type(said) is not dict:
            raise CandidateError("the code wrote something else in place of a value")
        if said.get("raised") is not None:
            raise CandidateError(str(said["raised"])[:500])
        return said


class Sandbox:
    """Starts sessions, each in a fresh process forked from one that has met no code. Use it from one thread."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="polychromic-")
        self._keeper: Keeper | None = None
        self._clean = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    @contextmanager
    def session(self, limits: Limits = DEFAULT_LIMITS) -> Iterator[Session]:
        """Opens a process for one candidate; everything that it started is ended with the block."""
        folder = tempfile.mkdtemp(dir=self._folder)
        process = self._forked()
        try:
            yield Session(process, folder, limits)
        finally:
            process.end()
            if self._keeper is not None:
                self._keeper.clear()
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Ends all processes and removes the folder."""
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
        self._clean()

    def _forked(self) -> Process:
        """Forks the keeper; one that was killed meanwhile is replaced once."""
        try:
            return self._kept().fork()
        except ProcessFailedError:
            self._keeper = None
            return self._kept().fork()

    def _kept(self) -> Keeper:
        if self._keeper is None:
            kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
            self._keeper = Keeper(kept | {"POLYCHROMIC_WRITABLE": self._folder}, apart=True)
        return self._keeper


_idle: dict[int, list[Sandbox]] = {}


@contextmanager
def borrowed_sandbox() -> Iterator[Sandbox]:
    """Lends a sandbox that no other thread uses meanwhile; it is kept for the next one to ask.

    A fork of this process has its own: two must not talk on one conversation.
    """
    idle = _idle.setdefault(os.getpid(), [])
    try:
        sandbox = idle.pop()
    except IndexError:
        sandbox = Sandbox()
    try:
        yield sandbox
    finally:
        idle.append(sandbox)


def serve_session(conversation: Conversation, request: Mapping[str, Any], protection: Sequence[str]) -> None:
    """Executes the code in the child, then answers calls until nobody asks any more."""
    protection = confine(conversation, request, protection)
    names: dict[str, Any] = {"__name__": "__main__"}
    handles: list[Any] = []
    code = request["code"]
    conversation.send(_outcome(lambda: exec(compile(code, "<code>", "exec"), names), protection))
    while True:
        try:
            asked = conversation.receive()[0]["session"]
        except EOFError:
            os._exit(0)
        conversation.send(_outcome(partial(_called, names, asked, handles)))


def _called(names: Mapping[str, Any], asked: Mapping[str, Any], handles: list[Any]) -> Any:
    objects = {"handle": handles.__getitem__, "builtin": partial(getattr, builtins)}
    arguments, named = (
        decode(part, lambda kind, content: objects[kind](content)) for part in asked["arguments"]
    )
    return encode(names[asked["call"]](*arguments, **named), partial(_kept_value, handles))


def _kept_value(handles: list[Any], value: Any) -> Any:
    """Returns JSON for what is no plain data: items of an iterator, or the place where the object is kept."""
    other = partial(_kept_value, handles)
    if isinstance(value, _ITERATORS):
        return {"iterator": [encode(item, other) for item in islice(value, _MOST_ITEMS)]}
    handles.append(value)
    return {"handle": [len(handles) - 1, type(value).__name__]}


def _outcome(make: Callable[[], Any], protection: Sequence[str] | None = None) -> dict[str, Any]:
    try:
        said = {"value": make(), "raised": None}
    except BaseException as raised:  # noqa: BLE001 - the boundary of code that anybody wrote
        said = {"value": None, "raised": words_of(raised)}
    return said | ({} if protection is None else {"protection": protection})


def _sent_handle(value: Any) -> Any:
    if isinstance(value, Handle):
        return {"handle": value.number}
    if isinstance(value, type) and getattr(builtins, value.__name__, None) is value:
        return {"builtin": value.__name__}
    raise TypeError(f"a test passes a {type(value).__name__}, which is no plain data")


def _received(kind: str, content: Any) -> Any:
    if kind == "iterator":
        return iter([decode(item, _received) for item in content])
    if kind == "handle":
        number, name = content
        return Handle(int(number), str(name))
    raise ValueError(f"no encoded value: {kind!r}")
