"""Judges one candidate: runs trusted tests here, and what they call of the candidate in the sandbox."""

from __future__ import annotations

import ast
import builtins
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

from polychromic.tasks.checking.sandbox import (
    DEFAULT_LIMITS,
    CandidateError,
    CandidateTimeoutError,
    Limits,
    Sandbox,
    executed,
)
from polychromic.tasks.code.fences import extracted
from polychromic.tasks.code.problems import Problem


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
        except CandidateTimeoutError as failure:
            return Verdict(False, f"timeout: {failure}", True, session.protection)
        except AssertionError:
            return Verdict(False, "wrong answer", protection=session.protection)
        except CandidateError as failure:
            return Verdict(False, f"raised: {failure}", protection=session.protection)
        except Exception as failure:  # noqa: BLE001 - a test that chokes on the candidate's value has refused it
            return Verdict(False, f"wrong answer ({type(failure).__name__})", protection=session.protection)
        return Verdict(True, protection=session.protection)


class Caller(Protocol):
    """Calls what the candidate has defined; `sandbox.Session` is one."""

    def call(self, name: str, /, *arguments: Any, **named: Any) -> Any:
        """Returns name(*arguments, **named)."""
        ...


def run_tests(problem: Problem, candidate: Caller) -> None:
    """Runs the tests of a problem, which raise where the candidate is wrong."""
    names = _names_of_tests(problem, candidate)
    for test in problem.tests:
        exec(compile(test, f"<test of {problem.id}>", "exec"), names)


def _judged_by_output(problem: Problem, text: str, sandbox: Sandbox, limits: Limits) -> Verdict:
    """Runs a program once for each case; outputs are compared line by line without white space at the ends."""
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
        if lines_of(done.printed) != lines_of(expected):
            return Verdict(False, "wrong answer", protection=protection)
    return Verdict(True, protection=protection)


def lines_of(text: str) -> list[str]:
    """Returns the lines of what a program prints without white space at the ends."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def program(problem: Problem, text: str) -> str:
    """Returns an answer as a program: as it is where it defines the entry point, else as what continues the opening."""
    code = extracted(text)
    entry = problem.entry_point
    if entry is None or not problem.opening:
        return code
    if re.search(rf"^(?:async )?def {re.escape(entry)}\b", code, re.MULTILINE):
        return f"{problem.opening}\n    pass\n\n{code}"
    return problem.opening + code


@lru_cache(maxsize=4096)
def called_names(problem: Problem) -> frozenset[str]:
    """Returns the names by which tests call what a candidate defines."""
    if problem.cases:
        return frozenset()
    _, needed = _free_names([ast.parse(test) for test in (problem.setup, *problem.tests)], problem)
    return frozenset(needed | ({problem.entry_point} if problem.entry_point else set()))


def _names_of_tests(problem: Problem, candidate: Caller) -> dict[str, Any]:
    """Returns what tests see: the opening's own functions, the setup, and a proxy for every other name."""
    names: dict[str, Any] = {"__builtins__": {**vars(builtins), "__import__": _importer()}}
    if problem.opening:
        exec(f"{problem.opening}\n    pass\n", names)
    tests = [ast.parse(test) for test in (problem.setup, *problem.tests)]
    modules, names_needed = _free_names(tests, problem)
    names |= {name: import_module(name) for name in modules}
    names |= {name: _proxy(candidate, name) for name in names_needed - names.keys()}
    if problem.entry_point:
        names[problem.entry_point] = _proxy(candidate, problem.entry_point)
    exec(problem.setup, names)
    return names


def _proxy(candidate: Caller, name: str) -> Callable[..., Any]:
    return lambda *arguments, **named: candidate.call(name, *arguments, **named)


def _importer() -> Callable[..., Any]:
    """Returns an `import` for tests whose `random` is one that draws the same numbers for every candidate."""
    drawn = ModuleType("random")
    generator = random.Random(0)
    vars(drawn).update(
        {name: getattr(generator, name) for name in dir(generator) if not name.startswith("_")}
        | {"Random": random.Random}
    )
    return lambda name, *rest, **named: drawn if name == "random" else __import__(name, *rest, **named)


def _free_names(tests: Sequence[ast.Module], problem: Problem) -> tuple[set[str], set[str]]:
    """Returns the names that the tests read and do not define: standard modules, and what the candidate has to define.

    A builtin is the candidate's where the reference solution defines it too (one problem of MBPP asks for `sum`).
    """
    read: set[str] = set()
    made: set[str] = set()
    modules: set[str] = set()
    for node in (node for test in tests for node in ast.walk(test)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            modules.add(node.value.id)
    defined = r"^(?:def|class) (\w+)"
    solved = {name for solution in problem.solutions for name in re.findall(defined, solution, re.MULTILINE)}
    needed = read - made - (vars(builtins).keys() - solved)
    modules &= (needed & sys.stdlib_module_names) - solved
    return modules, needed - modules
