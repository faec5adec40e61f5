"""Checks of the machine: versions and device, room on the disk, trackers."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from polychromic.experiment.preflight.checks import Finding
from polychromic.experiment.preflight.probe import Probe
from polychromic.experiment.provenance import installed_versions

_BYTES_A_GENERATION = 600  # a row of generations.jsonl without its text
_BYTES_A_TOKEN = 5


def versions_and_device(probe: Probe) -> Finding:
    """Which libraries and which device the run would use; QLoRA without a GPU cannot run."""
    import torch

    versions = installed_versions()
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    quantized = [arm.name for arm in probe.trained_arms if arm.model.quantization != "none"]
    if quantized and not torch.cuda.is_available():
        return Finding(
            "failed",
            f"{named}; {device}; arm {quantized[0]} asks for quantization, which needs a CUDA device",
            "run on a GPU machine, or set model.quantization=none",
        )
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
    needed = (parameters * 4 * copies + generations * len(experiment.arms)) * len(experiment.seeds)
    free = shutil.disk_usage(_existing(probe.folder)).free
    result = f"about {needed / 1e9:.2f} GB needed, {free / 1e9:.1f} GB free at {_existing(probe.folder)}"
    if needed > free:
        return Finding("failed", result, "free the disk, or write elsewhere with --out")
    return Finding("passed", result, figures={"needed_bytes": needed, "free_bytes": free})


def _existing(folder: Path) -> Path:
    folder = folder.resolve()
    return next(place for place in (folder, *folder.parents) if place.exists())


_TRACKER_MODULES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


def trackers(probe: Probe) -> Finding:
    """Whether the trackers asked for are installed; metrics.jsonl is always written."""
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
    offline = "wandb" in asked and "WANDB_API_KEY" not in os.environ
    note = "; wandb logs offline (no WANDB_API_KEY)" if offline else ""
    return Finding("passed", f"{', '.join(asked)} installed{note}")
