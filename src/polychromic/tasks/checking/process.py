"""The other side of `isolation`: processes that fork, load one checker of the user's, and run it.

    python -m polychromic.tasks.checking.process DESCRIPTOR [apart]

The first one, the keeper, loads no checker and meets no text; orphans of all others are handed to it. What it forks
loads the checker, and forks in its turn, or judges texts. A keeper that is "apart" has no rights and no network, as far
as the system offers that, and its forks execute code. Each has a socket to the one who asks, and to nobody else:

    {"fork": checker or null, …} + descriptor         -> {"process", …}; where it was to load a checker, the child then
                                                         says {"forkable"} or {"error"}
    {"end": process, "patience": seconds}             -> {"ending": in words}; it is killed if it has not ended by then
    {"clear": true}                                   -> {}: all but what the keeper forked itself is killed
    {"token": null, "number", "prompt", "text", …}    -> {"returned": number} when the checker has returned
    {"token", …}, maybe with the next text            -> {"token", "reward", "error", …}, before any other text runs
    "control" beside a text: a number                 -> the same, as if a checker had returned that number
    {"execute": code and limits}                      -> what came of it; see `child`
    {"session": code and limits}                      -> what came of it; then calls of what it defined, see `child`

What the checker prints, or reads from standard input, never meets these conversations.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from polychromic.errors import CheckerError
from polychromic.records import Check, Message, Prompt
from polychromic.tasks.checking.checkers import CheckFunction, failed_check, load_checker, run_checker
from polychromic.tasks.checking.child import serve_execution, serve_session
from polychromic.tasks.checking.protocol import Conversation
from polychromic.tasks.checking.reaping import (
    become_subreaper,
    call_filter,
    children,
    drop_list_of_children,
    end_children,
    end_with_parent,
    give_up_rights,
    hide,
    keep_list_of_children,
    reap,
    restrict_files,
    unshare,
)
from polychromic.tasks.checking.rooms import keepers
from polychromic.tasks.checking.watch import ExecutionWatch

_REAP_SECONDS = 1.0


class Server:
    """Serves one conversation until its end. A keeper has no checker."""

    def __init__(
        self,
        conversation: Conversation,
        checker: CheckFunction | None = None,
        *,
        adopts: bool = False,
        protection: Sequence[str] = (),
    ) -> None:
        self._conversation = conversation
        self._checker = checker
        self._protection = protection  # what it, and so whatever it forks, is kept from
        self._adopts = adopts  # whether orphans are handed to this process
        self._forked: set[int] = set()
        self._watch: ExecutionWatch | None = None
        self._word: dict[str, Any] | None = None

    def serve(self) -> None:
        """Answers until the other side closes."""
        while True:
            try:
                request, descriptor = self._conversation.receive(self._next_look())
            except TimeoutError:
                reap(self._forked)
                continue
            except EOFError:
                if self._checker is None:
                    end_children()
                os._exit(0)
            if "token" in request:
                self._judge(request)
            elif "execute" in request:
                serve_execution(self._conversation, request["execute"], self._protection)
            elif "session" in request:
                serve_session(self._conversation, request["session"], self._protection)
            elif "fork" in request:
                assert descriptor is not None
                self._fork(request, descriptor)
            elif "end" in request:
                self._forked.discard(request["end"])
                self._say({"ending": _end(request["end"], request["patience"])})
            else:
                end_children(keep=self._forked)
                self._say({})

    def _next_look(self) -> float:
        """Returns when a keeper looks after its orphans, also while nobody asks it anything."""
        return time.monotonic() + _REAP_SECONDS if self._checker is None else float("inf")

    def _say(self, content: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):  # the next look for a request finds that nobody asks any more
            self._conversation.send(content)

    def _fork(self, request: Mapping[str, Any], descriptor: int) -> None:
        parent = os.getpid()
        child = os.fork()
        if child:
            os.close(descriptor)
            self._forked.add(child)
            self._say({"process": child, "adopts": self._adopts})
            return
        end_with_parent(parent)
        drop_list_of_children()
        os.setsid()
        if request["apart"]:
            give_up_rights()
        self._conversation.close()
        conversation = Conversation(socket.socket(fileno=descriptor))
        server = Server(conversation, self._checker, protection=self._protection)
        if request["fork"] is not None:
            server.load(request["fork"], request["memory"])
        server.serve()

    def load(self, name: str, memory: int) -> None:
        """Imports the checker within the limit of memory, and says whether this process may be forked from here on."""
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        try:
            self._checker = load_checker(name)
        except CheckerError as error:
            self._say({"error": str(error)})
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - the checker boundary: whatever it raises, we say so
            self._say({"error": f"checker {name!r} cannot be imported: {type(error).__name__}: {error}"})
            os._exit(0)
        self._say({"forkable": _is_forkable(self._conversation.fileno())})

    def _judge(self, request: Mapping[str, Any]) -> None:
        """Gives the last answer, to whoever has drawn its token since; then runs the checker on the next text, if one
        came.

        The word is not given at once, because what it needs to be believed must stand nowhere while a text runs.
        """
        if request["token"] is not None and self._word is not None:
            self._say({"token": request["token"]} | self._word)
        self._word = None
        if "text" not in request:
            return
        server = os.getpid()
        check, executed = self._run(request)
        if os.getpid() != server:
            os._exit(0)  # a fork of the checker's came back from it: only the server may answer
        self._word = {
            "reward": check.reward,
            "error": check.error,
            "executes": executed,
            "children": _has_children(),
            # What has leaked away does not come back: every later text would fail too.
            "exhausted": "MemoryError" in (check.error or "").partition(":")[0],
        }
        self._say({"returned": request["number"]})

    def _run(self, request: Mapping[str, Any]) -> tuple[Check, bool]:
        """Runs the checker on a text; tells also whether it was about to execute the answer, where that is watched
        for."""
        watch = self._execution_watch() if request["watch"] else None
        with watch.over(request["text"]) if watch else nullcontext():
            check = self._check(request)
        return check, watch is not None and watch.found

    def _check(self, request: Mapping[str, Any]) -> Check:
        control = request["control"]
        checker = self._checker if control is None else (lambda prompt, text: control)
        assert checker is not None
        try:
            return run_checker(checker, [_prompt(request["prompt"])], [request["text"]])[0]
        except BaseException as error:  # noqa: BLE001 - in a process of its own nothing that a checker raises is for us
            return failed_check(error)

    def _execution_watch(self) -> ExecutionWatch:
        if self._watch is None:
            self._watch = ExecutionWatch()
            sys.addaudithook(self._watch)
        return self._watch


def main() -> None:
    """Runs a keeper until the conversation ends."""
    _close_standard_streams()
    is_apart = sys.argv[2:] == ["apart"]
    if is_apart:
        call_filter()  # looks for a library, which it may not any more below
    protection = _leave() if is_apart else []
    keep_list_of_children()
    if writable := os.environ.pop("POLYCHROMIC_WRITABLE", ""):
        protection += restrict_files(writable)
    hide()
    conversation = Conversation(socket.socket(fileno=int(sys.argv[1])))
    Server(conversation, adopts=become_subreaper(), protection=protection).serve()


def _leave() -> list[str]:
    """Gives up our rights and the network, as far as the system lets us, and says what is given up."""
    if unshare("user", "network", "messages"):
        return ["no rights", "no network"]
    if unshare("user"):
        return ["no rights"]
    return ["no network"] if unshare("network", "messages") else []  # root, where nobody may become another user


def _end(process: int, patience: float) -> str:
    """Waits that long for a child to end by itself, ends it where it has not, and says how it ended."""
    deadline = time.monotonic() + patience
    while (ended := os.waitpid(process, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.002)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)
    if ended[0] == 0:
        os.waitpid(process, 0)
        return "it closed its conversation and was stopped"
    code = os.waitstatus_to_exitcode(ended[1])
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _is_forkable(conversation: int) -> bool:
    """Tells whether importing the checker left nothing that a fork would break: threads, connections, devices."""
    threads, descriptors = Path("/proc/self/task"), Path("/proc/self/fd")
    if not threads.is_dir() or threading.active_count() > 1 or len(list(threads.iterdir())) > 1:
        return False
    for link in descriptors.iterdir():
        with suppress(OSError):  # the one that lists the folder is closed by now
            target = str(link.readlink())
            shared = target.startswith(("socket:", "pipe:", "anon_inode:", "/dev/nvidia", "/dev/dri"))
            if shared and int(link.name) != conversation:
                return False
    return True


def _has_children() -> bool:
    """Tells whether processes that the checker has started are running, or ended and not waited for."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return any(child not in keepers() for child in children(os.getpid()))


def _close_standard_streams() -> None:
    """Replaces the standard streams: input is empty from here on, and output goes nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _prompt(fields: Mapping[str, Any]) -> Prompt:
    messages = tuple(Message(**message) for message in fields["messages"])
    return Prompt(fields["id"], messages, tuple(fields["references"]), fields["meta"])


if __name__ == "__main__":
    main()
