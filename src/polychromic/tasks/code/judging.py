"""Judges one candidate: runs trusted tests here, and what they call of the candidate in the sandbox."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from decimal import Decimal

from polychromic.tasks.checking.sandbox import (
    DEFAULT_LIMITS,
    CandidateError,
    CandidateTimeoutError,
    Limits,
    Sandbox,
    UnsentError,
    executed,
)
from polychromic.tasks.code.fences import extracted
from polychromic.tasks.code.problems import Problem
from polychromic.tasks.code.running import called_names, run_tests

_LONGEST_REASON = 300
_DECIMAL = re.compile(r"[+-]?[0-9]{1,400}(?:\.[0-9]{0,400})?(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one candidate: every test passed, or the reason; and what kept it from the rest of the system."""

    passed: bool
    reason: str = ""
    timed_out: bool = False
    protection: tuple[str, ...] = ()


def judged(problem: Problem, text: str, sandbox: Sandbox, limits: Limits = DEFAULT_LIMITS) -> Verdict:
    """Runs one candidate against the tests of its problem. Never raises for what the candidate does."""
    if problem.cases:
        return _judged_by_output(problem, text, sandbox, limits)
    with sandbox.session(limits) as session:
        try:
            session.define(program(problem, text))
            run_tests(problem, session)
            if session.broken:  # a test that expects any error has taken it for one
                raise session.broken
            if not session.calls:
                raise UnsentError("no test calls what an answer defines")
        except KeyboardInterrupt:
            raise
        except BaseException as failure:  # noqa: BLE001 - a test that chokes on the candidate's value has refused it
            late = isinstance(failure, CandidateTimeoutError)
            return Verdict(False, _reason(failure), late, session.protection)
        return Verdict(True, protection=session.protection)


def _reason(failure: BaseException) -> str:
    match failure:
        case CandidateTimeoutError():
            return f"timeout: {failure}"
        case CandidateError(words=words):
            return f"raised: {words}"
        case AssertionError():
            return "wrong answer"
        case UnsentError():
            return f"test not run: {failure}"
        case _:
            return f"wrong answer ({_shown(failure)})"


def _shown(failure: BaseException) -> str:
    """Returns what a test raised: where every answer has it, the test is at fault, or asks for what is not sent."""
    try:
        text = " ".join(str(failure).split())
    except Exception:  # noqa: BLE001 - the words may hold a number of the candidate's that Python does not write
        text = "(cannot be shown)"
    words = f"{type(failure).__name__}: {text}" if text else type(failure).__name__
    return words if len(words) <= _LONGEST_REASON else f"{words[:_LONGEST_REASON]}…"


def _judged_by_output(problem: Problem, text: str, sandbox: Sandbox, limits: Limits) -> Verdict:
    """Runs a program once for each case and compares what it prints."""
    protection: tuple[str, ...] = ()
    code, deadline = program(problem, text), time.monotonic() + limits.seconds
    for given, expected in problem.cases:
        left = deadline - time.monotonic()
        if left <= 0:
            return Verdict(False, f"timeout: all cases did not end within {limits.seconds:g} s", True, protection)
        done = executed(sandbox, code, stdin=given, seconds=left, memory_gb=limits.memory_gb)
        protection = done.protection
        if done.error is not None and not done.error.startswith("SystemExit"):
            late = "did not end within" in done.error
            return Verdict(False, f"{'timeout' if late else 'raised'}: {done.error}", late, protection)
        if not _is_same_output(done.printed, expected):
            return Verdict(False, "wrong answer", protection=protection)
    return Verdict(True, protection=protection)


def lines_of(text: str) -> list[str]:
    """Returns the lines of what a program prints without white space at the ends."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _is_same_output(printed: str, expected: str) -> bool:
    """Tells whether outputs are the same line by line; numbers with a point are compared by value, as 0.50 and 0.5."""
    theirs, ours = lines_of(printed), lines_of(expected)
    return len(theirs) == len(ours) and all(
        first == second or _are_same_words(first.split(" "), second.split(" "))
        for first, second in zip(theirs, ours, strict=True)
    )


def _are_same_words(first: list[str], second: list[str]) -> bool:
    return len(first) == len(second) and all(
        one == other or (_DECIMAL.fullmatch(one) and _DECIMAL.fullmatch(other) and "." in one + other
                         and Decimal(one) == Decimal(other))
        for one, other in zip(first, second, strict=True)
    )  # fmt: skip


def program(problem: Problem, text: str) -> str:
    """Returns an answer as a program: as it is where it defines the entry point, else as what continues the opening."""
    code = extracted(text, called_names(problem))
    entry = problem.entry_point
    if entry is None or not problem.opening:
        return code
    if re.search(rf"^(?:async )?def {re.escape(entry)}\b", code, re.MULTILINE):
        return f"{problem.opening}\n    pass\n\n{code}"
    return problem.opening + code
