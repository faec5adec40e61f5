"""Starts and asks the processes of one checker: who forks whom, what is sent, and which answers are believed.

`process` is the other side and says how the conversations go.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from polychromic.errors import CheckerError
from polychromic.records import Check, Prompt
from polychromic.tasks.checking.protocol import Conversation, TooMuchError

logger = logging.getLogger(__name__)

_START_SECONDS = 120.0
_COMMAND_SECONDS = 30.0
_PATIENCE_SECONDS = 1.0  # for a process that has closed its conversation to end by itself, so that it can be said how
_MOST_ANSWERED = 2**16  # bytes for one text: an answer takes hundreds, the rest is noise
_LONGEST_REASON = 1000


class ProcessFailedError(Exception):
    """A process that was ended, or has ended, before it gave an answer; the message says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Holds the reply of a checker's process about one text."""

    check: Check
    executes: bool
    """True where the checker was about to execute the text; the check is void then."""
    children: bool
    """True where processes that the checker has started still run."""
    exhausted: bool
    """True where it ran out of memory."""


class Process:
    """One process, and its conversation with us. Everything that it says is checked before it is believed."""

    def __init__(self, conversation: Conversation, owner: Process | None = None, number: int = 0) -> None:
        self._conversation = conversation
        self._owner = owner
        self._number = number
        self._asked = 0
        self._ending: str | None = None
        self.left_children = 0  # answers that came with processes of the checker's still there

    def fork(self, load: str | None = None, memory: int = 0, *, apart: bool = False) -> Process:
        """Forks a child, which imports the checker that is named, if any; "apart" it gives up its rights."""
        ours, theirs = socket.socketpair()
        conversation = Conversation(ours)  # which is closed with it, also where the command fails
        with theirs:
            reply = self.command({"fork": load, "memory": memory, "apart": apart}, theirs.fileno())
        if self._owner is None and not reply["adopts"]:
            _say_that_orphans_live_on()
        return Process(conversation, self, reply["process"])

    def command(self, content: Mapping[str, Any], descriptor: int | None = None) -> Mapping[str, Any]:
        """Sends a command to a process that runs no text and returns its reply. Raises ProcessFailedError where it is
        gone."""
        try:
            deadline = time.monotonic() + _COMMAND_SECONDS
            self._conversation.send(content, deadline, descriptor)
            return self._conversation.receive(deadline)[0]
        except (EOFError, BrokenPipeError, TimeoutError) as error:
            raise ProcessFailedError("the process that starts the checker's was killed") from error

    def loaded(self) -> Mapping[str, Any]:
        """Reads what the process says of its import of the checker. Raises TimeoutError, or ProcessFailedError where it
        has ended."""
        try:
            return self._conversation.receive(time.monotonic() + _START_SECONDS)[0]
        except (EOFError, TooMuchError) as error:
            raise ProcessFailedError(self.end(_PATIENCE_SECONDS)) from error

    def ask(self, prompt: Prompt, text: str, seconds: float, *, watch: bool) -> Answer:
        """Asks for the answer on one pair; see `answers`."""
        return next(self.answers([(prompt, text)], seconds, watch=watch))

    def passes_control(self, prompt: Prompt, value: float, seconds: float) -> bool:
        """Tells whether the process still passes on a value as if the checker had returned it."""
        [answer] = self.answers([(prompt, "")], seconds, watch=False, control=value)
        return answer.check == Check(value)

    def answers(
        self, pairs: Sequence[tuple[Prompt, str]], seconds: float, *, watch: bool, control: float | None = None
    ) -> Generator[Answer, None, None]:
        """Yields the answers in order, each within that time; `watch` prevents execution of a text and reports it.

        Each text is sent along with the token for the one before, so that there is one wait for each. Raises
        ProcessFailedError with the reason where the next one is not answered; the process is of no use then.
        """
        token: str | None = None
        try:
            for prompt, text in pairs:
                self._asked += 1
                self._conversation.allow(_MOST_ANSWERED)
                deadline = time.monotonic() + seconds
                request = {"number": self._asked, "prompt": asdict(prompt), "text": text, "watch": watch}
                request["control"] = control
                self._conversation.send({"token": token} | request, deadline)
                if token is not None:
                    yield _believed(self._until("token", token, deadline))
                self._until("returned", self._asked, deadline)
                # Drawn only now, so that it stood nowhere while the text ran.
                token = secrets.token_hex(16)
            if token is not None:
                deadline = time.monotonic() + seconds
                self._conversation.send({"token": token}, deadline)
                yield _believed(self._until("token", token, deadline))
        except TimeoutError:
            raise ProcessFailedError(f"the checker did not answer within {seconds:g} s and was stopped") from None
        except TooMuchError:
            raise ProcessFailedError(
                f"the checker's process wrote more than {_MOST_ANSWERED:,} bytes in place of an answer and was stopped"
            ) from None
        except (EOFError, BrokenPipeError) as error:
            ending = self.end(_PATIENCE_SECONDS)
            raise ProcessFailedError(f"the checker's process ended ({ending})") from error

    def execute(self, request: Mapping[str, Any], seconds: float, most_bytes: int, kind: str = "execute") -> Any:
        """Executes the code of a request in the process and returns what it sent; the code can write what it likes.

        Raises ProcessFailedError with the reason where nothing comes.
        """
        deadline = time.monotonic() + seconds
        self._conversation.allow(most_bytes)
        try:
            self._conversation.send({kind: request}, deadline)
            return self._conversation.receive(deadline)[0]
        except TimeoutError:
            raise ProcessFailedError(f"the code did not end within {seconds:g} s and was stopped") from None
        except TooMuchError:
            raise ProcessFailedError(f"the code gave more than {most_bytes:,} bytes and was stopped") from None
        except (EOFError, BrokenPipeError) as error:
            raise ProcessFailedError(f"the code's process ended ({self.end(_PATIENCE_SECONDS)})") from error

    def _until(self, key: str, value: Any, deadline: float) -> Mapping[str, Any]:
        """Waits for the next message with that value; others are not for us: a checker can write to any descriptor."""
        while True:
            message, _ = self._conversation.receive(deadline)
            if isinstance(message, dict) and type(message.get(key)) is type(value) and message[key] == value:
                return message

    def end(self, patience: float = 0.0) -> str:
        """Ends the process where it does not end by itself in that time; says how it ended."""
        if self._ending is None:
            assert self._owner is not None
            self._ending = "with the one that forked it"
            self._conversation.close()
            with suppress(ProcessFailedError):
                reply = self._owner.command({"end": self._number, "patience": patience})
                self._ending = str(reply["ending"])
        return self._ending

    @property
    def ended(self) -> bool:
        """Tells whether we have ended it."""
        return self._ending is not None


