"""Says which programs are one by what they do: their outputs on probes that a problem's candidates share.

Programs that pass all tests agree on the tests' inputs. Probes are those inputs and small changes of them, on which
solutions that follow different ideas often part (empty lists, negative numbers, reversed texts).
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from fractions import Fraction
from itertools import islice
from typing import Any

from polychromic.tasks.checking.protocol import Done, decode, encode
from polychromic.tasks.checking.sandbox import (
    DEFAULT_LIMITS,
    CandidateError,
    CandidateTimeoutError,
    Limits,
    Sandbox,
    Session,
    executed,
)
from polychromic.tasks.code.judging import lines_of, program
from polychromic.tasks.code.problems import Problem
from polychromic.tasks.code.running import called_names, run_tests

MOST_PROBES = 64
_LONGEST_NUMBER = 10**4000
Call = tuple[str, tuple[Any, ...]]


def behaviour(
    problem: Problem, text: str, probes: Sequence[Call], sandbox: Sandbox, limits: Limits = DEFAULT_LIMITS
) -> str:
    """Returns a hash of what a candidate answers to every probe: values and classes of errors, or what it makes of its
    arguments where it gives nothing; of a program that reads standard input, what it prints for the input of each case.

    From a probe that takes too long on, all answers count as missing.
    """
    if problem.cases:
        return _hashed(_printed(problem, text, sandbox, limits))
    answers: list[str] = []
    with sandbox.session(limits) as session:
        try:
            session.define(program(problem, text))
            for name, arguments in probes:
                answers.append(_answer(session, name, arguments))
        except CandidateTimeoutError:
            answers.append("no answer in time")
        except CandidateError as error:
            answers.append(f"raised {_class(error)}")
    return _hashed(answers)


def _hashed(answers: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(answers).encode(errors="surrogatepass")).hexdigest()[:16]


def _printed(problem: Problem, text: str, sandbox: Sandbox, limits: Limits) -> list[str]:
    code, deadline = program(problem, text), time.monotonic() + limits.seconds
    answers: list[str] = []
    for given, _ in problem.cases[:MOST_PROBES]:
        left = deadline - time.monotonic()
        done = executed(sandbox, code, stdin=given, seconds=max(left, 0.01), memory_gb=limits.memory_gb)
        ending = "" if done.error is None else done.error.partition(":")[0]
        if left <= 0 or "did not end within" in ending:
            return [*answers, "no answer in time"]
        answers.append(repr((lines_of(done.printed), ending)))
    return answers


def without_probes(problems: Iterable[Problem]) -> list[str]:
    """Names the problems whose tests show no call to try programs by, so that all programs would be the same."""
    return [problem.id for problem in problems if not (problem.cases or _shows_calls(problem) or _literal(problem))]


def _shows_calls(problem: Problem) -> bool:
    """Tells whether running the reference solution shows calls: one of a candidate's function, by position. What a
    class makes is no value, and its methods are not tried."""
    names = {
        node.func.id
        for test in problem.tests if problem.solutions
        for node in ast.walk(ast.parse(test))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords
    }  # fmt: skip
    functions = {name for name in names if f"def {name}" in problem.solutions[0]}
    return any(name in functions or not (name in vars(builtins) or name[:1].isupper()) for name in names)


def probes_of(problem: Problem, sandbox: Sandbox, most: int = MOST_PROBES) -> list[Call]:
    """Lists calls that the tests make of the first reference solution, then changed ones, without repetition.

    Where a problem has no reference solution, calls with literal arguments are read off the tests.
    """
    made = (_recorded(problem, sandbox) if problem.solutions else []) or _literal(problem)
    changed = ((name, changes) for name, arguments in made for changes in _changes(arguments))
    distinct = {repr(call): call for call in (*made[: most // 2], *islice(changed, 8 * most))}
    return list(distinct.values())[:most]


def _answer(session: Session, name: str, arguments: tuple[Any, ...]) -> str:
    try:
        given = deepcopy(arguments)
        value = session.change(name, given, {})
        # What gives nothing is called for what it does to its arguments.
        return ordered(value) if value is not None else f"None of {ordered(given)}"
    except CandidateTimeoutError:
        raise
    except CandidateError as error:
        return f"raised {_class(error)}"


def _class(error: CandidateError) -> str:
    return error.words.partition(":")[0]


def ordered(value: Any) -> str:
    """Returns a text for a plain value that does not depend on the order of sets and of the keys of dictionaries; of an
    iterator, whatever it was, its items."""
    match value:
        case Iterator():
            text = f"iterator({', '.join(map(ordered, value))})"
        case Done():
            text = f"coroutine({ordered(value.value)})"
        case set() | frozenset():
            text = f"{type(value).__name__}({sorted(map(ordered, value))})"
        case dict():
            items = (f"{ordered(key)}: {ordered(item)}" for key, item in value.items())
            text = f"{{{', '.join(sorted(items))}}}"
        case list() | tuple():
            text = f"{type(value).__name__}({', '.join(map(ordered, value))})"
        case int() if abs(value) >= _LONGEST_NUMBER:  # Python writes no more digits
            text = f"{value:x}"
        case Fraction():
            text = f"Fraction({ordered(value.numerator)}, {ordered(value.denominator)})"
        case _:
            text = repr(value) if type(value).__module__ in ("builtins", "decimal") else type(value).__name__
    return text


class _Recorder:
    """A session that writes down what is called."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.calls: list[Call] = []

    def call(self, target: Any, /, *arguments: Any, **named: Any) -> Any:
        """Does as `Session.call`; calls with names for arguments, or of objects, are forwarded only."""
        self._note(target, arguments, named)
        return self._session.call(target, *arguments, **named)

    def change(self, target: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Does as `Session.change`."""
        self._note(target, tuple(arguments), named)
        return self._session.change(target, arguments, named)

    def attribute(self, target: Any, name: str) -> Any:
        """Does as `Session.attribute`."""
        return self._session.attribute(target, name)

    def _note(self, target: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if isinstance(target, str) and not named:
            with suppress(TypeError):  # objects of this process are none of another
                self.calls.append((target, tuple(decode(encode(list(arguments))))))


def _recorded(problem: Problem, sandbox: Sandbox) -> list[Call]:
    with sandbox.session() as session:
        recorder = _Recorder(session)
        try:
            session.define(program(problem, problem.solutions[0]))
            run_tests(problem, recorder)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - a reference that fails a test has been called up to there
            pass
    return recorder.calls


def _literal(problem: Problem) -> list[Call]:
    calls: list[Call] = []
    needed = called_names(problem)
    for node in (node for test in problem.tests for node in ast.walk(ast.parse(test))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            if node.func.id not in needed or node.func.id[:1].isupper():
                continue
            try:
                calls.append((node.func.id, tuple(ast.literal_eval(argument) for argument in node.args)))
            except (ValueError, TypeError):  # a name, or what no set may hold
                continue
    return calls


def _changes(arguments: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for place, value in enumerate(arguments):
        for other in _variants(value):
            yield (*arguments[:place], other, *arguments[place + 1 :])


def _variants(value: Any) -> list[Any]:
    kind: Any = type(value)
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [0, -value, value + 1, value - 1]
    if isinstance(value, str):
        return ["", value[::-1], value + value, value.swapcase()]
    if isinstance(value, (list, tuple)):
        return [kind(), value[::-1], kind((*value, *value)), value[1:]]
    if isinstance(value, (set, dict)):
        return [kind()]
    return []
