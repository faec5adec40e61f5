"""Checkpoints in safetensors and JSON: written atomically, verified by hash on reading, the last few kept."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from polychromic.errors import DataError, TrainingError
from polychromic.files import atomic_folder, read_json, remove_folder, sha256_file, strict_json, write_json

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d+)")
_TENSORS = ("weights.safetensors", "optimizer.safetensors")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State of training after `step` updates. `state` is JSON: controller, early stopping, counters."""

    step: int
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Writes `folder/step-N` and deletes all but the last `keep` checkpoints up to it.

    Later ones go too: training stands before them only where they were found damaged, and counting them as kept would
    push out whole ones.
    """
    target = folder / f"step-{checkpoint.step:06d}"
    with atomic_folder(target) as staging:
        save_file(_contiguous(checkpoint.weights), staging / _TENSORS[0])
        save_file(_contiguous(checkpoint.optimizer), staging / _TENSORS[1])
        record = {"step": checkpoint.step, "state": checkpoint.state}
        hashes = {name: sha256_file(staging / name) for name in _TENSORS}
        write_json(staging / "state.json", {**record, "sha256": {**hashes, "state.json": _digest(record)}})
    kept = [path for path in _numbered(folder) if _step(path) <= checkpoint.step][-keep:]
    for other in _numbered(folder):
        if other not in kept:
            remove_folder(other)
    return target


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """Returns the newest checkpoint that is whole; a damaged one is reported and the one before it is taken."""
    candidates = _numbered(folder)
    while candidates:
        try:
            return _read(candidates.pop())
        except (DataError, TrainingError, OSError) as error:
            instead = "taking the checkpoint before it" if candidates else "none before it: starting anew"
            logger.warning("%s; %s", error, instead)
    return None


def _read(folder: Path) -> Checkpoint:
    record = read_json(folder / "state.json")
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), dict):
        raise TrainingError(f"{folder / 'state.json'}: damaged (it holds no hashes)")
    hashes = record.pop("sha256")
    digests = {name: sha256_file(folder / name) for name in _TENSORS} | {"state.json": _digest(record)}
    # Checkpoints of earlier versions hold no hash of their state.
    expected = {"state.json": digests["state.json"], **hashes}
    for name, digest in digests.items():
        if expected.get(name) != digest:
            raise TrainingError(f"{folder / name}: damaged (its hash is not the one written with it)")
    return Checkpoint(record["step"], load_file(folder / _TENSORS[0]), load_file(folder / _TENSORS[1]), record["state"])


def _digest(record: Any) -> str:
    """Returns the SHA-256 of the record's JSON."""
    return hashlib.sha256(strict_json(record).encode()).hexdigest()


def _numbered(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _contiguous(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def trainable_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns the trained parameters by name."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def restore_weights(model: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copies saved weights into the model; raises TrainingError where the names differ."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if parameters.keys() != weights.keys():
        different = sorted(parameters.keys() ^ weights.keys())[:3]
        raise TrainingError(f"the checkpoint is of another adapter: {different} are in one of the two only")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Returns the optimizer's state as flat tensors named `parameter|key`."""
    return {
        f"{name}|{key}": torch.as_tensor(value)
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
    }


def restore_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Puts state that `optimizer_tensors` made back, exactly."""
    parameters = dict(model.named_parameters())
    for path, tensor in tensors.items():
        name, key = path.rsplit("|", 1)
        parameter = parameters[name]
        # Adam keeps its step count on the CPU whatever the parameter's device.
        optimizer.state[parameter][key] = tensor if key == "step" else tensor.to(parameter.device)