class Keeper(Process):
    """The first process, which meets no text; orphans of all others are handed to it. It ends with this object."""

    def __init__(self, environment: Mapping[str, str], *, apart: bool = False) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            popen = subprocess.Popen(
                [sys.executable, "-m", "polychromic.tasks.checking.process", str(theirs.fileno())] + ["apart"] * apart,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
                env={**environment, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
            )
        super().__init__(Conversation(ours))
        self.process = popen.pid
        self.stop = weakref.finalize(self, _end_keeper, popen, self._conversation)

    def clear(self) -> None:
        """Ends everything that ended processes have left behind."""
        with suppress(ProcessFailedError):
            self.command({"clear": True})


class Family:
    """The keeper, and the template that has imported the checker and is forked; both started anew where they end.

    Raises CheckerError where the checker cannot be imported.
    """

    def __init__(self, name: str, memory: int) -> None:
        self._name = name
        self._memory = memory
        self._keeper: Keeper | None = None
        self._template: Process | None = None
        self.forkable = False
        self.import_seconds = math.nan
        self.template()

    def template(self) -> Process:
        """Returns the process that has imported the checker and met no text."""
        if self._template is None or self._template.ended:
            self._template = self.import_anew()
        return self._template

    def import_anew(self) -> Process:
        """Starts another process that imports the checker."""
        started = time.monotonic()
        try:
            process = self._kept().fork(self._name, self._memory)
        except ProcessFailedError:
            self.close()
            process = self._kept().fork(self._name, self._memory)
        first: Mapping[str, Any] = {}
        try:
            first = process.loaded()
            fault = first.get("error")
        except TimeoutError:
            fault = f"checker {self._name!r} was not imported within {_START_SECONDS:g} s"
        except ProcessFailedError as failure:
            fault = f"checker {self._name!r}: its process ended while importing ({failure})"
        if fault is not None:
            self.close()
            raise CheckerError(str(fault))
        self.forkable = first.get("forkable") is True
        self.import_seconds = time.monotonic() - started
        return process

    def server(self) -> Process:
        """Returns a process to ask text after text."""
        return self._forked() if self.template() and self.forkable else self.template()

    def fresh(self) -> Process:
        """Returns a process that has met no text, apart from the server and the template."""
        return self._forked() if self.template() and self.forkable else self.import_anew()

    def clear(self) -> None:
        """Ends everything that ended processes of the checker's have left behind."""
        if self._keeper is not None:
            self._keeper.clear()

    def close(self) -> None:
        """Ends all processes and everything that they started."""
        if self._keeper is not None:
            self._keeper.stop()
        self._keeper = self._template = None

    def _kept(self) -> Keeper:
        if self._keeper is None:
            # Threads of numpy's linear algebra would keep a checker's process from being forked.
            self._keeper = Keeper({"OPENBLAS_NUM_THREADS": "1"} | os.environ)
        return self._keeper

    def _forked(self) -> Process:
        try:
            return self.template().fork()
        except ProcessFailedError:  # an answer that was executed has killed it
            self.close()
            return self.template().fork()


@cache
def _say_that_orphans_live_on() -> None:
    logger.warning(
        "this system does not hand us the orphans of a checker's processes (prctl PR_SET_CHILD_SUBREAPER): a daemon "
        "that a checker starts may outlive it; run checkers that start any in a container"
    )


def _end_keeper(popen: subprocess.Popen[bytes], conversation: Conversation) -> None:
    """Closes the keeper's conversation: it ends all others, then itself. One that does not is killed."""
    conversation.close()
    try:
        popen.wait(_COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()


def _believed(message: Mapping[str, Any]) -> Answer:
    """Reads an answer, where it has the form of one; else a check that says that it has not."""
    reward, error = message.get("reward"), message.get("error")
    is_reward = type(reward) is float and math.isfinite(reward) and 0.0 <= reward <= 1.0 and error is None
    is_reason = reward is None and type(error) is str and len(error) <= _LONGEST_REASON
    flags = [message.get(key) is True for key in ("executes", "children", "exhausted")]
    if is_reward or is_reason:
        return Answer(Check(reward, error), *flags)
    shown = ascii(reward)
    shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
    return Answer(
        Check(None, f"the checker's process answered {shown} as a reward, expected a number from 0 to 1 or a reason"),
        *flags,
    )
