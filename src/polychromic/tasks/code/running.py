"""Runs the trusted tests of a problem here, with proxies for what the candidate defines in the sandbox.

Tests are what people write: assertions, functions `test_…`, classes of unittest; they may import the candidate's names
from `solution`, expect errors, make objects of its classes, and call it for what it changes in its arguments.
"""

from __future__ import annotations

import ast
import builtins
import random
import re
import sys
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import CodeType, FunctionType, ModuleType
from typing import Any, Protocol

from polychromic.tasks.checking.sandbox import Handle, Proxied
from polychromic.tasks.code.problems import Problem

_CANDIDATES = frozenset({"solution", "candidate", "submission"})  # modules by which tests may mean the candidate
_RUNNERS = frozenset({"unittest.main", "pytest.main"})  # what they would run is run anyway
_DROPPED = "__called_for_what_it_does__"
_DEFINED = r"^(?:async def|def|class) (\w+)"


class Caller(Protocol):
    """Calls what the candidate has defined; `sandbox.Session` is one and says more."""

    def call(self, target: Any, /, *arguments: Any, **named: Any) -> Any:
        """Returns target(*arguments, **named)."""
        ...

    def change(self, target: Any, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """Does as `call`, and changes the arguments as the candidate has."""
        ...

    def attribute(self, target: Any, name: str) -> Any:
        """Returns an attribute."""
        ...


def run_tests(problem: Problem, candidate: Caller) -> None:
    """Runs the tests of a problem, which raise where the candidate is wrong."""
    names = _names_of_tests(problem, candidate)
    for test in problem.tests:
        before = dict(names)
        code, read = _compiled(test, f"<test of {problem.id}>")
        exec(code, names)
        made = {name: value for name, value in names.items() if before.get(name) is not value}
        for name, value in made.items():
            for run in _collected(name, value):
                run()
        check = made.get("check")  # HumanEval's form of a test, without the line that calls it
        if problem.entry_point and isinstance(check, FunctionType) and "check" not in read:
            check(names[problem.entry_point])


@lru_cache(maxsize=1024)
def _compiled(test: str, name: str) -> tuple[CodeType, set[str]]:
    """Returns the code of a test, which many candidates meet, and the names that it reads."""
    tree = prepared(test)
    return compile(tree, name, "exec"), _read_in(tree)


def _read_in(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _collected(name: str, made: Any) -> Iterator[Callable[[], Any]]:
    """Yields what pytest and unittest would run of what a test has defined."""
    if isinstance(made, type) and issubclass(made, unittest.TestCase):
        suite = unittest.defaultTestLoader.loadTestsFromTestCase(made)
        for case in suite:
            vars(case)["_type_equality_funcs"] = {}  # those compare long values line by line, for hours
        yield suite.debug
    elif isinstance(made, FunctionType) and name.startswith("test_"):
        yield from _parametrized(made)
    elif isinstance(made, type) and name.startswith("Test"):
        for method in (method for method in vars(made) if method.startswith("test_")):
            yield from _parametrized(getattr(made(), method))


def _parametrized(function: Any) -> Iterator[Callable[[], Any]]:
    """Yields the calls of a test function, one for each row of pytest's parametrize."""
    rows: list[dict[str, Any]] = [{}]
    for mark in (mark for mark in getattr(function, "pytestmark", ()) if mark.name == "parametrize"):
        names, given = mark.args
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
        given = [
            one.values if type(one).__name__ == "ParameterSet" else (one if names[1:] else (one,)) for one in given
        ]
        rows = [{**row, **dict(zip(names, one, strict=True))} for one in given for row in rows]
    yield from (lambda row=row: function(**row) for row in rows)


def prepared(test: str) -> ast.Module:
    """Returns a test in which a call whose value is dropped is known as one, and without imports of the candidate."""
    return ast.fix_missing_locations(_Prepared().visit(ast.parse(test)))


class _Prepared(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> Any:
        self.generic_visit(node)
        if isinstance(node.value, ast.Call):
            call = node.value
            if ast.unparse(call.func) in _RUNNERS:
                return ast.Pass()
            node.value = ast.Call(ast.Name(_DROPPED, ast.Load()), [call.func, *call.args], call.keywords)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if not (node.level or node.module in _CANDIDATES):
            return node
        renamed = [(alias.name, alias.asname) for alias in node.names if alias.asname]
        return [
            ast.Assign([ast.Name(other, ast.Store())], ast.Name(name, ast.Load())) for name, other in renamed
        ] or ast.Pass()


def _dropped(function: Any, /, *arguments: Any, **named: Any) -> Any:
    """Calls a function for what it does: the candidate's may change its arguments."""
    if isinstance(function, _Function):
        return function._changing(arguments, named)
    return function(*arguments, **named)


class _Function(Proxied):
    """Stands in tests for a function of the candidate, where they name no class.

    It has no attributes, nor has an object that it gives: one that claims to be what is expected is worth nothing.
    """

    __slots__ = ("_candidate",)

    def __init__(self, candidate: Caller, of_code: str | Handle) -> None:
        super().__init__(of_code)
        self._candidate = candidate

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._made(self._candidate.call(self._of_code, *arguments, **named))

    def _changing(self, arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
        return self._made(self._candidate.change(self._of_code, arguments, named))

    def _made(self, value: Any) -> Any:
        return value

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the tests ask {self._of_code} for .{name}; only classes and their objects have that: write the name of a "
            "class with a capital letter, and import what is a module"
        )


class _Object(_Function):
    """Stands in tests for what the candidate defines, where they name one of its classes, and for its objects. It
    equals only itself."""

    __slots__ = ()

    def _made(self, value: Any) -> Any:
        return _Object(self._candidate, value) if isinstance(value, Handle) else value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._made(self._candidate.attribute(self._of_code, name))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_of_code", "_candidate"):
            object.__setattr__(self, name, value)
        else:
            self._candidate.call(setattr, self, name, value)

    def _method(self, name: str, *arguments: Any) -> Any:
        return _Object(self._candidate, self._candidate.attribute(self._of_code, name))(*arguments)

    def __bool__(self) -> bool:
        return isinstance(self._of_code, str) or self._candidate.call(bool, self._of_code)

    def __len__(self) -> int:
        return self._method("__len__")

    def __str__(self) -> str:
        return self._method("__str__")

    def __iter__(self) -> Iterator[Any]:
        return map(self._made, self._candidate.call(list, self._of_code))

    def __getitem__(self, key: Any) -> Any:
        return self._method("__getitem__", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._method("__setitem__", key, value)

    def __contains__(self, item: Any) -> bool:
        return self._method("__contains__", item)


def fault_of_tests(problem: Problem) -> str | None:
    """Returns why tests of the user's would say the same of every answer, if they would."""
    trees = [prepared(test) for test in (problem.setup, *problem.tests)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    for module in [name for node in nodes for name in _modules(node)]:
        if module not in sys.stdlib_module_names and find_spec(module) is None:
            return (
                f"tests import {module}, which is not installed here; what an answer defines is imported from solution"
            )
    if not problem.cases and not called_names(problem):
        return (
            "tests call nothing that an answer defines (Python's own functions do not count); call it, or name it as "
            "entry_point"
        )
    for function in (node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)):
        marks = " ".join(map(ast.unparse, function.decorator_list))
        needed = function.args.args[: len(function.args.args) - len(function.args.defaults)]
        missing = [one.arg for one in needed if "parametrize" not in marks or one.arg not in marks]
        if function.name.startswith("test_") and missing and function.name not in set().union(*map(_read_in, trees)):
            return f"tests: {function.name} takes {', '.join(missing)}, which nothing gives; fixtures are not read"
    return None


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    return [node.module.partition(".")[0]] if isinstance(node, ast.ImportFrom) and node.module else []


@lru_cache(maxsize=4096)
def called_names(problem: Problem) -> frozenset[str]:
    """Returns the names by which tests call what a candidate defines."""
    if problem.cases:
        return frozenset()
    _, needed = _free_names(problem)
    return frozenset(needed | ({problem.entry_point} if problem.entry_point else set()))


def _names_of_tests(problem: Problem, candidate: Caller) -> dict[str, Any]:
    """Returns what tests see: the opening's own functions, the setup, and a proxy for every other name."""
    own = {"__import__": _importer(), "print": lambda *_, **__: None}
    names: dict[str, Any] = {"__name__": "tests", "__builtins__": {**vars(builtins), **own}, _DROPPED: _dropped}
    if problem.opening:
        exec(f"{problem.opening}\n    pass\n", names)
    modules, names_needed = _free_names(problem)
    names |= {name: import_module(name) for name in modules}
    classes = {name for code in problem.solutions for kind, name in re.findall(r"^(class) (\w+)", code, re.MULTILINE)}
    asked_for = (names_needed - names.keys()) | ({problem.entry_point} if problem.entry_point else set())
    are_classes = {name for name in asked_for if name in classes or name[:1].isupper()}
    for name in asked_for:  # tests that make objects of classes read what functions give of them too
        names[name] = (_Object if are_classes else _Function)(candidate, name)
    exec(_compiled(problem.setup, f"<setup of {problem.id}>")[0], names)
    return names


def _importer() -> Callable[..., Any]:
    """Returns an `import` for tests whose `random` is one that draws the same numbers for every candidate."""
    drawn = ModuleType("random")
    generator = random.Random(0)
    vars(drawn).update(
        {name: getattr(generator, name) for name in dir(generator) if not name.startswith("_")}
        | {"Random": random.Random}
    )
    return lambda name, *rest, **named: drawn if name == "random" else __import__(name, *rest, **named)


@lru_cache(maxsize=1024)
def _free_names(problem: Problem) -> tuple[set[str], set[str]]:
    """Returns the names that the tests read and do not define: standard modules, and what the candidate has to define.

    A builtin is the candidate's where the reference solution defines it too (one problem of MBPP asks for `sum`).
    """
    tests = [prepared(test) for test in (problem.setup, *problem.tests)]
    read: set[str] = set()
    made: set[str] = {_DROPPED}
    modules: set[str] = set()
    for node in (node for test in tests for node in ast.walk(test)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler)):
            made.add(node.name or "")
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            modules.add(node.value.id)
    solved = {name for solution in problem.solutions for name in re.findall(_DEFINED, solution, re.MULTILINE)}
    needed = read - made - (vars(builtins).keys() - solved)
    modules &= (needed & sys.stdlib_module_names) - solved
    return modules, needed - modules
