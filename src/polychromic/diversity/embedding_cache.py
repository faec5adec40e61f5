"""Embeddings kept on disk by the hash of their text, one SQLite file a model."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polychromic.diversity.embedder import Embedder
from polychromic.errors import DataError

_KEYS_A_QUERY = 500


class CachedEmbedder:
    """An embedder that computes each text once. Processes may share the file, and it may be deleted at any time.

    Embeddings are written every `texts_a_write` texts, so that little is lost when a long run is stopped.
    """

    def __init__(self, embedder: Embedder, folder: Path, *, texts_a_write: int = 20_000):
        self._embedder = embedder
        self._texts_a_write = texts_a_write
        self.name = embedder.name
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9_.@-]', '_', embedder.name)}.sqlite"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Float32 [n, d] with rows of length 1, read from the file where it has them.

        Raises DataError where the file cannot be read or written, or is not such a cache.
        """
        keys = [text_key(text) for text in texts]
        by_key = dict(zip(keys, texts, strict=True))
        try:
            found = self._read(list(by_key))
            missing = [key for key in by_key if key not in found]
            for start in range(0, len(missing), self._texts_a_write):
                some = missing[start : start + self._texts_a_write]
                computed = self._embedder.encode([by_key[key] for key in some])
                self._write(some, computed)
                found.update(zip(some, computed, strict=True))
        except sqlite3.OperationalError as error:  # locked, full or read-only: the file itself may be whole
            raise DataError(f"{self.path}: cannot use the cache of embeddings: {error}") from error
        except sqlite3.DatabaseError as error:
            raise DataError(f"{self.path}: not a cache of embeddings: {error}; delete the file") from error
        return np.stack([found[key] for key in keys]) if keys else self._embedder.encode([])

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=60)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID"
        )
        return connection

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        found: dict[bytes, NDArray[np.float32]] = {}
        with closing(self._connect()) as connection:
            for start in range(0, len(keys), _KEYS_A_QUERY):
                some = keys[start : start + _KEYS_A_QUERY]
                marks = ",".join("?" * len(some))
                query = f"SELECT key, vector FROM embeddings WHERE key IN ({marks})"
                found |= {
                    key: np.frombuffer(vector, "<f4") for key, vector in connection.execute(query, some)
                }
        return found

    def _write(self, keys: Sequence[bytes], embeddings: NDArray[np.float32]) -> None:
        rows = ((key, row.astype("<f4").tobytes()) for key, row in zip(keys, embeddings, strict=True))
        with closing(self._connect()) as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO embeddings VALUES (?, ?)", rows)


def text_key(text: str) -> bytes:
    """The first 16 bytes of the SHA-256 of the text's UTF-8 form."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
