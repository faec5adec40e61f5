"""Code tasks: a model writes Python, tests that it never sees decide. HumanEval, MBPP and the user's own problems.

A test is code of the benchmark's, or of the user's, and is trusted: it runs here, and what it calls of the candidate is
a proxy that asks the sandbox (`sandbox.py`). Only arguments go out and plain values come back.
"""

from __future__ import annotations

import ast
import builtins
import os
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from polychromic.errors import DataError
from polychromic.records import Check, Prompt, as_messages
from polychromic.tasks.base import Split
from polychromic.tasks.code.forms import canonical_form, form_distances
from polychromic.tasks.code.problems import Problem
from polychromic.tasks.execution import run_isolated
from polychromic.tasks.sandbox import (
    DEFAULT_LIMITS,
    CandidateError,
    CandidateTimeoutError,
    Limits,
    Sandbox,
    borrowed_sandbox,
)

_FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a candidate passed every test, else why not; what kept it from the rest of the system."""

    passed: bool
    reason: str = ""
    timed_out: bool = False
    protection: tuple[str, ...] = ()


class CodeTask:
    """Problems in Python with tests that decide: reward 1 where all pass, else 0 with the reason.

    Raises DataError for a split that a benchmark does not have.
    """

    pass_threshold = 1.0

    def __init__(
        self, name: str, problems: Mapping[Split, Sequence[Problem]], limits: Limits = DEFAULT_LIMITS
    ) -> None:
        self.name = name
        self._problems = problems
        self._limits = limits

    def prompts(self, split: Split) -> list[Prompt]:
        """Prompts of a split with the reference solutions as references."""
        if not self._problems.get(split):
            raise DataError(
                f"task {self.name} has no {split} problems, only "
                f"{' and '.join(name for name, problems in self._problems.items() if problems)}"
            )
        return [
            Prompt(problem.id, as_messages(problem.prompt), problem.solutions)
            for problem in self._problems[split]
        ]

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """1 where every test passes; 0 with the reason else. One text to one prompt is executed once."""
        pairs = [(prompt.id, text) for prompt, text in zip(prompts, texts, strict=True)]
        distinct = list(dict.fromkeys(pairs))
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
            verdicts = dict(zip(distinct, threads.map(self._judged, distinct), strict=True))
        return [Check(float(verdicts[pair].passed), verdicts[pair].reason or None) for pair in pairs]

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """None: tests decide alone."""
        return None

    def cluster(self, prompt: Prompt, text: str) -> str | None:
        """The canonical form of the answer's syntax tree; the text itself where it is no Python."""
        return canonical_form(self.program(prompt, text)) or f"no Python: {text}"

    def distances(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """1 − overlap of the canonical forms' pairs of neighbouring tokens."""
        return form_distances([extracted(text) for text in texts])

    def program(self, prompt: Prompt, text: str) -> str:
        """The candidate's whole program."""
        return program(self._by_id[prompt.id], text)

    def _judged(self, pair: tuple[str, str]) -> Verdict:
        problem = self._by_id[pair[0]]
        with borrowed_sandbox() as sandbox:
            verdict = judged(problem, pair[1], sandbox, self._limits)
            if verdict.timed_out and os.getloadavg()[0] > (
                os.cpu_count() or 1
            ):  # others may have had its time
                verdict = judged(problem, pair[1], sandbox, self._limits)
        return verdict

    @cached_property
    def _by_id(self) -> dict[str, Problem]:
        return {problem.id: problem for problems in self._problems.values() for problem in problems}


def judged(problem: Problem, text: str, sandbox: Sandbox, limits: Limits = DEFAULT_LIMITS) -> Verdict:
    """Run one candidate against the tests of its problem. Never raises for what the candidate does."""
    if problem.cases:
        return _judged_by_output(problem, text, limits)
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
    """Who calls what the candidate has defined; `sandbox.Session` is one."""

    def call(self, name: str, /, *arguments: Any, **named: Any) -> Any:
        """The value of name(*arguments, **named)."""
        ...


def run_tests(problem: Problem, candidate: Caller) -> None:
    """Run the tests of a problem, which raise where the candidate is wrong."""
    names = _names_of_tests(problem, candidate)
    for test in problem.tests:
        exec(compile(test, f"<test of {problem.id}>", "exec"), names)


def _judged_by_output(problem: Problem, text: str, limits: Limits) -> Verdict:
    """Run a program once for each case; outputs are compared line by line without white space at the ends."""
    protection: tuple[str, ...] = ()
    for given, expected in problem.cases:
        done = run_isolated(
            program(problem, text), stdin=given, seconds=limits.seconds, memory_gb=limits.memory_gb
        )
        protection = done.protection
        if done.error is not None and not done.error.startswith("SystemExit"):
            late = "did not end within" in done.error
            return Verdict(False, f"{'timeout' if late else 'raised'}: {done.error}", late, protection)
        if _lines(done.printed) != _lines(expected):
            return Verdict(False, "wrong answer", protection=protection)
    return Verdict(True, protection=protection)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def extracted(text: str) -> str:
    """The first fenced block of Python in a text, or all of it."""
    fenced = _FENCE.search(text)
    return fenced.group(1) if fenced else text


def program(problem: Problem, text: str) -> str:
    """An answer as a program: as it is where it defines the entry point, else as what continues the opening."""
    code = extracted(text)
    entry = problem.entry_point
    if entry is None or not problem.opening:
        return code
    if re.search(rf"^(?:async )?def {re.escape(entry)}\b", code, re.MULTILINE):
        return f"{problem.opening}    pass\n\n{code}"
    return problem.opening + code


def _names_of_tests(problem: Problem, candidate: Caller) -> dict[str, Any]:
    """What tests see: the opening's own functions, the setup, and a proxy for every other name that they use."""
    names: dict[str, Any] = {"__builtins__": {**vars(builtins), "__import__": _importer()}}
    if problem.opening:
        exec(f"{problem.opening}    pass\n", names)
    tests = [ast.parse(test) for test in (problem.setup, *problem.tests)]
    modules, asked = _free_names(tests, problem)
    names |= {name: import_module(name) for name in modules}
    names |= {name: _proxy(candidate, name) for name in asked - names.keys()}
    if problem.entry_point:
        names[problem.entry_point] = _proxy(candidate, problem.entry_point)
    exec(problem.setup, names)
    return names


def _proxy(candidate: Caller, name: str) -> Callable[..., Any]:
    return lambda *arguments, **named: candidate.call(name, *arguments, **named)


def _importer() -> Callable[..., Any]:
    """`import` for tests; `random` is one that draws the same numbers for every candidate."""
    drawn = ModuleType("random")
    generator = random.Random(0)
    vars(drawn).update(
        {name: getattr(generator, name) for name in dir(generator) if not name.startswith("_")}
        | {"Random": random.Random}
    )
    return lambda name, *rest, **named: drawn if name == "random" else __import__(name, *rest, **named)


def _free_names(tests: Sequence[ast.Module], problem: Problem) -> tuple[set[str], set[str]]:
    """Names that the tests read and do not define: standard modules, and what the candidate has to define.

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
    asked = read - made - (vars(builtins).keys() - solved)
    modules &= (asked & sys.stdlib_module_names) - solved
    return modules, asked - modules
