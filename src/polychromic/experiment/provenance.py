"""What a run was made of: versions, machine, commits and the hashes of data and models, in provenance.json."""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from polychromic.errors import DataError
from polychromic.experiment.config import Experiment
from polychromic.experiment.folder import data_file
from polychromic.experiment.tasks import build_task
from polychromic.files import sha256_file, strict_json
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import resolve_source
from polychromic.records import Prompt
from polychromic.tasks.base import Split
from polychromic.tasks.settings import CustomSettings, FileSettings

_PACKAGES = ("polychromic", "torch", "transformers", "peft", "accelerate", "numpy", "scipy", "statsmodels")
_PACKAGES += ("sentence-transformers", "scikit-learn", "tokenizers", "safetensors")
_LONGEST_DIFF = 1_000_000
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        **_worktree(Path()),
        "polychromic_source": _source_worktree(),
        "prompts_sha256": prompt_hashes(experiment),
        "data_sha256": {name: sha256_file(Path(name)) for name in _data_files(experiment)},
        "models": {model.source: _weights(model) for model in _models(experiment)},
        "seeds": experiment.seeds,
    }


def prompt_hashes(experiment: Experiment) -> dict[str, str | None]:
    """SHA-256 of the prompts of each split with their references: tasks that make their prompts have no file.

    None of a split that cannot be read: not every run needs all three.
    """
    task = build_task(experiment.task)
    hashes: dict[str, str | None] = {}
    for split in _SPLITS:
        try:
            hashes[split] = _prompts_sha256(task.prompts(split))
        except DataError:
            hashes[split] = None
    return hashes


def _prompts_sha256(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        messages = [[message.role, message.content] for message in prompt.messages]
        digest.update(strict_json([prompt.id, messages, list(prompt.references), dict(prompt.meta)]).encode())
    return digest.hexdigest()


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
    """The revision asked for, and the hash of every weight file; of a hub id also the commit that was downloaded."""
    place = resolve_source(model.source)
    record: dict[str, Any] = {"revision": model.revision}
    if isinstance(place, str):
        snapshot = _cached_snapshot(place, model.revision or "main")
        record["commit"] = snapshot.name if snapshot else None
        place = snapshot
    files = sorted(place.glob("*.safetensors")) if place else []
    return record | {"sha256": {file.name: _weights_sha256(file) for file in files}}


def _cached_snapshot(hub_id: str, revision: str) -> Path | None:
    """Folder of a hub model in the local cache, named after its commit; None where it has not been downloaded."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _weights_sha256(file: Path) -> str:
    """The hub's cache names large files by their SHA-256, which saves reading many gigabytes."""
    stored = file.resolve().name
    return stored if file.is_symlink() and _SHA256.fullmatch(stored) else sha256_file(file)


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


def _worktree(folder: Path) -> dict[str, str | None]:
    """Commit of the git repository around a folder, and what differs from it; the commit is None outside of any."""
    return {
        "commit": _git(folder, "rev-parse", "HEAD"),
        "uncommitted_changes": _git(folder, "status", "--porcelain"),
        "uncommitted_diff": (_git(folder, "diff", "HEAD") or "")[:_LONGEST_DIFF],
    }


def _source_worktree() -> dict[str, str | None] | None:
    """Where this package runs from a checkout: its commit and changes, wherever the run was started. None of an
    installed copy, whose version says it all (a repository around its environment is not its own)."""
    package = Path(__file__).parents[1]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _worktree(package)


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command in a folder, None outside a repository."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
