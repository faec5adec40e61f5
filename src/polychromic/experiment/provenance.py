"""What a run was made of: versions, machine, commits and the hashes of data and models, in provenance.json."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from polychromic.experiment.config import Experiment
from polychromic.experiment.inputs import Inputs, record_inputs

_PACKAGES = ("polychromic", "torch", "transformers", "peft", "accelerate", "numpy", "scipy", "statsmodels")
_PACKAGES += ("sentence-transformers", "scikit-learn", "tokenizers", "safetensors")
_LONGEST_DIFF = 1_000_000


def provenance(experiment: Experiment, inputs: Inputs | None = None) -> dict[str, Any]:
    """Everything needed to say later what produced the numbers; `inputs` where they have been hashed already."""
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
        **(inputs or record_inputs(experiment)),
        "seeds": experiment.seeds,
    }


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
