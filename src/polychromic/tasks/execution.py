"""Executes code that nobody trusts in a process of its own, of which nothing comes back but data."""

from __future__ import annotations

import math
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polychromic.tasks.checker_family import Keeper, ProcessFailedError
from polychromic.tasks.plain_values import decode

_MOST_PRINTED = 2**16
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
_lock = threading.Lock()
_keepers: dict[int, Keeper] = {}


@dataclass(frozen=True, slots=True)
class Execution:
    """What came of executed code. All of it is the code's own word: judge it as you would judge a text."""

    values: tuple[Any, ...]
    """Of each expression, plain data; None where it has none."""
    errors: tuple[str | None, ...]
    """Of each expression, why it has no value."""
    printed: str
    """The beginning of what the code printed, at most 65,536 characters."""
    error: str | None
    """What the code raised before any expression, or why the process was stopped or ended."""
    protection: tuple[str, ...]
    """What it was kept from by the system: "no rights", "own processes", "no network"; the limits hold in any case."""


def run_isolated(
    code: str,
    ask: Sequence[str] = (),
    *,
    stdin: str = "",
    seconds: float = 5.0,
    memory_gb: float = 1.0,
    most_bytes: int = 2**20,
) -> Execution:
    """Execute the code in a fresh process, then evaluate the expressions there; what comes back is plain data.

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
    """What a fork of the keeper says; a keeper that was killed meanwhile is replaced once."""
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
    """One for each process that asks: a fork must not talk on its parent's conversation."""
    process = os.getpid()
    if process not in _keepers:
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        _keepers[process] = Keeper(kept, apart=True)
    return _keepers[process]


def executing_keepers() -> list[int]:
    """Processes that `run_isolated` keeps below this one."""
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
