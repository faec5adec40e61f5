"""Tells whether an arm's training has finished, and whether its adapter is still what was written then."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from polychromic.errors import DataError
from polychromic.files import read_derived, read_json, sha256_file, write_json
from polychromic.run_folder import ArmFolder

if TYPE_CHECKING:
    from polychromic.models.agreement import ModelCheck

logger = logging.getLogger(__name__)

_WEIGHTS = "adapter_model.safetensors"
_FILES = ("adapter_config.json", _WEIGHTS)
_DIGITS = 16


def write_ending(folder: Path, ending: Mapping[str, Any]) -> None:
    """Writes training.json, which tells a finished adapter from one whose writing was cut short."""
    hashes = {name: sha256_file(ArmFolder(folder).adapter / name) for name in _FILES}
    write_json(ArmFolder(folder).ending, {**ending, "adapter_files": hashes})


def add_model_check(folder: Path, stage: Literal["train", "evaluate"], check: ModelCheck) -> None:
    """Writes into model_check.json how the model was computed in a stage, and how near that is to plain forwards."""
    path = ArmFolder(folder).model_check
    write_json(path, {**read_model_checks(folder), stage: check.to_json()})


def read_model_checks(folder: Path) -> dict[str, Any]:
    """Reads what `add_model_check` wrote by stage; empty where nothing readable is there: every start checks anew."""
    return read_derived(ArmFolder(folder).model_check) or {}


def is_trained(folder: Path) -> bool:
    """Tells whether the arm's folder holds a finished adapter, whole as it was written; a damaged one is reported."""
    if not ArmFolder(folder).is_trained:
        return False
    damaged = _damaged(folder)
    for path in damaged:
        logger.warning("%s: missing or damaged; it is made again from the last checkpoint", path)
    return not damaged


def adapter_digest(folder: Path, *, may_be_gone: bool = False) -> str:
    """Returns what the finished adapter of an arm's folder is known by: the first digits of the SHA-256 of its weights.

    With `may_be_gone` an adapter that was taken away whole, to save space perhaps, is known by what was recorded.
    Raises DataError where training has not finished, or the adapter is not what was written then.
    """
    if not ArmFolder(folder).ending.exists():
        raise DataError(f"{folder}: is not trained yet; `polychromic run` or `train` trains it")
    recorded = _recorded(folder) or {}
    if may_be_gone and _WEIGHTS in recorded and not ArmFolder(folder).adapter.exists():
        return recorded[_WEIGHTS][:_DIGITS]
    damaged = _damaged(folder)
    if damaged:
        raise DataError(
            f"{damaged[0]}: missing or damaged; `polychromic run` or `train` makes it again from the last checkpoint"
        )
    return (recorded.get(_WEIGHTS) or sha256_file(ArmFolder(folder).adapter / _WEIGHTS))[:_DIGITS]


def _recorded(folder: Path) -> dict[str, str] | None:
    """Returns the hashes of the adapter's files (none in endings of earlier versions); None of a damaged ending."""
    try:
        hashes = read_json(ArmFolder(folder).ending).get("adapter_files", {})
    except (DataError, AttributeError):
        return None
    return hashes if isinstance(hashes, dict) and all(isinstance(digest, str) for digest in hashes.values()) else None


def _damaged(folder: Path) -> list[Path]:
    hashes = _recorded(folder)
    if hashes is None:
        return [ArmFolder(folder).ending]
    return [path for name in _FILES if not _is_whole(path := ArmFolder(folder).adapter / name, hashes.get(name))]


def _is_whole(path: Path, digest: str | None) -> bool:
    return path.is_file() and (digest is None or sha256_file(path) == digest)
