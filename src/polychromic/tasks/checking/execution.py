"""Executes a text in a fresh process: `run_isolated`, for checkers of code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from polychromic.tasks.checking.family import ProcessFailedError
from polychromic.tasks.checking.protocol import decode
from polychromic.tasks.checking.sandbox import OPEN_FILES, Sandbox, borrowed_sandbox

_MOST_PRINTED = 2**16


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
        "most_printed": _MOST_PRINTED,
    }
    try:
        return _execution(sandbox.execute(request, seconds, most_bytes), len(ask))
    except ProcessFailedError as failure:
        reason = str(failure)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
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
        str(reply["printed"])[:_MOST_PRINTED],
        _reason(reply["error"]),
        tuple(map(str, reply["protection"])),
    )


def _reason(error: Any) -> str | None:
    return None if error is None else str(error)[:1000]
