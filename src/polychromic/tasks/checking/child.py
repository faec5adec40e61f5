"""The child's side: takes from a process whatever code does not need, then executes code and answers calls of it.

Needs the standard library only, so that it runs in any container that has Python.
"""

from __future__ import annotations

import atexit
import builtins
import io
import os
import re
import resource
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from types import CoroutineType, GeneratorType, ModuleType
from typing import Any

from polychromic.tasks.checking.protocol import NOT_DEFINED, Conversation, decode, encode, plain_number
from polychromic.tasks.checking.reaping import (
    end_with_parent,
    give_up_rights,
    refuse_calls,
    restrict_writing,
    unshare,
)

_LONGEST_REASON = 500
_MOST_PROCESSES = 64
_COUNTED_BY_NAMESPACE = (5, 14)  # Linux; before that all processes of the user counted, ours among them
_VIEWS = tuple(type(view) for view in ({}.keys(), {}.values(), {}.items()))
_ITERATORS = (GeneratorType, map, filter, zip, range, enumerate, reversed, *_VIEWS)
_MOST_ITEMS = 100_000  # of an iterator: one that never ends is cut off by the limit of bytes or of time anyway


def serve_execution(conversation: Conversation, request: Mapping[str, Any], protection: Sequence[str]) -> None:
    """Confines this process further, executes the code, evaluates the expressions, sends what came of it, and ends."""
    protection = confine(conversation, request, protection)
    printed = sys.stdout
    assert isinstance(printed, _Printed)
    atexit._clear()  # what is to be done at the end is the code's from here on
    outcome = _execute(request["code"], request["ask"])
    with suppress(BaseException):  # a stream of the code's own over ours may hold something back
        sys.stdout.flush()
    conversation.send({**outcome, "printed": printed.text(), "protection": protection})
    os._exit(0)


def confine(conversation: Conversation, request: Mapping[str, Any], protection: Sequence[str]) -> Sequence[str]:
    """Takes from this process whatever code does not need, for good; returns in words what the system keeps it from."""
    if unshare("processes", "messages"):  # messages too: what one leaves there, the next one could read
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
    if "own files" in protection and not restrict_writing(request["folder"]):
        protection = [word for word in protection if word != "own files"]
    if "no rights" in protection:
        _limit_processes()
    sys.stdin = _standard_input(request["stdin"])
    protection = list(dict.fromkeys(["limits", *protection, *refuse_calls()]))
    sys.stdout, sys.stderr = _Printed(request["most_printed"]), _Printed(0)
    return protection


def _standard_input(text: str) -> io.TextIOWrapper:
    """Opens what the code reads: as text, as bytes by `sys.stdin.buffer`, on Linux also by its descriptor 0."""
    content = io.BytesIO(text.encode("utf-8", "surrogatepass"))
    if text and hasattr(os, "memfd_create"):
        held = os.memfd_create("stdin")
        with open(held, "wb", closefd=False) as file:
            file.write(content.getvalue())
        os.lseek(held, 0, os.SEEK_SET)
        os.dup2(held, 0)
        os.close(held)
        return open(0, encoding="utf-8", errors="surrogatepass", closefd=False)
    return io.TextIOWrapper(content, encoding="utf-8", errors="surrogatepass")


class _Printed(io.TextIOWrapper):
    """Keeps the beginning of what is written, as text or as bytes by `sys.stdout.buffer`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept = _Kept(4 * most)  # a character has four bytes at most
        super().__init__(self._kept, encoding="utf-8", errors="surrogatepass", newline="\n", write_through=True)

    def text(self) -> str:
        """Returns what was kept; bytes that are no text are replaced."""
        written = self._kept.getvalue()
        try:
            return written.decode("utf-8", "surrogatepass")[: self._most]
        except UnicodeDecodeError:
            return written.decode("utf-8", "replace")[: self._most]


class _Kept(io.BytesIO):
    """Keeps the first bytes, and claims to have written all."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._left = most

    def write(self, content: Any, /) -> int:
        """Takes what there is room for."""
        content = bytes(content)
        self._left -= super().write(content[: self._left])
        return len(content)


