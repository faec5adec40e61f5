"""What a run was made of: versions, machine, commit and the hash of its data, in provenance.json."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from polychromic.experiment.config import Experiment
from polychromic.experiment.folder import data_file
from polychromic.files import sha256_file
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import resolve_source
from polychromic.tasks.settings import CustomSettings, FileSettings

_PACKAGES = ("polychromic", "torch", "transformers", "peft", "accelerate", "numpy", "scipy", "statsmodels")
_PACKAGES += ("sentence-transformers", "scikit-learn", "tokenizers", "safetensors")
_LONGEST_DIFF = 1_000_000


def provenance(experiment: Experiment) -> dict[str, Any]:
    """Everything needed to say later what produced the numbers."""
    import torch

    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": {
            "platform": platform.platform(),
            "cores": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        },
        "packages": installed_versions(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": _git("status", "--porcelain"),
        "uncommitted_diff": (_git("diff", "HEAD") or "")[:_LONGEST_DIFF],
        "data_sha256": {name: sha256_file(Path(name)) for name in _data_files(experiment)},
        "models": {model.source: _weights(model) for model in _models(experiment)},
        "seeds": experiment.seeds,
    }


def _data_files(experiment: Experiment) -> list[str]:
    """The task's files, checkers that are files, and adapters that training continues from."""
    task = experiment.task
    files = [task.train, task.validation, task.test] if isinstance(task, FileSettings) else []
    checkers = [task.checker, task.judge] if isinstance(task, CustomSettings) else []
    starts = [model.adapter.start_from for model in _models(experiment)]
    named = [
        *files,
        *(name for name in checkers if name and ".py:" in name),
        *(path for path in starts if path),
    ]
    found = dict.fromkeys(data_file(name)[0] for name in named)
    return [file for file in found if Path(file).is_file()]


def _models(experiment: Experiment) -> list[ModelSettings]:
    return [experiment.model, *(experiment.arm(arm).model for arm in experiment.arms)]


def _weights(model: ModelSettings) -> dict[str, Any]:
    """Revision, and the hash of every weight file where the model is a folder; a hub id is pinned by its revision."""
    place = resolve_source(model.source)
    files = sorted(place.glob("*.safetensors")) if isinstance(place, Path) else []
    return {"revision": model.revision, "sha256": {file.name: sha256_file(file) for file in files}}


def installed_versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {name: found for name in _PACKAGES if (found := _installed(name))}


def differing_versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Packages whose version changed between two starts of a run, as `torch 2.11 → 2.13`."""
    return [
        f"{name} {old['packages'].get(name)} → {found}"
        for name, found in new["packages"].items()
        if old["packages"].get(name) != found
    ]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Output of a git command in the current folder, None outside a repository."""
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
