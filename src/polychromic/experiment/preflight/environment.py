"""Checks of the machine: versions and device, room on the disk, trackers."""

from __future__ import annotations

import os
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from polychromic.errors import ModelError
from polychromic.experiment.preflight.checks import Finding
from polychromic.experiment.preflight.probe import Probe
from polychromic.experiment.provenance import installed_versions

_BYTES_A_GENERATION = 600  # a row of generations.jsonl without its text
_BYTES_A_TOKEN = 5


def versions_and_device(probe: Probe) -> Finding:
    """Which libraries and which device the run would use; QLoRA without a GPU cannot run."""
    import torch

    from polychromic.models.loading import require_quantization_support

    versions = installed_versions()
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    for arm in probe.trained_arms:
        try:
            require_quantization_support(arm.model)
        except ModelError as error:
            problem, _, mend = str(error).partition("; ")
            return Finding("failed", f"{named}; {device}; arm {arm.name}: {problem}", mend)
    return Finding("passed", f"{named}; {device}", figures={"versions": versions, "device": device})


def room_on_disk(probe: Probe) -> Finding:
    """Whether adapters, checkpoints and generations of all arms and seeds fit."""
    experiment = probe.experiment
    parameters = sum(p.numel() for p in probe.language_model.model.parameters() if p.requires_grad)
    # A checkpoint holds the weights and both moments of AdamW; one more than is kept while the next is written.
    copies = sum(1 + 3 * (arm.training.keep_checkpoints + 1) for arm in probe.trained_arms)
    settings = experiment.evaluation
    rows = len(probe.evaluation_prompts) * settings.samples * len(settings.sampling)
    generations = rows * (_BYTES_A_GENERATION + settings.max_new_tokens * _BYTES_A_TOKEN)
    needed = parameters * 4 * copies * len(experiment.seeds) + generations * len(experiment.jobs)
    free = shutil.disk_usage(_existing(probe.folder)).free
    result = f"about {needed / 1e9:.2f} GB needed, {free / 1e9:.1f} GB free at {_existing(probe.folder)}"
    if needed > free:
        return Finding("failed", result, "free the disk, or write elsewhere with --out")
    return Finding("passed", result, figures={"needed_bytes": needed, "free_bytes": free})


def _existing(folder: Path) -> Path:
    folder = folder.resolve()
    return next(place for place in (folder, *folder.parents) if place.exists())


_TRACKER_MODULES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
_REACH_SECONDS = 5.0


def trackers(probe: Probe) -> Finding:
    """Whether the trackers asked for are installed and their service answers; metrics.jsonl is always written."""
    asked = probe.experiment.run.tracking
    if not asked:
        return Finding("passed", "metrics.jsonl only; no tracker asked for")
    missing = [name for name in asked if find_spec(_TRACKER_MODULES[name]) is None]
    if missing:
        return Finding(
            "failed",
            f"run.tracking: {', '.join(missing)} not installed",
            f"pip install 'polychromic[{','.join(missing)}]', or leave it out",
        )
    result = f"{', '.join(asked)} installed"
    if "wandb" not in asked:
        return Finding("passed", f"{result}; written on this machine")
    return _wandb(result)


def _wandb(result: str) -> Finding:
    """Weights & Biases is the one tracker that needs a service."""
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled") or (mode is None and "WANDB_API_KEY" not in os.environ):
        why = f"WANDB_MODE={mode}" if mode else "no WANDB_API_KEY"
        return Finding("passed", f"{result}; wandb logs offline ({why})")
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return Finding("passed", f"{result}; wandb is behind a proxy and was not tried")
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    place = urlsplit(address)
    try:
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname or "", port), timeout=_REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        return Finding(
            "warned",
            f"{result}; {address} cannot be reached ({error})",
            "set WANDB_MODE=offline and `wandb sync` later; metrics.jsonl is written either way",
        )
    return Finding("passed", f"{result}; {address} answers")
