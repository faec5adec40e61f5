"""Writes solutions of the problems of `functions` in the styles in which people write them."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable
from dataclasses import dataclass

from polychromic.seeding import child_seed
from polychromic.tasks.code.forms import parsed
from polychromic.tasks.code.functions import Function, Gather, Source

_NAMES = {"s": ("c", "ch")}
_ACCUMULATORS = ("out", "result")
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)


@dataclass(frozen=True)
class Draft:
    """A problem with every choice made but that of the style."""

    source: Source
    gather: Gather
    loop: str
    """The expression to loop over."""
    x: str
    """The name of the item."""
    t: str
    """The name of the accumulator."""
    keep: str | None
    change: str
    is_changed: bool
    inline: str

    @property
    def head(self) -> str:
        """Returns the first line."""
        return f"def f({self.source.argument}):"


def draw_solution(function: Function, draw: random.Random) -> str:
    """Returns one right program, of a random style."""
    return draw.choice(styles_of(function))(_drafted(function, draw))


def solutions(function: Function) -> list[str]:
    """Returns one right program of each style, the same ones every time."""
    draw = random.Random(child_seed("functions-solutions", function.text))
    return [style(_drafted(function, draw)) for style in styles_of(function)]


def styles_of(function: Function) -> list[Callable[[Draft], str]]:
    """Returns the styles in which a problem can be written."""
    styles = [comprehension, loop, piped]
    if function.keep and function.change:
        styles.append(stepwise)
    if function.source.is_sequence or function.source.loops[0].startswith("range"):
        styles.append(counting)
    if function.source.is_sequence and function.gather.recursion:
        styles.append(recursion)
    return styles


def comprehension(draft: Draft) -> str:
    """Writes one expression around a comprehension."""
    condition = f" if {draft.keep}" if draft.keep else ""
    inside = f"{draft.change} for {draft.x} in {draft.loop}{condition}"
    return f"{draft.head}\n    return {draft.inline.format(inside)}\n"


def piped(draft: Draft) -> str:
    """Writes filter and map with lambdas."""
    items = draft.loop
    if draft.keep:
        items = f"filter(lambda {draft.x}: {draft.keep}, {items})"
    if draft.is_changed:
        items = f"map(lambda {draft.x}: {draft.change}, {items})"
    return f"{draft.head}\n    return {draft.gather.outer.format(items)}\n"


def stepwise(draft: Draft) -> str:
    """Writes one list for each step."""
    return (
        f"{draft.head}\n"
        f"    kept = [{draft.x} for {draft.x} in {draft.loop} if {draft.keep}]\n"
        f"    changed = [{draft.change} for {draft.x} in kept]\n"
        f"    return {draft.gather.outer.format('changed')}\n"
    )


def loop(draft: Draft) -> str:
    """Writes a for loop with an accumulator."""
    return _accumulated(draft, f"for {draft.x} in {draft.loop}:", [])


def counting(draft: Draft) -> str:
    """Writes a while loop with an index."""
    if not draft.source.is_sequence:
        return _accumulated(draft, f"while {draft.x} <= n:", [], f"{draft.x} = 1", f"{draft.x} += 1")
    argument = draft.source.argument
    item = [f"{draft.x} = {argument}[i]"]
    return _accumulated(draft, f"while i < len({argument}):", item, "i = 0", "i += 1")


def recursion(draft: Draft) -> str:
    """Writes the answer for the first item in terms of that for the rest."""
    assert draft.gather.recursion is not None
    nothing, joined = draft.gather.recursion
    argument = draft.source.argument
    lines = [
        f"if not {argument}:",
        f"    return {nothing}",
        f"{draft.x} = {argument}[0]",
        f"rest = f({argument}[1:])",
    ]
    whole = f"return {joined.format(v=draft.change, rest='rest')}"
    lines += [f"if {draft.keep}:", f"    {whole}", "return rest"] if draft.keep else [whole]
    return _written(draft, lines)


def _accumulated(draft: Draft, head: str, first: list[str], before: str = "", after: str = "") -> str:
    update = draft.gather.update.format(t=draft.t, v=draft.change).splitlines()
    if draft.keep:
        update = [f"if {draft.keep}:", *(f"    {line}" for line in update)]
    body = [*first, *update, *([after] if after else [])]
    lines = [f"{draft.t} = {draft.gather.start}", *([before] if before else []), head]
    lines += [f"    {line}" for line in body]
    return _written(draft, [*lines, f"return {draft.gather.finish.format(t=draft.t)}"])


def _written(draft: Draft, lines: list[str]) -> str:
    return "\n".join([draft.head, *(f"    {line}" for line in lines)]) + "\n"


def _drafted(function: Function, draw: random.Random) -> Draft:
    x = draw.choice(_NAMES.get(function.source.argument, ("x", "v")))
    keep, change = function.keep, function.change
    return Draft(
        function.source,
        function.gather,
        draw.choice(function.source.loops),
        x,
        draw.choice(_ACCUMULATORS),
        draw.choice(keep.writings).format(x=x) if keep else None,
        draw.choice(change.writings).format(x=x) if change else x,
        change is not None,
        draw.choice(function.gather.inline),
    )


def style_of(code: str) -> str:
    """Returns the style that a program is written in, as a reader would call it: names and small writings do not count.

    `recursion`, `counting`, `loop`, `piped`, `stepwise`, `comprehension`, `other`, or `no Python`.
    """
    tree = parsed(code)
    if tree is None:
        return "no Python"
    nodes = list(ast.walk(tree))
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    comprehensions = sum(isinstance(node, _COMPREHENSIONS) for node in nodes)
    signs = {
        "recursion": bool(defined & called),
        "counting": any(isinstance(node, ast.While) for node in nodes),
        "loop": any(isinstance(node, ast.For) for node in nodes),
        "piped": any(isinstance(node, ast.Lambda) for node in nodes),
        "stepwise": comprehensions > 0 and any(isinstance(node, ast.Assign) for node in nodes),
        "comprehension": comprehensions > 0,
    }
    return next((style for style, is_there in signs.items() if is_there), "other")
