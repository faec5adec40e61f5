"""One SQLite file of a cache: shared between processes, deletable at any time, set aside where it is damaged."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from polychromic.errors import DataError

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
            raise DataError(f"{self.path}: cannot use the cache of {self.holds}: {error}") from error

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
