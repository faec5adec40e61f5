"""Runs inside a container: opens processes for code there, for one who asks over standard input and output.

    python -m polychromic.tasks.checking.gate

Messages are JSON objects, one a line:

    (first)                                                  <- {"ready": version of Python}
    {"open": true}                                           -> {} when a fresh process waits
    {"execute" | "session": request, "seconds", "most_bytes"} -> {"said": what the code made it say} or {"failed": why}
    {"end": true}                                            -> {} when it has ended, with everything that it started

The process that asks enforces its own limits too. Needs the standard library only.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

from polychromic.tasks.checking.family import ProcessFailedError
from polychromic.tasks.checking.rooms import Executor, LocalRoom


class Gate:
    """Answers one message after another."""

    def __init__(self) -> None:
        self._room = LocalRoom()
        self._executor: Executor | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Does what is asked and returns the answer."""
        try:
            if "open" in request:
                self._end()
                self._executor = self._room.open()
                return {}
            if "end" in request:
                self._end()
                return {}
            kind = "session" if "session" in request else "execute"
            assert self._executor is not None
            return {"said": self._executor.execute(kind, request[kind], request["seconds"], request["most_bytes"])}
        except ProcessFailedError as failure:
            return {"failed": str(failure)}

    def close(self) -> None:
        """Ends all processes."""
        self._end()
        self._room.close()

    def _end(self) -> None:
        if self._executor is not None:
            self._executor.end()
            self._executor = None


def main() -> None:
    """Serves until standard input ends."""
    # Nothing that is started here may write where the answers go.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    gate = Gate()
    _say(answers, {"ready": platform.python_version()})
    for line in sys.stdin.buffer:
        _say(answers, gate.answer(json.loads(line)))
    gate.close()


def _say(answers: Any, content: Mapping[str, Any]) -> None:
    left = memoryview(json.dumps(content).encode() + b"\n")
    while left:
        left = left[answers.write(left) :]


if __name__ == "__main__":
    main()
