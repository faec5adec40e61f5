"""Keeps pairwise answers on disk, so that no pair is paid for twice."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from polychromic.errors import DataError
from polychromic.weights import cache_root

_KEYS_A_QUERY = 500
_TABLE = "pairwise_answers"
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


class AnswerCache:
    """Holds answers by what was asked. Processes may share the file, and it may be deleted at any time: one that is no
    database any more is set aside as `….damaged`, with a warning."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or cache_root() / "same-answers") / "answers.sqlite"

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bool]:
        """Returns the answers that are kept, by key. Raises DataError where the file cannot be read."""
        return self._with_file(lambda file: _read(file, keys))

    def write(self, answers: dict[bytes, bool]) -> None:
        """Keeps the answers. Raises DataError where the file cannot be written."""
        if answers:
            rows = [(key, int(same)) for key, same in answers.items()]
            self._with_file(lambda file: _write(file, rows))

    def _with_file(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            try:
                with closing(_connect(self.path)) as file:
                    return work(file)
            except sqlite3.DatabaseError as error:
                if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF not in _DAMAGE:
                    raise
                aside = self.path.with_name(f"{self.path.name}.damaged")
                _log.warning("%s: not a cache of answers (%s); kept as %s", self.path, error, aside.name)
                self.path.replace(aside)
                with closing(_connect(self.path)) as file:
                    return work(file)
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"{self.path}: cannot use the cache of answers: {error}") from error


def answer_key(*parts: str) -> bytes:
    """Returns a hash of everything that an answer depends on; parts do not run together."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.digest()[:16]


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=60)
    try:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {_TABLE} (key BLOB PRIMARY KEY, same INTEGER)")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _read(file: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bool]:
    found: dict[bytes, bool] = {}
    for start in range(0, len(keys), _KEYS_A_QUERY):
        some = keys[start : start + _KEYS_A_QUERY]
        query = (
            f"SELECT key, same FROM {_TABLE} WHERE key IN ({','.join('?' * len(some))}) AND same IN (0, 1)"
        )
        found |= {key: bool(same) for key, same in file.execute(query, some)}
    return found


def _write(file: sqlite3.Connection, rows: Sequence[tuple[bytes, int]]) -> None:
    with file:
        file.executemany(f"INSERT OR REPLACE INTO {_TABLE} VALUES (?, ?)", rows)