def _execute(code: str, ask: list[str]) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "__main__"}
    error = None
    try:
        exec(compile(code, "<code>", "exec"), names)
    except BaseException as raised:  # noqa: BLE001 - the boundary of code that anybody wrote
        error = words_of(raised)
    answers = [_evaluate(expression, names) for expression in ask]
    if not ask:
        _end_as_a_program()
    return {"error": error, "answers": answers}


def _end_as_a_program() -> None:
    """Does what Python does behind the last line of a program: waits for its threads, and runs what it has left to
    do."""
    for end in (threading._shutdown, atexit._run_exitfuncs):  # pyright: ignore[reportAttributeAccessIssue]
        with suppress(BaseException):
            end()


def _evaluate(expression: str, names: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": encode(eval(expression, names), plain_number), "error": None}
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


def _limit_processes() -> None:
    """Limits the processes of this user; in a namespace of users of its own only those in it are counted."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if release and (int(release[1]), int(release[2])) >= _COUNTED_BY_NAMESPACE:
        resource.setrlimit(resource.RLIMIT_NPROC, (_MOST_PROCESSES, _MOST_PROCESSES))


def serve_session(conversation: Conversation, request: Mapping[str, Any], protection: Sequence[str]) -> None:
    """Confines this process and says how, before any code; then executes code and answers calls until nobody asks."""
    conversation.send({"value": list(confine(conversation, request, protection)), "raised": None})
    # Functions are asked for, not a program: what stands behind `if __name__ == "__main__":` is not run.
    module = ModuleType("candidate")
    sys.modules["candidate"] = module  # where dataclasses look for the names of their annotations
    names = vars(module)
    handles: list[Any] = []
    while True:
        try:
            session = conversation.receive()[0]["session"]
        except EOFError:
            os._exit(0)
        if "code" in session:
            do = partial(_defined, names, session["code"])
        else:
            do = partial(_called if "call" in session else _read, names, session, handles)
        conversation.send(_outcome(do))


def _defined(names: dict[str, Any], code: str) -> None:
    exec(compile(code, "<code>", "exec"), names)


def _called(names: Mapping[str, Any], request: Mapping[str, Any], handles: list[Any]) -> Any:
    """Returns what a call gives; with `changes`, also its arguments as they are after it."""
    arguments, named = (decode(part, _object(names, handles)) for part in request["arguments"])
    value = _meant(names, request["call"], handles)(*arguments, **named)
    if request.get("changes"):
        value = [value, arguments]
    return encode(value, partial(_kept_value, handles))


def _read(names: Mapping[str, Any], request: Mapping[str, Any], handles: list[Any]) -> Any:
    """Returns an attribute of what is called by a name, or is kept."""
    value = getattr(_meant(names, request["of"], handles), request["attribute"])
    return encode(value, partial(_kept_value, handles))


def _meant(names: Mapping[str, Any], target: Any, handles: list[Any]) -> Any:
    if type(target) is not str:
        return decode(target, _object(names, handles))
    if target not in names:
        raise NameError(f"{NOT_DEFINED}{target!r}")
    return names[target]


def _object(names: Mapping[str, Any], handles: list[Any]) -> Callable[[str, Any], Any]:
    objects = {"handle": handles.__getitem__, "name": names.__getitem__, "builtin": partial(getattr, builtins)}
    return lambda kind, content: objects[kind](content)


def _kept_value(handles: list[Any], value: Any) -> Any:
    """Returns JSON for what is no plain data: items of an iterator, what a coroutine comes to, or the place where the
    object is kept."""
    other = partial(_kept_value, handles)
    if isinstance(value, _ITERATORS):
        return {"iterator": [encode(item, other) for item in islice(value, _MOST_ITEMS)]}
    if isinstance(value, CoroutineType):
        import asyncio

        return {"coroutine": encode(asyncio.run(value), other)}
    with suppress(TypeError):
        return plain_number(value)
    handles.append(value)
    return {"handle": [len(handles) - 1, type(value).__name__]}


def _outcome(make: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": make(), "raised": None}
    except BaseException as raised:  # noqa: BLE001 - the boundary of code that anybody wrote
        kinds = [kind.__name__ for kind in type(raised).__mro__ if getattr(builtins, kind.__name__, None) is kind]
        return {"value": None, "raised": words_of(raised), "kind": kinds[0]}
