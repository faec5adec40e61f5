"""Code tasks: a model writes Python, tests that it never sees decide. HumanEval, MBPP and the user's own problems.

A test is code of the benchmark's, or of the user's, and is trusted: it runs here, and what it calls of the candidate is
a proxy that asks the sandbox (`sandbox.py`). Only arguments go out and plain values come back.
"""

from __future__ import annotations

import ast
import builtins
import gzip
import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, resources
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polychromic.errors import DataError
from polychromic.records import Check, Prompt, as_messages
from polychromic.tasks.base import Split
from polychromic.tasks.code_forms import canonical_form, form_distances
from polychromic.tasks.execution import run_isolated
from polychromic.tasks.sandbox import (
    DEFAULT_LIMITS,
    CandidateError,
    CandidateTimeoutError,
    Limits,
    Sandbox,
    Session,
    borrowed_sandbox,
)

Benchmark = Literal["humaneval", "mbpp", "mbpp_sanitized"]

_FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
_INSTRUCTION = "Complete this Python function. Answer with the whole function in one code block.\n\n"
# Table 1 of Austin et al. 2021: problems 1 to 10 are examples for prompts.
_MBPP_SPLITS: dict[Split, range] = {
    "test": range(11, 511),
    "validation": range(511, 601),
    "train": range(601, 975),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: what the model reads, and how an answer is judged.

    `opening` is code that an answer may continue (HumanEval's signature and docstring) and whose other functions tests
    may use; `tests` are lines of trusted code that raise where the candidate is wrong; `cases` are pairs of standard
    input and expected output, for programs in place of functions.
    """

    id: str
    prompt: str
    tests: tuple[str, ...] = ()
    entry_point: str | None = None
    opening: str = ""
    setup: str = ""
    cases: tuple[tuple[str, str], ...] = ()
    solutions: tuple[str, ...] = ()


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
            names = _names_of_tests(problem, session)
            for test in problem.tests:
                exec(compile(test, f"<test of {problem.id}>", "exec"), names)
        except CandidateTimeoutError as failure:
            return Verdict(False, f"timeout: {failure}", True, session.protection)
        except AssertionError:
            return Verdict(False, "wrong answer", protection=session.protection)
        except CandidateError as failure:
            return Verdict(False, f"raised: {failure}", protection=session.protection)
        except Exception as failure:  # noqa: BLE001 - a test that chokes on the candidate's value has refused it
            return Verdict(False, f"wrong answer ({type(failure).__name__})", protection=session.protection)
        return Verdict(True, protection=session.protection)


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


def _names_of_tests(problem: Problem, session: Session) -> dict[str, Any]:
    """What tests see: the opening's own functions, the setup, and a proxy for every other name that they use."""
    names: dict[str, Any] = {"__builtins__": {**vars(builtins), "__import__": _importer()}}
    if problem.opening:
        exec(f"{problem.opening}    pass\n", names)
    tests = [ast.parse(test) for test in (problem.setup, *problem.tests)]
    modules, asked = _free_names(tests, problem)
    names |= {name: import_module(name) for name in modules}
    names |= {name: _proxy(session, name) for name in asked - names.keys()}
    if problem.entry_point:
        names[problem.entry_point] = _proxy(session, problem.entry_point)
    exec(problem.setup, names)
    return names


def _proxy(session: Session, name: str) -> Callable[..., Any]:
    return lambda *arguments, **named: session.call(name, *arguments, **named)


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


def load_benchmark(name: Benchmark) -> dict[Split, list[Problem]]:
    """The problems of a benchmark that ships with the package, by split; HumanEval has test problems only."""
    if name == "humaneval":
        return {"test": [_of_humaneval(row) for row in _packaged("humaneval.jsonl.gz")]}
    rows = _packaged(f"{name}.json.gz" if name == "mbpp_sanitized" else f"{name}.jsonl.gz")
    problems = {row["task_id"]: _of_mbpp(row) for row in rows}
    return {
        split: [problems[number] for number in numbers if number in problems]
        for split, numbers in _MBPP_SPLITS.items()
    }


def load_problems(path: Path) -> list[Problem]:
    """The user's problems, one JSON object a line. Raises one DataError that lists every bad line.

    Keys: `prompt`; `tests`, a list of assertions, with `entry_point` where an answer continues the prompt; or
    `cases`, a list of {"input", "output"}; `id` or `task_id`, `setup` and `solution` may be left out.
    HumanEval's and MBPP's own lines are read as they are.
    """
    problems, faults = [], []
    for number, row in _rows(path, faults):
        try:
            problems.append(_of_user(row, f"{path.stem}-{number:05d}"))
        except (KeyError, TypeError, ValueError, SyntaxError) as error:
            faults.append(f"{path}:{number}: {_fault(error)}")
    counts: dict[str, int] = {}
    for problem in problems:
        counts[problem.id] = counts.get(problem.id, 0) + 1
    faults += [
        f"{path}: id {name!r} stands {n} times, expected unique ids" for name, n in counts.items() if n > 1
    ]
    if faults or not problems:
        raise DataError("\n".join(faults) or f"{path}: holds no problems, expected one JSON object a line")
    return problems


def _rows(path: Path, faults: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); check the path") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            faults.append(f"{path}:{number}: no JSON ({error})")
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            faults.append(f"{path}:{number}: expected a JSON object")


def _fault(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"key {error.args[0]!r} is missing"
    return f"a test is no Python ({error})" if isinstance(error, SyntaxError) else str(error)


def _of_user(row: Mapping[str, Any], default_id: str) -> Problem:
    if "canonical_solution" in row and "test" in row:
        return _of_humaneval(row)
    if "test_list" in row:
        return _of_mbpp(row)
    cases = tuple((case["input"], case["output"]) for case in row.get("cases", ()))
    tests = row.get("tests", ())
    if isinstance(tests, str) or not all(isinstance(test, str) for test in tests):
        raise TypeError("tests: expected a list of assertions")
    if not cases and not tests:
        raise ValueError("expected tests (a list of assertions) or cases (pairs of input and output)")
    for test in tests:
        ast.parse(test)
    entry_point, prompt = row.get("entry_point"), row["prompt"]
    solution = row.get("solution")
    return Problem(
        id=str(row.get("id", row.get("task_id", default_id))),
        prompt=prompt,
        tests=tuple(tests),
        entry_point=entry_point,
        opening=prompt
        if entry_point and re.search(rf"^def {re.escape(entry_point)}\b", prompt, re.MULTILINE)
        else "",
        setup=row.get("setup", ""),
        cases=cases,
        solutions=(solution,) if solution else (),
    )


def _of_humaneval(row: Mapping[str, Any]) -> Problem:
    entry = row["entry_point"]
    return Problem(
        id=row["task_id"],
        prompt=f"{_INSTRUCTION}```python\n{row['prompt'].rstrip()}\n```",
        tests=(f"{row['test']}\n\ncheck({entry})",),
        entry_point=entry,
        opening=row["prompt"],
        solutions=(row["canonical_solution"],),
    )


def _of_mbpp(row: Mapping[str, Any]) -> Problem:
    tests = tuple(row["test_list"])
    shown = "\n".join(tests)
    setup = "\n".join([*row.get("test_imports", ()), row.get("test_setup_code", "")])
    return Problem(
        id=str(row["task_id"]),
        prompt=f"{row.get('text') or row['prompt']} Answer with one Python code block. "
        f"It should pass these tests:\n\n{shown}",
        tests=tests,
        setup=setup,
        solutions=(row["code"].replace("\r\n", "\n"),),
    )


def _packaged(name: str) -> list[dict[str, Any]]:
    content = (resources.files("polychromic.tasks") / "problems" / name).read_bytes()
    text = gzip.decompress(content).decode()
    return json.loads(text) if name.endswith(".json.gz") else [json.loads(line) for line in text.splitlines()]
