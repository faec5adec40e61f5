"""Finds the program in an answer: the fenced block of Python, as Markdown has it."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from polychromic.tasks.code.forms import parsed

_OPENING = re.compile(r"(?P<fence>`{3,}|~{3,})[ \t]*\{?\.?(?P<language>[^\s`{}]*)[^`]*")
_ITEM = re.compile(r"[ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?")
_BEHIND_WORDS = re.compile(
    r"(?:[^`]|`[^`]+`)*(?P<fence>`{3,})[ \t]*(?P<language>(?:python|py)[\d.]*|)[ \t]*", re.IGNORECASE
)
_PYTHON = re.compile(r"(?:python|py)[\d.]*", re.IGNORECASE)
_DEEPER = 3  # spaces by which a closing fence may be deeper than its opening


@dataclass(frozen=True, slots=True)
class _Block:
    language: str
    code: str


def extracted(text: str, names: Collection[str] = ()) -> str:
    """Returns the first fenced block of Python in a text, else the first that names no language, else all of it.

    A block that defines one of the `names` goes before those that do not (an example, what to install). Blocks of other
    languages are passed over. One that is not closed goes on to the end of the text. An answer that began within a
    block, as a prompt may end with its opening fence, is what stands before the closing one.
    """
    text = text.replace("\r\n", "\n") if "`" in text or "~" in text else text
    if (begun := _begun(text)) is not None:
        return begun
    blocks = list(_blocks(text))
    python = [block.code for block in blocks if _PYTHON.fullmatch(block.language)]
    found = [*python, *(block.code for block in blocks if not block.language)]
    return next((code for code in found if _defines(code, names)), found[0] if found else text)


def _defines(code: str, names: Collection[str]) -> bool:
    words = "|".join(map(re.escape, names))
    return bool(names) and bool(re.search(rf"^(?:(?:async )?def|class) (?:{words})\b|^(?:{words}) *[:=]", code, re.M))


def _begun(text: str) -> str | None:
    """Returns what stands before the first fence, where that closes it: the fence is bare, and before it is Python."""
    found = re.search(r"^(?:```|~~~)[^\n]*$", text, re.MULTILINE)
    head = text[: found.start()] if found else ""
    if found is None or found[0].strip("`~ \t") or not head.strip():
        return None
    whole = head if head[:1] not in " \t" else f"if 1:\n{head}"
    tree = parsed(whole)
    is_word = tree is not None and all(isinstance(node, ast.Expr) for node in tree.body)
    return None if tree is None or is_word else head


def _blocks(text: str) -> Iterator[_Block]:
    lines = iter(text.split("\n"))
    for line in lines:
        item = _ITEM.match(line)
        indent = item.end() if item else 0
        if opening := _OPENING.fullmatch(line, indent):
            yield _Block(opening["language"], "\n".join(_until_closed(lines, opening["fence"], indent)))
        elif opening := _BEHIND_WORDS.fullmatch(line):
            yield _Block(opening["language"], "\n".join(_until_closed(lines, opening["fence"], 0)))


def _until_closed(lines: Iterator[str], fence: str, indent: int) -> Iterator[str]:
    """Yields the lines of a block without the indent of its opening."""
    for line in lines:
        deep, bare = len(line) - len(line.lstrip()), line.strip()
        if deep <= indent + _DEEPER and len(bare) >= len(fence) and set(bare) == {fence[0]}:
            return
        yield line[min(deep, indent) :]
