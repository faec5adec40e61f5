"""Holds the run folder of an experiment for one process, and reads and writes the settings in it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from polychromic import stopping
from polychromic.errors import ConfigError, DataError, PolychromicError, in_words, unwritable
from polychromic.experiment.yaml_file import yaml_text
from polychromic.files import read_json, remove_leftovers, write_json
from polychromic.run_folder import RunFolder
from polychromic.settings import Settings


def resolved_yaml(experiment: Settings) -> str:
    """Returns an experiment as YAML with every default written out."""
    return yaml_text(experiment.model_dump(mode="json"))


_WAY_ON = "put a copy back: nothing else says with which settings the run was made"


def read_resolved(path: Path) -> dict[str, Any]:
    """Reads what `resolved_yaml` wrote; raises ConfigError where there is none, DataError where it is damaged."""
    import yaml

    if not path.is_file():
        raise ConfigError(
            f"{path.parent}: not a run folder ({path.name} is missing); name one that `polychromic run` made, or put "
            "a copy of the file back"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path}: damaged ({' '.join(str(error).split())}); {_WAY_ON}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: damaged (expected the settings of a run, found {repr(content)[:40]}); {_WAY_ON}")
    return content


@contextmanager
def held_folder(root: Path) -> Iterator[RunFolder]:
    """Holds a run folder that no other process may change; SIGTERM and Ctrl-C end the work in the block at a safe
    point.

    Raises ConfigError where another process works there or no folder can be made, and PolychromicError where it cannot
    be written.
    """
    folder = RunFolder(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{root}: no run folder can be made there ({error.strerror or error}); name a folder that you may write to "
            "with --out"
        ) from error
    try:
        with in_words(root), hold(folder), stopping.listening():
            remove_leftovers(root)
            yield folder
    except SafetensorError as error:  # of saving: who reads such a file says himself that it is damaged
        raise PolychromicError(unwritable(root, str(error))) from error


@contextmanager
def hold(folder: RunFolder) -> Iterator[None]:
    """Holds the folder's lock. Raises ConfigError that names the owner where another process has it."""
    from filelock import FileLock, Timeout

    folder.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"{folder.root}: {_owner(folder)}; wait for it, or use another place with --out") from None
    try:
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(folder.owner, {"pid": os.getpid(), "host": socket.gethostname(), "started": started})
        yield
    finally:
        with suppress(OSError):  # such as of a disk that has become read-only: what counts is the lock
            folder.owner.unlink(missing_ok=True)
        lock.release()


def _owner(folder: RunFolder) -> str:
    try:
        owner = read_json(folder.owner)
        return f"process {owner['pid']} on {owner['host']} works on this run since {owner['started']}"
    except (DataError, KeyError, TypeError):  # it is just starting or ending, or is of an earlier version
        return "another process works on this run"
