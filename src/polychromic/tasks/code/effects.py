"""Says which parts of a program may be computed in either order, and which programs read their own names.

An operand *acts* where computing it may change what the other one is: `input()`, `a.pop()`, `next(it)`.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

_CALLS = (
    "abs all any ascii bin bool bytes chr complex dict divmod enumerate float format frozenset hash hex int isinstance "
    "len list max min oct ord pow range repr reversed round set slice sorted str sum tuple type zip"
)
_METHODS = (
    "lower upper strip lstrip rstrip split rsplit splitlines join replace count index find rfind rindex startswith "
    "endswith isdigit isalpha isalnum isupper islower isspace isnumeric isdecimal title capitalize swapcase casefold "
    "zfill center ljust rjust format encode decode partition rpartition translate get keys values items copy union "
    "intersection difference symmetric_difference issubset issuperset isdisjoint bit_length bit_count is_integer"
)
_PURE_CALLS, _PURE_METHODS = frozenset(_CALLS.split()), frozenset(_METHODS.split())
_PURE_MODULES = frozenset({"math", "cmath", "string"})
_CALLERS = frozenset({"map", "filter"})
_ITERATORS = frozenset({"map", "filter", "zip", "iter", "enumerate", "reversed", "open"})
_READERS = frozenset({"eval", "exec", "compile", "globals", "locals", "vars", "dir"})
_OWN_WORDS = frozenset(
    {"__doc__", "__annotations__", "__name__", "__qualname__", "__code__", "__globals__", "__dict__"}
)
_LIBRARIES_OF_NAMES = frozenset({"inspect", "ast", "dis", "traceback"})


def reads_names(tree: ast.AST) -> bool:
    """Tells whether a program can see what it calls things, so that it is another one under other names."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in _READERS:
                return True
            case ast.Attribute(attr=name) if name in _OWN_WORDS or name in {"get_type_hints", "_getframe"}:
                return True
            case ast.alias(name=name) if name in _LIBRARIES_OF_NAMES or name == "get_type_hints":
                return True
            case _:
                pass
    return False


class Effects:
    """Knows of a program, whose own names are labels by now, which expressions act."""

    def __init__(self, tree: ast.AST) -> None:
        nodes = list(ast.walk(tree))
        self._rebound = {name for node in nodes if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names}
        methods = (part for node in nodes if isinstance(node, ast.ClassDef) for part in node.body)
        self._own_methods = {part.name for part in methods if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef))}
        self._libraries = {name for node in nodes for name in _libraries(node)}
        self._drawn = {name for node in nodes for name in _drawn_from(node)}
        stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name not in stored]
        self._pure: set[str] = {node.name for node in functions} - self._own_methods
        while acting := {node.name for node in functions if node.name in self._pure and self._changes(node)}:
            self._pure -= acting

    def commute(self, first: ast.expr, second: ast.expr) -> bool:
        """Tells whether two operands come to the same in either order, as far as what they do goes."""
        acting = [node for node in (first, second) if self._acts(node)]
        if len(acting) != 1:
            return not acting
        other = second if acting[0] is first else first
        named = any(isinstance(node, ast.NamedExpr) for node in ast.walk(acting[0]))
        if isinstance(other, ast.UnaryOp):
            other = other.operand
        is_fixed = isinstance(other, ast.Name) and other.id not in self._rebound | self._drawn
        return not named and (is_fixed or isinstance(other, ast.Constant))

    def _acts(self, part: ast.AST) -> bool:
        for node in ast.walk(part):
            if isinstance(node, (ast.NamedExpr, ast.Yield, ast.YieldFrom, ast.Await)):
                return True
            if isinstance(node, ast.Call) and not self._is_pure(node):
                return True
            if isinstance(node, ast.Name) and node.id in self._drawn:
                return True
        return False

    def _is_pure(self, call: ast.Call) -> bool:
        given = [keyword.value for keyword in call.keywords if keyword.arg == "key"]
        match call.func:
            case ast.Name(id=name) if name in _CALLERS:
                given = call.args[:1]
            case ast.Name(id=name):
                if name not in _PURE_CALLS | self._pure | self._libraries:
                    return False
            case ast.Attribute(value=ast.Name(id=name)) if name in self._libraries:
                pass
            case ast.Attribute(attr=name):
                if name not in _PURE_METHODS - self._own_methods:
                    return False
            case _:
                return False
        return all(map(self._is_pure_function, given))

    def _is_pure_function(self, node: ast.expr) -> bool:
        match node:
            case ast.Name(id=name):
                return name in _PURE_CALLS | self._pure | self._libraries
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                return name in self._libraries or (name in vars(builtins) and attribute in _PURE_METHODS)
            case _:
                return isinstance(node, (ast.Lambda, ast.Constant))  # what stands in a lambda is walked through

    def _changes(self, function: ast.FunctionDef) -> bool:
        """Tells whether a function may do more than give a value."""
        for node in ast.walk(function):
            if isinstance(node, (ast.Global, ast.Nonlocal, ast.Delete, ast.With, ast.Import, ast.ImportFrom)):
                return True
            if isinstance(node, (ast.Attribute, ast.Subscript)) and not isinstance(node.ctx, ast.Load):
                return True
            # Of an argument that is a list, += changes the list.
            if isinstance(node, ast.AugAssign) and not isinstance(node.value, ast.Constant):
                return True
        return any(self._acts(part) for part in function.body) or bool(function.decorator_list)


def _libraries(node: ast.AST) -> Iterator[str]:
    """Yields the names of modules without effects, and of what is imported from them."""
    if isinstance(node, ast.Import):
        yield from (alias.asname or alias.name for alias in node.names if alias.name in _PURE_MODULES)
    elif isinstance(node, ast.ImportFrom) and node.module in _PURE_MODULES:
        yield from (alias.asname or alias.name for alias in node.names)


def _drawn_from(node: ast.AST) -> Iterator[str]:
    """Yields the names of iterators: who reads them leaves less for the next one."""
    if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and _is_iterator(node.value):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _is_iterator(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id in _ITERATORS
    return isinstance(value, ast.GeneratorExp)
