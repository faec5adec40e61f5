"""Caches in SQLite, shared between processes and deletable at any time; embeddings by their text, a file a model."""

from __future__ import annotations

import hashlib
import logging
import re
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from polychromic.diversity.embedders import Embedder
from polychromic.errors import DataError
from polychromic.numerics import Float32Array

KEYS_A_QUERY = 500
# The last one is what SQLite says of a header from the future, and of tables with other columns.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}

Result = TypeVar("Result")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheFile:
    """Opens a cache for one piece of work after another. `holds` names its content in messages, `statements` make its
    table; a file that is no database any more is set aside as `….damaged`, with a warning."""

    path: Path
    holds: str
    statements: Sequence[str]

    def do(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Does the work on the file; on a new one where the file turns out to be damaged.

        Raises DataError where the file cannot be read or written: locked, no space left, no permission.
        """
        try:
            try:
                with closing(self._connect()) as file:
                    return work(file)
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                self._set_aside(error)
                with closing(self._connect()) as file:
                    return work(file)
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"{self.path}: cannot use the cache of {self.holds} ({error}); free its disk, or name a folder that "
                "you may write to in the variable POLYCHROMIC_CACHE, and run again to continue"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=60)
        connection.text_factory = bytes  # damage can turn a blob into a text, which need not be UTF-8
        try:
            for statement in self.statements:
                connection.execute(statement)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _set_aside(self, error: sqlite3.Error) -> None:
        if self._is_whole():  # another process was quicker, and has put a new file in its place
            return
        aside = self.path.with_name(f"{self.path.name}.damaged")
        _log.warning("%s: not a cache of %s (%s); kept as %s", self.path, self.holds, error, aside.name)
        # A journal left beside it would be played back into the new file.
        self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
        self.path.replace(aside)

    def _is_whole(self) -> bool:
        try:
            with closing(self._connect()) as file:
                return file.execute("PRAGMA integrity_check(1)").fetchone() == (b"ok",)
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
            return False


def _is_damage(error: sqlite3.Error) -> bool:
    """Tells whether the file is to blame; of one that is locked, read-only or on a full disk it may be whole."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF in _DAMAGE


_CHECKSUM_BYTES = 4
# Named after how its rows are written: rename it when that changes, so that no version reads another's rows.
_TABLE = "verified_embeddings"
_STATEMENTS = (
    # Ten vectors fill such a page; a smaller one, or a table without row ids, would leave most of it empty.
    "PRAGMA page_size = 16384",
    f"CREATE TABLE IF NOT EXISTS {_TABLE} (key BLOB PRIMARY KEY, vector BLOB)",
)


class CachedEmbedder:
    """An embedder that computes each text once. Processes may share the file, and it may be deleted at any time.

    Embeddings are written every `texts_a_write` texts, so that little is lost when a long run is stopped. What damage
    has left unreadable is computed again: an entry that fails its checksum is replaced, and a file that is no database
    any more is set aside as `….sqlite.damaged`, both with a warning.
    """

    def __init__(self, embedder: Embedder, folder: Path, *, texts_a_write: int = 20_000):
        self._embedder = embedder
        self._texts_a_write = texts_a_write
        self.name = embedder.name
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9_.@-]', '_', embedder.name)}.sqlite"
        self._file = CacheFile(self.path, "embeddings", _STATEMENTS)

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Returns float32 [n, d] with rows of length 1, read from the file where it has them.

        Raises DataError where the file cannot be read or written: locked, no space left, no permission.
        """
        keys = [text_key(text) for text in texts]
        by_key = dict(zip(keys, texts, strict=True))
        stored = self._file.do(lambda file: _read(file, list(by_key)))
        damaged = [key for key, vector in stored.items() if vector is None]
        if damaged:
            _log.warning("%s: %d embeddings fail their checksum and are computed again", self.path, len(damaged))
        kept = {key: vector for key, vector in stored.items() if vector is not None}
        missing = [key for key in by_key if key not in kept]
        for start in range(0, len(missing), self._texts_a_write):
            some = missing[start : start + self._texts_a_write]
            computed = self._embedder.encode([by_key[key] for key in some])
            self._file.do(lambda file, rows=(some, computed): _write(file, *rows))
            kept.update(zip(some, computed, strict=True))
        return np.stack([kept[key] for key in keys]) if keys else self._embedder.encode([])


def text_key(text: str) -> bytes:
    """Returns the first 16 bytes of the SHA-256 of the text's UTF-8 form."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _read(file: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Float32Array | None]:
    """Returns the vectors that the file has, None where one fails its checksum."""
    vectors: dict[bytes, Float32Array | None] = {}
    for start in range(0, len(keys), KEYS_A_QUERY):
        some = keys[start : start + KEYS_A_QUERY]
        marks = ",".join("?" * len(some))
        query = f"SELECT key, vector FROM {_TABLE} WHERE key IN ({marks})"
        vectors |= {key: _unpack(key, blob) for key, blob in file.execute(query, some)}
    return vectors


def _write(file: sqlite3.Connection, keys: Sequence[bytes], embeddings: Float32Array) -> None:
    rows = ((key, _pack(key, row)) for key, row in zip(keys, embeddings, strict=True))
    with file:
        file.executemany(f"INSERT OR REPLACE INTO {_TABLE} VALUES (?, ?)", rows)


def _pack(key: bytes, vector: Float32Array) -> bytes:
    data = vector.astype("<f4").tobytes()
    return data + _checksum(key, data)


def _unpack(key: bytes, blob: object) -> Float32Array | None:
    if not isinstance(blob, bytes):
        return None
    data, checksum = blob[:-_CHECKSUM_BYTES], blob[-_CHECKSUM_BYTES:]
    return np.frombuffer(data, "<f4") if checksum == _checksum(key, data) else None


def _checksum(key: bytes, data: bytes) -> bytes:
    # With the key, because a damaged index leads to another text's row, which is whole in itself.
    return zlib.crc32(data, zlib.crc32(key)).to_bytes(_CHECKSUM_BYTES, "little")
