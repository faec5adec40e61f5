"""Makes text from models and files fit for a terminal, which its control codes would steer."""

from __future__ import annotations

import logging
import unicodedata

_KEPT = "\n\t"
# Characters that reorder or hide what stands around them: bidirectional marks and embeddings, zero-width ones.
_STEERING = frozenset("\u061c\u200b\u200e\u200f\u2028\u2029\ufeff") | {
    chr(code) for code in range(0x202A, 0x202F)
}
_STEERING |= {chr(code) for code in range(0x2066, 0x206A)}


def plain_text(text: str) -> str:
    """Writes control codes, direction marks and lone surrogates as escapes such as `\\x1b`."""
    return "".join(_escaped(character) if _steers(character) else character for character in text)


def _steers(character: str) -> bool:
    if character in _KEPT:
        return False
    return unicodedata.category(character) in ("Cc", "Cs") or character in _STEERING


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


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
