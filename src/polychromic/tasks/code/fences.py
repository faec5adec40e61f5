"""Finds the program in an answer: the fenced block of Python, as Markdown has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

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


def extracted(text: str) -> str:
    """Returns the first fenced block of Python in a text, else the first that names no language, else all of it.

    Blocks of other languages (what to install, what is printed) are passed over. One that is not closed goes on to the
    end of the text.
    """
    blocks = list(_blocks(text))
    python = (block for block in blocks if _PYTHON.fullmatch(block.language))
    unnamed = (block for block in blocks if not block.language)
    found = next(python, None) or next(unnamed, None)
    return found.code if found else text


def _blocks(text: str) -> Iterator[_Block]:
    lines = iter(text.replace("\r\n", "\n").split("\n"))
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
