"""A run folder while work goes on in it: held against other processes, left cleanly, errors of the disk in words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from polychromic import stopping
from polychromic.errors import PolychromicError
from polychromic.experiment.config import Experiment
from polychromic.experiment.folder import RunFolder, open_run_folder
from polychromic.experiment.lock import hold
from polychromic.files import remove_leftovers

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_DISK_ERRORS |= {errno.ESTALE, errno.ENOLCK, errno.EOPNOTSUPP}  # of folders on other machines


@contextmanager
def working_folder(experiment: Experiment, out: Path, *, fresh: bool = False) -> Iterator[RunFolder]:
    """The experiment's run folder, held; SIGTERM and Ctrl-C end the work in the block at a safe point.

    Raises ConfigError where another process works there, or where the folder holds a run of other settings, and
    PolychromicError where it cannot be written.
    """
    root = out / experiment.name
    try:
        with hold(RunFolder(root)), stopping.listening():
            remove_leftovers(root)
            yield open_run_folder(experiment, out, fresh=fresh)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise _unwritable(root, error.strerror or str(error)) from error
    except SafetensorError as error:
        raise _unwritable(root, str(error)) from error


def _unwritable(root: Path, reason: str) -> PolychromicError:
    return PolychromicError(
        f"{root}: cannot be written: {reason}. Everything written before is kept; free the disk or make the folder "
        "writable and run again to continue, or choose another place with --out"
    )
