"""Finds the newest whole checkpoint of a run through TRL: its trainer writes them file by file."""

from __future__ import annotations

import logging
from pathlib import Path

from polychromic.errors import DataError
from polychromic.files import read_json, remove_folder, sha256_file

logger = logging.getLogger(__name__)

STATE = "polychromic.json"
"""The file of a checkpoint that is written last: λ, the fitted baseline, the watch, and the other files' hashes."""
_PREFIX = "checkpoint-"
_HASHED = ("*.safetensors", "*.bin", "optimizer*", "scheduler*", "rng_state*", "trainer_state.json")


def checkpoint_hashes(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of what training continues from, by name."""
    names = {path.name for pattern in _HASHED for path in folder.glob(pattern) if path.is_file()}
    return {name: sha256_file(folder / name) for name in sorted(names)}


def latest_whole(folder: Path) -> Path | None:
    """Returns the newest checkpoint below `folder` that is as it was written; None without one.

    What a kill left half written, or was damaged since, is reported and removed, so that it is not taken for one.
    """
    numbered = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]
    for path in sorted(numbered, key=lambda one: int(one.name.removeprefix(_PREFIX)), reverse=True):
        if _is_whole(path):
            return path
        logger.warning("%s: half written or damaged; taking the checkpoint before it", path)
        remove_folder(path)
    return None


def _is_whole(folder: Path) -> bool:
    try:
        hashes = read_json(folder / STATE)["sha256"]
        return all(sha256_file(folder / name) == digest for name, digest in hashes.items())
    except (DataError, OSError, KeyError, TypeError, AttributeError):
        return False
