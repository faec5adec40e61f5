"""Says which programs are one approach: by the shape of their syntax trees, or by what they do beyond their tests."""

from __future__ import annotations

import ast
import builtins
import io
import re
import tokenize
import warnings
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from polychromic.numerics import FloatArray
from polychromic.tasks.code.effects import Effects, reads_names
from polychromic.tasks.code.leftovers import without_repeated, without_unreached, without_unused
from polychromic.tasks.code.names import renamed, renumbered

_COMMUTATIVE = (ast.Mult, ast.BitAnd, ast.BitXor)
_NUMERIC = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)
_NUMERIC_CALLS = frozenset({"len", "int", "float", "abs", "ord", "sum", "round"})
_SETS = frozenset({"set", "frozenset"})
_MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Gt: ast.Lt, ast.GtE: ast.LtE}


def canonical_form(code: str, called: Collection[str] = ()) -> str | None:
    """Returns one string for all programs that differ in names, comments, docstrings, annotations, unused imports, what
    is never reached and formatting, in the order of operands that commute, or in `x += 1` for `x = x + 1`. None where
    the code is no Python.

    `called` are names by which tests call: those count. What a program does is not looked at: `a + b` of unknown types
    is not reordered, as of texts it does not commute, nor `input() == input()`, where the order says what is read.
    """
    tree = parsed(code)
    if tree is None:
        return None
    try:
        if reads_names(tree):
            return ast.dump(tree)
        tree = renamed(without_unreached(without_repeated(tree)), called)
        return renumbered(ast.dump(without_unused(_Plain(Effects(tree)).visit(tree))))
    except (ValueError, RecursionError, MemoryError):
        return None


def parsed(code: str) -> ast.Module | None:
    """Returns the syntax tree; None where the code is no Python. What Python warns of (`1if x`) is not said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


class _Plain(ast.NodeTransformer):
    """Drops what does not matter and puts operands that commute in one order."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects

    def _without_pass(self, node: Any) -> Any:
        self.generic_visit(node)
        if len(node.body) > 1:
            node.body = [part for part in node.body if not isinstance(part, ast.Pass)] or [ast.Pass()]
        return node

    visit_Module = visit_FunctionDef = visit_AsyncFunctionDef = _without_pass

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        # What a dataclass or a NamedTuple holds is said by annotations alone.
        is_plain = not node.decorator_list and not node.bases
        node.body = [_field(part, is_plain) if isinstance(part, ast.AnnAssign) else part for part in node.body]
        return self._without_pass(node)

    def visit_Constant(self, node: ast.Constant) -> Any:
        return ast.Constant(node.value)  # without the mark of u"..."

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        self.generic_visit(node)
        return None if node.value is None else ast.Assign([node.target], node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        self.generic_visit(node)
        # Of a list, += and *= change it in place: only where the other side is a number are the two the same, and *= of
        # a list takes one.
        if not isinstance(node.target, ast.Name) or isinstance(node.op, ast.Mult) or not _is_number(node.value):
            return node
        read = ast.Name(node.target.id, ast.Load())
        return ast.Assign([node.target], self.visit_BinOp(ast.BinOp(read, node.op, node.value)))

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        self.generic_visit(node)
        # Of two dictionaries, the values of the one behind | stand.
        unsure = isinstance(node.op, (ast.Add, ast.BitOr))
        commute = isinstance(node.op, _COMMUTATIVE) or (unsure and any(map(_commutes, (node.left, node.right))))
        if commute and self._effects.commute(node.left, node.right):
            node.left, node.right = sorted((node.left, node.right), key=_order)
        return node

    def visit_Compare(self, node: ast.Compare) -> Any:
        self.generic_visit(node)
        if len(node.ops) != 1 or not self._effects.commute(node.left, node.comparators[0]):
            return node
        operator, other = node.ops[0], node.comparators[0]
        if type(operator) in _MIRRORED:
            return ast.Compare(other, [_MIRRORED[type(operator)]()], [node.left])
        if isinstance(operator, (ast.Eq, ast.NotEq)):
            first, second = sorted((node.left, other), key=_order)
            return ast.Compare(first, [operator], [second])
        return node


def _commutes(node: ast.AST) -> bool:
    """Tells whether a value is a number or a set for certain: + and | of it take either order."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SETS:
        return True
    return _is_number(node) or isinstance(node, (ast.Set, ast.SetComp))


def _is_number(node: ast.AST) -> bool:
    """Tells whether a value is a number whatever the variables hold (or the expression raises)."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (int, float, complex))
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, _NUMERIC) and (_is_number(node.left) or not isinstance(node.op, (ast.Sub, ast.Mod)))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        adds_up_others = node.func.id == "sum" and len(node.args) + len(node.keywords) > 1  # sum(lists, [])
        return node.func.id in _NUMERIC_CALLS and not adds_up_others
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd))


def _field(part: ast.AnnAssign, is_plain: bool) -> ast.stmt:
    """Returns what a class says with an annotation: a value, or a field where something reads the annotations."""
    if is_plain:
        return part if part.value else ast.Assign([part.target], ast.Constant(...))
    kind = re.search("ClassVar|InitVar|KW_ONLY", ast.unparse(part.annotation))
    mark = ast.Constant(f"field {kind and kind[0]}")
    return ast.Assign([part.target, mark], part.value or ast.Constant(...))


def _order(node: ast.expr) -> tuple[str, str]:
    """Returns a key that knows shapes first and labels behind them, which no renaming changes."""
    return _shape(node), ast.dump(node)


def _shape(node: ast.expr) -> str:
    """Returns a key that does not know names."""
    return ast.dump(
        _Anonymous().visit(ast.parse(ast.unparse(ast.fix_missing_locations(ast.Expression(node))), mode="eval"))
    )


class _Anonymous(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> Any:
        return node if hasattr(builtins, node.id) else ast.Name("_", node.ctx)


def form_distances(codes: Sequence[str]) -> FloatArray:
    """Returns [N, N] distances in [0, 1]: 1 − |A ∩ B| / |A ∪ B| of the pairs of neighbouring tokens."""
    pairs_N = [_token_pairs(code) for code in codes]
    distances_NN = np.zeros((len(codes), len(codes)))
    for i, first in enumerate(pairs_N):
        for j, second in enumerate(pairs_N[:i]):
            union = len(first | second)
            different = 1.0 - len(first & second) / union if union else float(codes[i] != codes[j])
            distances_NN[i, j] = distances_NN[j, i] = different
    return distances_NN


def _token_pairs(code: str) -> frozenset[tuple[str, str]]:
    words: list[str] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER):
                words.append(token.string)
    except (tokenize.TokenError, SyntaxError):
        words += code.split()
    return frozenset(pairwise(words))
