"""Defines the errors that a person is meant to read, and words those that the system raises."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class PolychromicError(Exception):
    """Base of every error that Polychromic raises on purpose; the command line prints it without a traceback."""


class ConfigError(PolychromicError):
    """An experiment file, key or value that cannot be used."""


class DataError(PolychromicError):
    """A data file with lines that cannot be used; all bad lines are listed at once."""


class ModelError(PolychromicError):
    """A model, adapter or tokenizer that cannot be found, verified or used."""


class CheckerError(PolychromicError):
    """A checker that cannot be built or that failed on more generations than the stated share."""


class PreflightError(PolychromicError):
    """A check that failed before any money was spent."""


class TrainingError(PolychromicError):
    """Training that cannot go on, with the reason found."""


class EngineError(PolychromicError):
    """A sampling engine that is not there, cannot serve the policy, or answers for another policy than the trained."""


class BudgetError(PolychromicError):
    """The stated cap of time or money is reached; the message says what is left to do and what it would cost."""


class StoppedError(PolychromicError):
    """Work that ended at a safe point because it was asked to. Everything done is kept."""

    def __init__(self, reason: str, done: str, exit_code: int = 1) -> None:
        super().__init__(reason, done, exit_code)
        self.reason, self.done, self.exit_code = reason, done, exit_code

    def __str__(self) -> str:
        return f"stopped by {self.reason}; {self.done}; run the same command again to continue"


_NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
_LONGEST_CAUSE = 200


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether memory ran out, of the machine or of a GPU: torch says so in errors of several kinds."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def out_of_memory(error: BaseException) -> str:
    """Says that memory ran out, with the start of what was said of it."""
    said = " ".join(str(error).split())
    said = said if len(said) <= _LONGEST_CAUSE else f"{said[:_LONGEST_CAUSE]}…"
    return f"out of memory ({said})" if said else "out of memory"


_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_OUT_OF_FILES = {errno.EMFILE, errno.ENFILE}
_IN_THE_WAY = {
    errno.EISDIR,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.ELOOP,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
}
# Others are of the disk itself, or of folders on other machines.
_UNWRITABLE = _DISK_FULL | _FORBIDDEN | {errno.EIO, errno.ESTALE, errno.ENOLCK, errno.EOPNOTSUPP}

_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}")


def is_unwritable(error: OSError) -> bool:
    """Tells whether the system refused to write: no space, no permission, something in the way."""
    return error.errno in _UNWRITABLE | _IN_THE_WAY


@contextmanager
def in_words(root: Path | None = None) -> Iterator[None]:
    """Turns an error of the system in the block into a PolychromicError. root: the run folder that is being written."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise PolychromicError(f"{out_of_memory(error)}; free memory, or ask for less at once") from error
    except OSError as error:
        raise PolychromicError(_sentence(error, root)) from error


def unwritable(place: Path | str, reason: str) -> str:
    """Says that a run folder or a file cannot be written, why, and the way on."""
    return (
        f"{place}: cannot be written: {reason}. Everything written before is kept; free the disk or make the folder "
        "writable and run again to continue, or choose another place with --out"
    )


def _sentence(error: OSError, root: Path | None) -> str:
    reason = os.strerror(error.errno) if error.errno else str(error)
    names = [_final_name(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    if error.errno in _OUT_OF_FILES:
        return f"{reason}: raise the limit of this shell (ulimit -n 4096) and run again"
    if error.errno in _UNWRITABLE:
        if root is not None and names and not any(_is_below(name, root) for name in names):
            return (
                f"{' → '.join(names)}: cannot be written: {reason}. Everything written before is kept; free that disk "
                "or make the place writable, and run again to continue"
            )
        return unwritable(root or " → ".join(names) or "the disk", reason)
    if error.errno in _IN_THE_WAY and names:
        return (
            f"{' → '.join(names)}: {reason}: a file, folder or link is missing or stands where another kind is "
            "expected; move it away or put it back, and run again"
        )
    return f"{': '.join([*names, reason])}; fix that and run again to continue"


def _is_below(name: str, root: Path) -> bool:
    """Tells whether a file lies in the run folder: the system may have refused another one, such as a cache in the
    user's home."""
    return Path(name).resolve().is_relative_to(root.resolve())


def _final_name(name: str | bytes) -> str:
    """Returns the file that was to be written, where the error is of its temporary copy `.NAME.12345678`."""
    path = Path(os.fsdecode(name))
    copy = _TEMPORARY.fullmatch(path.name)
    return str(path.with_name(copy[1]) if copy else path)
