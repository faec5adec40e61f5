"""Makes text from models and files fit for a terminal, which its control codes would steer, and for tokenizers."""

from __future__ import annotations

import logging
import re
import textwrap
import unicodedata

_KEPT = "\n\t"
# Characters that reorder or hide what stands around them: bidirectional marks and embeddings, zero-width ones.
_STEERING = frozenset("\u061c\u200b\u200e\u200f\u2028\u2029\ufeff") | {chr(code) for code in range(0x202A, 0x202F)}
_STEERING |= {chr(code) for code in range(0x2066, 0x206A)}


def plain_text(text: str) -> str:
    """Writes control codes, direction marks and lone surrogates as escapes such as `\\x1b`."""
    return "".join(
        character.encode("unicode_escape").decode("ascii") if _steers(character) else character for character in text
    )


def _steers(character: str) -> bool:
    if character in _KEPT:
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or character in _STEERING


def without_lone_surrogates(text: str) -> str:
    """Returns the text with halves of surrogate pairs replaced by U+FFFD: tokenizers and UTF-8 refuse them, and JSON
    can hold them.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def log_plainly(level: int) -> None:
    """Sends log lines of at least `level` to standard error as plain text."""
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class PlainFormatter(logging.Formatter):
    """A formatter of log lines as plain text."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record's line, fit for a terminal."""
        return plain_text(super().format(record))


def in_lines(text: str, width: int | None, *, indent: int = 0, first: int | None = None) -> list[str]:
    """Breaks a text at its spaces into lines of at most `width` characters (None: one line), indented.

    A number is never cut from its unit or sign, and a word that is longer than a line stays whole. `first` is the
    first line's own indent.
    """
    start = " " * (indent if first is None else first)
    if width is None:
        return [start + text]
    glued = _UNIT.sub("\u00a0", text)
    lines = textwrap.wrap(
        glued, max(width, indent + 20), initial_indent=start, subsequent_indent=" " * indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return [line.replace("\u00a0", " ") for line in lines] or [""]


_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|min|h|GB|M|tokens)\b|%)|(?<=[pkKN]) (?=[=<])|(?<=[=<]) (?=\S)")
