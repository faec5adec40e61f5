"""Keeps pairwise answers on disk, so that no pair is paid for twice."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from polychromic.diversity.cache import KEYS_A_QUERY, CacheFile
from polychromic.weights import cache_root

_TABLE = "pairwise_answers"
_STATEMENTS = (f"CREATE TABLE IF NOT EXISTS {_TABLE} (key BLOB PRIMARY KEY, same INTEGER)",)


class AnswerCache:
    """Holds answers by what was asked. Processes may share the file, and it may be deleted at any time: one that is no
    database any more is set aside as `….damaged`, with a warning."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or cache_root() / "same-answers") / "answers.sqlite"
        self._file = CacheFile(self.path, "answers", _STATEMENTS)

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bool]:
        """Returns the answers that are kept, by key. Raises DataError where the file cannot be read."""
        return self._file.do(lambda file: _read(file, keys))

    def write(self, answers: dict[bytes, bool]) -> None:
        """Keeps the answers. Raises DataError where the file cannot be written."""
        if answers:
            rows = [(key, int(same)) for key, same in answers.items()]
            self._file.do(lambda file: _write(file, rows))


def answer_key(*parts: str) -> bytes:
    """Returns a hash of everything that an answer depends on; parts do not run together."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.digest()[:16]


def _read(file: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bool]:
    stored: dict[bytes, bool] = {}
    for start in range(0, len(keys), KEYS_A_QUERY):
        some = keys[start : start + KEYS_A_QUERY]
        query = f"SELECT key, same FROM {_TABLE} WHERE key IN ({','.join('?' * len(some))}) AND same IN (0, 1)"
        stored |= {key: bool(same) for key, same in file.execute(query, some)}
    return stored


def _write(file: sqlite3.Connection, rows: Sequence[tuple[bytes, int]]) -> None:
    with file:
        file.executemany(f"INSERT OR REPLACE INTO {_TABLE} VALUES (?, ?)", rows)
