"""The other side of `isolation`: a process of its own that runs one checker of the user's.

    python -m polychromic.tasks.checker_process CHECKER MEMORY_BYTES

Reads one JSON object a line (prompt, text) and answers one (reward, error); the first line says whether the checker
could be loaded. What the checker prints, or reads from standard input, never meets this conversation.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from polychromic.errors import CheckerError
from polychromic.files import strict_json
from polychromic.records import Message, Prompt
from polychromic.tasks.checkers import load_checker, run_checker
from polychromic.tasks.reaping import MARK, kill_marked


def main() -> None:
    """Serve until the conversation ends."""
    requests, answers = _take_over_standard_streams()
    _limit_memory(int(sys.argv[2]))
    waiting: queue.Queue[Mapping[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(requests, waiting), daemon=True).start()
    try:
        checker = load_checker(sys.argv[1])
    except CheckerError as error:
        _say(answers, {"number": 0, "error": str(error)})
        return
    _say(answers, {"number": 0})
    server = os.getpid()
    while True:
        request = waiting.get()
        [check] = run_checker(checker, [_prompt(request["prompt"])], [request["text"]])
        if os.getpid() != server:
            os._exit(0)  # a fork of the checker's came back from it: only the server may answer
        answer = {"reward": check.reward, "error": check.error, "children": _has_children()}
        # What has leaked away does not come back: every later text would fail too.
        answer["exhausted"] = "MemoryError" in (check.error or "").partition(":")[0]
        _say(answers, {"number": request["number"], **answer})


def _has_children() -> bool:
    """Whether processes that the checker has started are running, or ended and not waited for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _take_over_standard_streams() -> tuple[IO[bytes], IO[bytes]]:
    """The real streams under other numbers; standard input is empty from here on, and output goes nowhere."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    return requests, answers


def _limit_memory(n_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows; the time limit still holds
        return
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


def _listen(requests: IO[bytes], waiting: queue.Queue[Mapping[str, Any]]) -> None:
    """Queue requests; when the other side is gone, end this process and whatever the checker has started."""
    for line in requests:
        waiting.put(json.loads(line))
    kill_marked(os.environ[MARK])
    os.killpg(0, signal.SIGKILL)


def _say(answers: IO[bytes], content: Mapping[str, Any]) -> None:
    answers.write(strict_json(content).encode() + b"\n")
    answers.flush()


def _prompt(fields: Mapping[str, Any]) -> Prompt:
    messages = tuple(Message(**message) for message in fields["messages"])
    return Prompt(fields["id"], messages, tuple(fields["references"]), fields["meta"])


if __name__ == "__main__":
    main()
