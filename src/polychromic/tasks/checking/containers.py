"""Runs the sandbox's own protocol inside a container, or behind any command that hands standard input and output on.

What is started there is `gate`, from a folder that holds a few modules of this package and nothing else: no test, no
data, no other package. A container needs a Python of 3.11 or later, whose standard library is enough.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from polychromic.errors import CheckerError
from polychromic.tasks.checking.family import ProcessFailedError
from polychromic.tasks.checking.protocol import Conversation, TooMuchError
from polychromic.tasks.checking.rooms import Kind

DEFAULT_IMAGE = "python:3.12-slim"
_START_SECONDS = 120.0  # an image may have to be fetched
_PATIENCE_SECONDS = 10.0  # beyond a candidate's own limit, for the gate to say that it was reached
_OVERHEAD_BYTES = 2**16
_INSIDE = "/polychromic"
_NEEDED = ("__init__.py", "errors.py", "records.py", "registry.py", "tasks/__init__.py", "tasks/checking")
_BOOTSTRAP = "import sys; sys.path[:0] = [{path!r}]; from polychromic.tasks.checking.gate import main; main()"


@dataclass(frozen=True, slots=True)
class Wall:
    """Says behind what code runs: `docker` or `podman` with an image and further options, or a `command`."""

    kind: Literal["docker", "podman", "command"]
    image: str = DEFAULT_IMAGE
    options: tuple[str, ...] = ()
    """More options for `docker run`, such as --runtime=runsc for gVisor."""
    command: tuple[str, ...] = ()
    """Words before `python …`, such as bwrap with its options; they hand standard input and output on. `{modules}` in
    them is the folder that has to be readable at the same place inside."""
    python: str | None = None
    """The Python inside: by default `python3` in a container, and the one that runs us behind a command."""
    memory_gb: float = 2.0
    """Memory of a container as a whole."""

    def words(self, modules: Path, name: str) -> list[str]:
        """Returns the command that starts the gate; `modules` is the folder with its modules."""
        if self.kind == "command":
            command = [word.replace("{modules}", str(modules)) for word in self.command]
            return [*command, self.python or sys.executable, "-c", _BOOTSTRAP.format(path=str(modules))]
        memory = f"--memory={self.memory_gb:g}g"
        return [
            self.kind, "run", "--rm", "--interactive", f"--name={name}", "--network=none", "--read-only",
            "--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=256", memory,
            "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024",
            "--tmpfs=/tmp:rw,size=256m,mode=1777", "--user=65534:65534", "--workdir=/tmp",
            f"--volume={modules}:{_INSIDE}:ro", *self.options, self.image,
            self.python or "python3", "-c", _BOOTSTRAP.format(path=_INSIDE),
        ]  # fmt: skip


class WalledRoom:
    """Opens processes behind a wall; what stands there is started when it is first used, and anew where it ends.

    `open` raises CheckerError, with what the command said, where it does not start.
    """

    def __init__(self, wall: Wall) -> None:
        self._wall = wall
        self._gate: _Gate | None = None

    def open(self) -> WalledExecutor:
        """Starts a process behind the wall."""
        if self._gate is not None:
            with suppress(ProcessFailedError):
                return self._opened(self._gate)
            self.close()
        try:
            self._gate = _Gate(self._wall)
            return self._opened(self._gate)
        except ProcessFailedError as failure:
            output = self._gate.said() if self._gate else ""
            raise CheckerError(
                f"task.sandbox: {self._wall.kind} started, but no process for code: {failure} {output}"
            ) from failure

    def close(self) -> None:
        """Ends what stands behind the wall."""
        if self._gate is not None:
            self._gate.stop()
            self._gate = None

    def _opened(self, gate: _Gate) -> WalledExecutor:
        gate.ask({"open": True}, _START_SECONDS)
        return WalledExecutor(gate, self._wall.kind)


class WalledExecutor:
    """One process behind a wall."""

    def __init__(self, gate: _Gate, kind: str) -> None:
        self._gate = gate
        self.around = (f"behind {kind}",)

    def execute(self, kind: Kind, request: Mapping[str, Any], seconds: float, most_bytes: int) -> Any:
        """Does as `Executor.execute`."""
        asked = {kind: dict(request), "seconds": seconds, "most_bytes": most_bytes}
        return self._gate.ask(asked, seconds + _PATIENCE_SECONDS, most_bytes + _OVERHEAD_BYTES)["said"]

    def end(self) -> None:
        """Does as `Executor.end`."""
        with suppress(ProcessFailedError):
            self._gate.ask({"end": True}, _PATIENCE_SECONDS)


class _Gate:
    """The command with the gate behind it, and our conversation with it."""

    def __init__(self, wall: Wall) -> None:
        self._modules = Path(tempfile.mkdtemp(prefix="polychromic-"))
        _copy_modules(self._modules / "polychromic")
        name = f"polychromic-{secrets.token_hex(6)}"
        words = wall.words(self._modules, name)
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the command
        self._said = ""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._popen = subprocess.Popen(
                    words, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._words, start_new_session=True
                )
            except OSError as error:
                ours.close()
                self._words.close()
                shutil.rmtree(self._modules, ignore_errors=True)
                raise CheckerError(
                    f"task.sandbox: {words[0]} cannot be started ({error.strerror}); install it, or state "
                    "another sandbox"
                ) from error
        self._conversation = Conversation(ours)
        remove = [wall.kind, "rm", "--force", name] if wall.kind != "command" else None
        self.stop = weakref.finalize(
            self, _stop, self._popen, self._conversation, self._words, self._modules, remove, os.getpid()
        )
        self._greet(wall)

    def _greet(self, wall: Wall) -> None:
        """Waits for the gate to be ready. Raises CheckerError with what the command said where it is not."""
        try:
            ready = self._conversation.receive(time.monotonic() + _START_SECONDS)[0]
            if isinstance(ready, dict) and "ready" in ready:
                return
            reason = "it said something else than that it is ready"
        except EOFError:
            reason = "it ended"
        except TimeoutError:
            reason = f"it was not ready within {_START_SECONDS:g} s"
        output = self.said()
        self.stop()
        raise CheckerError(
            f"task.sandbox: {wall.kind} did not start the sandbox: {reason}. It said: {output or 'nothing'}. "
            f"Try `{' '.join(wall.words(Path('MODULES'), 'try')[:2])} …` by hand, or state another sandbox"
        )

    def ask(self, content: Mapping[str, Any], seconds: float, most_bytes: float = _OVERHEAD_BYTES) -> dict[str, Any]:
        """Returns the gate's answer. Raises ProcessFailedError where the code's process, or the gate, has ended."""
        deadline = time.monotonic() + seconds
        self._conversation.allow(most_bytes)
        try:
            self._conversation.send(content, deadline)
            reply = self._conversation.receive(deadline)[0]
        except TimeoutError:
            raise self._stopped(f"nothing came within {seconds:g} s, and the container was stopped") from None
        except TooMuchError:
            raise self._stopped(f"more than {most_bytes:,} bytes came, and the container was stopped") from None
        except (EOFError, OSError) as error:
            raise self._stopped("the container has ended") from error
        if not isinstance(reply, dict):
            raise ProcessFailedError("the container said something else in place of an answer")
        if "failed" in reply:
            raise ProcessFailedError(str(reply["failed"])[:1000])
        return reply

    def _stopped(self, reason: str) -> ProcessFailedError:
        self.said()  # it cannot be read any more once the command is stopped
        self.stop()
        return ProcessFailedError(reason)

    def said(self) -> str:
        """Returns the end of what the command wrote to its standard error, until it was stopped."""
        with suppress(OSError, ValueError):
            self._words.seek(0)
            self._said = self._words.read()[-600:].decode(errors="replace").strip()
        return self._said


def _copy_modules(folder: Path) -> None:
    """Copies what the gate needs of this package, so that nothing else of it stands behind the wall."""
    package = Path(__file__).resolve().parents[2]
    for needed in _NEEDED:
        source, target = package / needed, folder / needed
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    for path in (folder.parent, folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # the container's user is another one


def _stop(
    popen: subprocess.Popen[bytes],
    conversation: Conversation,
    words: IO[bytes],
    modules: Path,
    remove: Sequence[str] | None,
    owner: int,
) -> None:
    """Closes the conversation, whereupon the gate ends; what does not end in time is killed."""
    if os.getpid() != owner:
        return
    conversation.close()
    try:
        popen.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, 9)
        popen.wait()
        if remove:  # the container lives on where only its client was killed
            subprocess.run(remove, capture_output=True, check=False, timeout=30)
    words.close()
    shutil.rmtree(modules, ignore_errors=True)
