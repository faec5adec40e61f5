"""Drops what a program holds and does not use: statements that nothing reaches, definitions that are made anew, imports
that nothing reads."""

from __future__ import annotations

import ast
import sys
from typing import Any

from polychromic.tasks.code.names import named_by

_DEFINING = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Pass)
# Importing these does something: it prints, or opens a browser.
_HARMLESS = sys.stdlib_module_names - {"this", "antigravity"}


def without_unreached(tree: Any) -> Any:
    """Drops statements behind one that always leaves (`return`, `raise`, `break`, `continue`, a branch whose both sides
    do, `while True` without `break`), and bare constants. Without this a policy is paid for what it appends."""
    return _Reached(tree).visit(tree)


class _Reached(ast.NodeTransformer):
    def __init__(self, scope: ast.AST) -> None:
        self._scope = scope

    def visit(self, node: ast.AST) -> Any:
        outer = self._scope
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self._scope = node
        node = super().visit(node)
        for field in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, field, None), list):
                setattr(node, field, self._reached(block))
        self._scope = outer
        return node

    def _reached(self, block: list[ast.stmt]) -> list[ast.stmt]:
        said = [node for node in block if not _is_text(node)] or ([ast.Pass()] if block else [])
        end = next((place for place, node in enumerate(said, start=1) if _leaves(node)), len(said))
        return said[:end] if self._does_nothing(said[end:]) else said

    def _does_nothing(self, dead: list[ast.stmt]) -> bool:
        """Tells whether a function is the same without statements that it never reaches: `yield` makes it a generator,
        and an assignment makes a name its own, which it may read elsewhere."""
        parts = {part for node in dead for part in ast.walk(node)}
        if any(isinstance(part, (ast.Yield, ast.YieldFrom, ast.Global, ast.Nonlocal)) for part in parts):
            return False
        living = [part for part in ast.walk(self._scope) if part not in parts]
        read = {part.id for part in living if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
        bound, living_bound = (set().union(*map(named_by, some)) for some in (parts, living))
        return not bound & read - living_bound


def _leaves(node: ast.stmt) -> bool:
    match node:
        case ast.Return() | ast.Raise() | ast.Break() | ast.Continue():
            return True
        case ast.If(body=body, orelse=other):
            return any(map(_leaves, body)) and any(map(_leaves, other))
        case ast.While(test=ast.Constant(value=value)) if value:
            return not any(isinstance(part, ast.Break) for part in ast.walk(node))
        case _:
            return False


def without_repeated(tree: ast.Module) -> ast.Module:
    """Drops a function of the module that is defined anew before anything could have called it, as the opening of a
    prompt is by an answer that is the whole function."""
    kept: list[ast.stmt] = []
    for place, node in enumerate(tree.body):
        if not (isinstance(node, ast.FunctionDef) and not node.decorator_list and _is_made_anew(tree, place, node)):
            kept.append(node)
    tree.body = kept
    return tree


def _is_made_anew(tree: ast.Module, place: int, function: ast.FunctionDef) -> bool:
    if any(isinstance(part, ast.Call) for part in function.args.defaults):
        return False
    for node in tree.body[place + 1 :]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if _names_at_once(node, function.name):
                return False
            if node.name == function.name:
                return True
        elif not (isinstance(node, _DEFINING) or _is_text(node)) or _names(node, function.name):
            return False
    return False


def _names_at_once(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> bool:
    """Tells whether a name is read when the function is defined, not when it is called."""
    defaults = [part for part in (*node.args.defaults, *node.args.kw_defaults) if part]
    return any(_names(part, name) for part in (*node.decorator_list, *defaults))


def _names(node: ast.AST, name: str) -> bool:
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def without_unused(tree: Any) -> Any:
    """Drops imports from the standard library of names that nothing reads, and the second of two that are the same."""
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return _Used(read).visit(tree)


class _Used(ast.NodeTransformer):
    def __init__(self, read: set[str]) -> None:
        self._read = read

    def visit_Module(self, node: ast.Module) -> Any:
        self.generic_visit(node)
        seen: set[str] = set()
        imports = [part for part in node.body if isinstance(part, (ast.Import, ast.ImportFrom))]
        bound = {
            part.id for part in ast.walk(node) if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load)
        }
        for part in imports:
            names = {alias.asname or alias.name for alias in part.names}
            if (said := ast.dump(part)) in seen and not names & bound:
                node.body.remove(part)
            seen.add(said)
        return node

    def visit_FunctionDef(self, node: Any) -> Any:
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> Any:
        module = node.module if isinstance(node, ast.ImportFrom) else None
        node.names = [alias for alias in node.names if self._is_used(alias, module or alias.name)]
        return node if node.names else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        return node if node.level else self.visit_Import(node)

    def _is_used(self, alias: ast.alias, module: str) -> bool:
        if module == "__future__":
            return alias.name != "annotations"
        is_harmless = module.partition(".")[0] in _HARMLESS
        return alias.name == "*" or not is_harmless or (alias.asname or alias.name) in self._read
