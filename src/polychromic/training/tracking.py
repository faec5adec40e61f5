"""Where training metrics go: always metrics.jsonl, and TensorBoard, Weights & Biases or trackio when asked for."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from polychromic.errors import ConfigError
from polychromic.files import append_jsonl, read_jsonl, strict_json, write_text

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """A place that takes named numbers at a step."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the numbers."""
        ...

    def close(self) -> None:
        """Flush."""
        ...


class MetricsFile:
    """metrics.jsonl: one row a step, the file that the report reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, step: int) -> None:
        """Drop the rows of steps after `step`, which a resumed run is going to write again."""
        if self.path.exists():
            rows = [row for row in read_jsonl(self.path) if row["step"] <= step]
            write_text(self.path, "".join(strict_json(row) + "\n" for row in rows))

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Append the row of a step."""
        append_jsonl(self.path, [{"step": step, **metrics}])

    def close(self) -> None:
        """Every row is already on disk."""


class TensorBoardTracker:
    """Event files below the arm's folder."""

    def __init__(self, folder: Path) -> None:
        writer = _require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(folder / "tensorboard"))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the numbers."""
        for name, number in metrics.items():
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        """Flush."""
        self._writer.close()


class HostedTracker:
    """Weights & Biases, or trackio, which has the same interface. Without an account wandb logs offline."""

    def __init__(self, package: str, folder: Path, project: str, name: str) -> None:
        self._module = _require(package, package)
        options: dict[str, Any] = {"project": project, "name": name}
        if package == "wandb":
            # An interactive login prompt would hang an unattended run.
            offline = "WANDB_API_KEY" not in os.environ and "WANDB_MODE" not in os.environ
            options |= {"dir": str(folder), "mode": "offline" if offline else None}
        self._run = self._module.init(**options)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the numbers."""
        self._module.log(dict(metrics), step=step)

    def close(self) -> None:
        """Flush."""
        self._module.finish()


def open_trackers(names: Sequence[str], folder: Path, *, project: str, run_name: str) -> list[Tracker]:
    """The trackers asked for. Raises ConfigError with the install command where a package is missing."""
    trackers: list[Tracker] = []
    for name in names:
        if name == "tensorboard":
            trackers.append(TensorBoardTracker(folder))
        else:
            trackers.append(HostedTracker(name, folder, project, run_name))
    return trackers


def _require(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"run.tracking: {extra} is not installed; `pip install 'polychromic[{extra}]'`, or leave it out"
        ) from error
