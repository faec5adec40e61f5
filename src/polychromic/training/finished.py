"""Whether an arm's training has finished, and whether its adapter is still what was written then."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polychromic.errors import DataError
from polychromic.files import read_json, sha256_file, write_json

logger = logging.getLogger(__name__)

_FILES = ("adapter_config.json", "adapter_model.safetensors")


def write_ending(folder: Path, ending: Mapping[str, Any]) -> None:
    """Write training.json, which tells a finished adapter from one whose writing was cut short."""
    hashes = {name: sha256_file(folder / "adapter" / name) for name in _FILES}
    write_json(folder / "training.json", {**ending, "adapter_files": hashes})


def is_trained(folder: Path) -> bool:
    """Whether the arm's folder holds a finished adapter, whole as it was written; a damaged one is reported."""
    if not (folder / "adapter").exists() or not (folder / "training.json").exists():
        return False
    damaged = _damaged(folder)
    for path in damaged:
        logger.warning("%s: missing or damaged; it is made again from the last checkpoint", path)
    return not damaged


def _damaged(folder: Path) -> list[Path]:
    try:
        # Endings of earlier versions hold no hashes: there the files must exist.
        hashes = read_json(folder / "training.json").get("adapter_files", {})
    except (DataError, AttributeError):
        return [folder / "training.json"]
    return [path for name in _FILES if not _is_whole(path := folder / "adapter" / name, hashes.get(name))]


def _is_whole(path: Path, digest: str | None) -> bool:
    return path.is_file() and (digest is None or sha256_file(path) == digest)
