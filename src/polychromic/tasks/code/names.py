"""Renames what a program has named itself, scope by scope, so that programs which differ in names alone become one."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

_LABEL = re.compile(r"name_of_own_\d+")
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def renamed(tree: ast.Module, kept: Collection[str] = ()) -> ast.AST:
    """Returns the tree with a label in place of each name that the program binds.

    Attributes, builtins and imported modules keep their names, and so do what a class binds, which is read as an
    attribute, and the `kept` names, by which tests call. Annotations of arguments and of what functions return are
    dropped.
    """
    return _Renamed(tree, kept).visit(tree)


def renumbered(dump: str) -> str:
    """Numbers the labels of a dumped tree by the order in which they first appear."""
    numbers: dict[str, str] = {}
    return _LABEL.sub(lambda found: numbers.setdefault(found[0], f"n{len(numbers)}"), dump)


@dataclass
class _Scope:
    """Labels of the names that a module, a function or a class binds; those of a class are its own."""

    names: dict[str, str | None]
    is_class: bool = False


class _Renamed(ast.NodeTransformer):
    """Gives each name of each scope a label of its own.

    The variables of a comprehension or a lambda are called by their place in it, so that `x` in two comprehensions and
    `x` in one, `v` in the other are the same program.
    """

    def __init__(self, tree: ast.Module, kept: Collection[str]) -> None:
        declared = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
        bound = bound_by(tree.body) | declared
        self._scopes = [_Scope({name: name if name in kept else None for name in bound})]
        self._labels = 0
        self._own = 0
        self._arguments = _named_arguments(tree)
        self._spoken = self._keywords_of_others(tree)

    def _keywords_of_others(self, tree: ast.Module) -> set[str]:
        """Returns the keywords of calls whose function is not known (a class, a method, `partial`): an argument that
        has such a name may be meant by it."""
        spoken: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                known = self._arguments.get(name, [])
                is_builtin = hasattr(builtins, name) and name not in self._scopes[0].names
                spoken |= {word.arg for word in node.keywords if word.arg and word.arg not in known and not is_builtin}
        return spoken

    def _name(self, name: str) -> str:
        for depth, scope in enumerate(reversed(self._scopes)):
            if name not in scope.names or (scope.is_class and depth):
                continue  # methods do not see the names of their class
            if scope.is_class:
                return name
            label = scope.names[name]
            if label is None:
                label = scope.names[name] = f"name_of_own_{self._labels}"
                self._labels += 1
            return label
        return name

    def _each(self, nodes: Iterable[Any]) -> list[Any]:
        return [node and self.visit(node) for node in nodes]

    def visit_Name(self, node: ast.Name) -> Any:
        return ast.Name(self._name(node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> Any:
        return ast.arg(self._name(node.arg))

    def visit_alias(self, node: ast.alias) -> Any:
        return ast.alias(node.name, self._name(node.asname or node.name.partition(".")[0]))

    def visit_Global(self, node: ast.Global) -> Any:
        return ast.Global(sorted(map(self._name, node.names)))

    def visit_Nonlocal(self, node: ast.Nonlocal) -> Any:
        return ast.Nonlocal(sorted(map(self._name, node.names)))

    def _named(self, node: Any) -> Any:
        """Renames what a node binds by a text: an exception that is caught, a part of a pattern."""
        node = self.generic_visit(node)
        node.name = node.name and self._name(node.name)
        return node

    visit_ExceptHandler = visit_MatchAs = visit_MatchStar = _named

    def visit_MatchMapping(self, node: ast.MatchMapping) -> Any:
        self.generic_visit(node)
        node.rest = node.rest and self._name(node.rest)
        return node

    def visit_Call(self, node: ast.Call) -> Any:
        arguments = self._arguments.get(node.func.id, []) if isinstance(node.func, ast.Name) else []
        self.generic_visit(node)
        for keyword in node.keywords:
            if keyword.arg in arguments:
                keyword.arg = f"argument_{arguments.index(keyword.arg)}"
        return node

    def _function(self, node: _Function) -> Any:
        node.name, node.returns = self._name(node.name), None
        node.decorator_list = self._each(node.decorator_list)
        outer = self._defaults(node.args)
        bound = bound_by(node.body) | {arg.arg for arg in _arguments(node.args)}
        names: dict[str, str | None] = dict.fromkeys(bound - declared_outside(node.body))
        names |= {arg.arg: f"spoken_{arg.arg}" for arg in _arguments(node.args) if arg.arg in self._spoken}
        self._scopes.append(_Scope(names))
        node.args, node.body = self.visit(node.args), self._each(node.body)
        self._scopes.pop()
        node.args.defaults, node.args.kw_defaults = outer
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        node.name = self._name(node.name)
        for part in ("decorator_list", "bases", "keywords"):
            setattr(node, part, self._each(getattr(node, part)))
        self._scopes.append(_Scope(dict.fromkeys(bound_by(node.body)), is_class=True))
        node.body = self._each(node.body)
        self._scopes.pop()
        return node

    def _defaults(self, arguments: ast.arguments) -> tuple[list[Any], list[Any]]:
        """Takes the defaults off the arguments: they are read outside."""
        outer = self._each(arguments.defaults), self._each(arguments.kw_defaults)
        arguments.defaults, arguments.kw_defaults = [], []
        return outer

    def _within(self, node: Any, names: Sequence[str]) -> Any:
        """Renames inside of a node that binds `names` for itself alone."""
        own: dict[str, str | None] = {name: f"own{self._own}_{i}" for i, name in enumerate(dict.fromkeys(names))}
        self._scopes.append(_Scope(own))
        self._own += 1
        node = self.generic_visit(node)
        self._own -= 1
        self._scopes.pop()
        return node

    def _comprehension(self, node: Any) -> Any:
        first = node.generators[0]
        outer, first.iter = self.visit(first.iter), ast.Constant(None)  # the first iterable is read outside
        targets = [part for loop in node.generators for part in ast.walk(loop.target)]
        node = self._within(node, [part.id for part in targets if isinstance(part, ast.Name)])
        first.iter = outer
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        outer = self._defaults(node.args)
        node = self._within(node, [arg.arg for arg in _arguments(node.args)])
        node.args.defaults, node.args.kw_defaults = outer
        return node


def bound_by(body: Sequence[ast.stmt]) -> set[str]:
    """Returns the names that statements bind in their own scope: assigned, imported, defined, caught, matched."""
    bound: set[str] = set()
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                bound |= named_by(node)
                continue  # what is inside has a scope of its own
            case ast.Lambda():
                continue
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                named = (part.target.id for part in ast.walk(node) if isinstance(part, ast.NamedExpr))
                bound |= set(named)  # := binds outside of a comprehension
                continue
            case _:
                bound |= named_by(node)
        todo += ast.iter_child_nodes(node)
    return bound - declared_outside(body)


def named_by(node: ast.AST) -> set[str]:
    """Returns the name that one node, without what is in it, gives a value; empty where it gives none."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name):
            return {name}
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.alias(name=name, asname=other):
            return {other or name.partition(".")[0]}
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return {name}
        case ast.MatchMapping(rest=str(name)):
            return {name}
        case _:
            return set()


def declared_outside(body: Sequence[ast.stmt]) -> set[str]:
    """Returns the names that statements declare `global` or `nonlocal` in their own scope."""
    declared: set[str] = set()
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            declared |= set(node.names)
        elif not isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)
    return declared


def _named_arguments(tree: ast.Module) -> dict[str, list[str]]:
    """Returns what each function that is called by its name, and is defined once, takes by keyword."""
    methods = {part for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for part in node.body}
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS) and node not in methods:
            words = [arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)]
            found[node.name] = words if found.setdefault(node.name, words) == words else []
    return found


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    several = [arguments.vararg, arguments.kwarg]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *filter(None, several)]
