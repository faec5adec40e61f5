"""Notices, by Python's audit events, that a checker is about to execute the answer that it judges."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_TELLING_LINE = 8  # characters: shorter lines are found in any program


class AnswerExecutedError(BaseException):
    """Raised in place of executing the answer."""


class ExecutionWatch:
    """An audit hook: raises AnswerExecutedError where code compiled from the text watched over is to be executed."""

    def __init__(self) -> None:
        self.found = False
        self._text: str | None = None
        self._lines: frozenset[str] = frozenset()
        self._compiled: set[str | None] = set()
        # Times of files come from a clock that lags behind this one by some milliseconds.
        self._started = time.time() - 1.0

    @contextmanager
    def over(self, text: str) -> Iterator[None]:
        """Watches while that text is judged."""
        self.found, self._compiled = False, set()
        lines = (line.strip() for line in text.splitlines())
        self._lines = frozenset(line for line in lines if len(line) >= _TELLING_LINE)
        self._text = text
        try:
            yield
        finally:
            self._text = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Looks at an audit event of Python, at each."""
        if self._text is None:
            return
        if event == "compile":
            self._note(*arguments)
        elif event in ("exec", "function.__new__") and self._compiled:
            filename = arguments[0].co_filename
            # A syntax tree is compiled without the name that its code will have.
            if filename in self._compiled or (None in self._compiled and not os.path.isfile(filename)):  # noqa: PTH113
                self.found = True
                raise AnswerExecutedError

    def _note(self, source: Any, filename: Any) -> None:
        if isinstance(source, bytes):
            source = source.decode(errors="surrogateescape")
        if isinstance(source, str):
            name = os.fsdecode(filename) if isinstance(filename, (str, bytes)) else None
            if self._is_of_the_answer(source) and not self._is_older(name):
                self._compiled.add(name)
        elif self._compiled:
            self._compiled.add(None)

    def _is_of_the_answer(self, source: str) -> bool:
        assert self._text is not None
        whole = source.strip()
        if whole and whole in self._text:
            return True
        return any(line.strip() in self._lines for line in source.splitlines())

    def _is_older(self, filename: str | None) -> bool:
        """Tells a module that is imported now, but was there before any answer: it may share a line with one by
        chance."""
        with suppress(OSError, ValueError, TypeError):
            return os.stat(filename).st_mtime < self._started  # type: ignore[arg-type]  # noqa: PTH116
        return False
