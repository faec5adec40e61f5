"""A run folder while work goes on in it: held against other processes, left cleanly, errors of the disk in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from polychromic import stopping
from polychromic.errors import ConfigError, PolychromicError
from polychromic.experiment.config import Experiment
from polychromic.experiment.continuing import open_run_folder
from polychromic.experiment.folder import RunFolder
from polychromic.experiment.lock import hold
from polychromic.files import remove_leftovers
from polychromic.system_errors import in_words, unwritable


@contextmanager
def working_folder(
    experiment: Experiment, out: Path, *, fresh: bool = False, yes: bool = False
) -> Iterator[RunFolder]:
    """The experiment's run folder, held (`held_folder`) and fit to go on in (`open_run_folder`)."""
    with held_folder(out / experiment.name):
        yield open_run_folder(experiment, out, fresh=fresh, yes=yes)


@contextmanager
def held_folder(root: Path) -> Iterator[RunFolder]:
    """A run folder that no other process may change; SIGTERM and Ctrl-C end the work in the block at a safe point.

    Raises ConfigError where another process works there, and PolychromicError where it cannot be written.
    """
    _make(root)
    try:
        with in_words(root), hold(RunFolder(root)), stopping.listening():
            remove_leftovers(root)
            yield RunFolder(root)
    except SafetensorError as error:  # of saving: who reads such a file says himself that it is damaged
        raise PolychromicError(unwritable(root, str(error))) from error


def _make(root: Path) -> None:
    """Raises ConfigError where no folder can be: below a file, in /proc, in a folder of somebody else."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{root}: no run folder can be made there ({error.strerror or error}); name a folder that you may write to "
            "with --out"
        ) from error
