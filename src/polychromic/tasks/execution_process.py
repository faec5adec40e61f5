"""Executes code in a fork of a keeper that holds nothing but Python: no checker, no prompt, no environment.

The process gives up what rights it has before the code runs, and what it says afterwards is data, nothing more.
"""

from __future__ import annotations

import io
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from polychromic.tasks.conversation import Conversation
from polychromic.tasks.plain_values import encode
from polychromic.tasks.reaping import end_with_parent, give_up_rights, unshare

_LONGEST_REASON = 500


def serve_execution(
    conversation: Conversation, request: Mapping[str, Any], protection: Sequence[str]
) -> None:
    """Confine this process further, execute the code, evaluate what is asked of it, say what came of it, and end."""
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
    outcome = _execute(request["code"], request["ask"])
    conversation.send({**outcome, "printed": sys.stdout.getvalue(), "protection": protection})
    os._exit(0)


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
        error = _words(raised)
    answers = [_evaluate(expression, names) for expression in ask]
    return {"error": error, "answers": answers}


def _evaluate(expression: str, names: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": encode(eval(expression, names)), "error": None}
    except BaseException as raised:  # noqa: BLE001 - the same boundary
        return {"value": None, "error": _words(raised)}


def _words(raised: BaseException) -> str:
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
