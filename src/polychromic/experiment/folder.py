"""The run folder of an experiment, and the lock that one process holds on it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from polychromic.errors import ConfigError, DataError
from polychromic.experiment.config import Experiment
from polychromic.files import read_json, write_json


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths below `runs/NAME`."""

    root: Path

    @property
    def experiment(self) -> Path:
        """The experiment with every value filled in."""
        return self.root / "experiment.yaml"

    @property
    def provenance(self) -> Path:
        """Versions, commit and hashes."""
        return self.root / "provenance.json"

    @property
    def preflight(self) -> Path:
        """What was checked before the work began."""
        return self.root / "preflight.json"

    @property
    def diagnosis(self) -> Path:
        """What `polychromic diagnose` found."""
        return self.root / "diagnosis.json"

    @property
    def ledger(self) -> Path:
        """Time and tokens by arm, seed and stage."""
        return self.root / "ledger.jsonl"

    @property
    def heartbeat(self) -> Path:
        """Ledger rows of what is running now; left behind by a kill."""
        return self.root / ".running.json"

    @property
    def lock(self) -> Path:
        """What the process that works here holds; never deleted, because another would then make one of its own."""
        return self.root / ".lock"

    @property
    def owner(self) -> Path:
        """Which process holds the folder's lock."""
        return self.root / ".owner.json"

    @property
    def comparison(self) -> Path:
        """The comparison and the verdict."""
        return self.root / "comparison.json"

    @property
    def report(self) -> Path:
        """The page."""
        return self.root / "report.html"

    @property
    def has_work(self) -> bool:
        """Whether any arm was begun or anything compared; arms have folders, what comes before them are files."""
        return self.comparison.exists() or any(path.is_dir() for path in self.root.iterdir())

    @property
    def has_training(self) -> bool:
        """Whether any arm was trained or has begun to be."""
        made = ("adapter", "checkpoints", "training.json", "metrics.jsonl")
        return any(next(self.root.glob(f"*/seed-*/{name}"), None) for name in made)

    def job(self, arm: str, seed: int) -> Path:
        """Folder of one arm with one seed."""
        return self.root / arm / f"seed-{seed}"

    def generations(self, arm: str, seed: int) -> Path:
        """Generations of one arm with one seed."""
        return self.job(arm, seed) / "generations.jsonl"

    def references(self, arm: str, seed: int) -> Path:
        """Cross-entropy of the evaluation prompts' references under one arm with one seed."""
        return self.job(arm, seed) / "references.jsonl"


def resolved_yaml(experiment: Experiment) -> str:
    """The experiment as YAML with every default written out."""
    import yaml

    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


_WAY_ON = "put a copy back: nothing else says with which settings the run was made"


def read_resolved(path: Path) -> dict[str, Any]:
    """The mapping that `resolved_yaml` wrote; ConfigError where there is none, DataError where it is damaged."""
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
        raise DataError(
            f"{path}: damaged (expected the settings of a run, found {repr(content)[:40]}); {_WAY_ON}"
        )
    return content


@contextmanager
def hold(folder: RunFolder) -> Iterator[None]:
    """Hold the folder's lock. Raises ConfigError that names the owner where another process has it."""
    from filelock import FileLock, Timeout

    folder.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{folder.root}: {_owner(folder)}; wait for it, or use another place with --out"
        ) from None
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
