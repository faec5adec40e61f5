"""Runs preflight and stops a run that it refuses."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console

from polychromic import stopping
from polychromic.errors import BudgetError, ModelError, PreflightError
from polychromic.experiment.config import BudgetSettings, Experiment
from polychromic.experiment.ledger import spent_dollars, spent_seconds
from polychromic.experiment.preflight.checks import (
    Check,
    CheckResult,
    Finding,
    PreflightReport,
    Probe,
    carry_out,
    show_check,
)
from polychromic.experiment.preflight.data import (
    checker_tells_good_from_bad,
    measures_order_known_groups,
    prompts_and_references,
    room_to_improve,
)
from polychromic.experiment.preflight.gradients import diversity_gradient_reaches_the_weights
from polychromic.experiment.preflight.model import (
    answers_begin_and_end,
    longest_batch_fits,
    model_loads,
    time_and_money,
)
from polychromic.experiment.provenance import installed_versions, threads_of_a_job
from polychromic.files import read_derived, read_jsonl, write_json
from polychromic.run_folder import RunFolder
from polychromic.seeding import deterministic

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
    rows = len(probe.evaluation_prompts) * settings.num_samples * len(settings.sampling)
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


CHECKS: tuple[tuple[str, Check], ...] = (
    ("versions and device", versions_and_device),
    ("model", model_loads),
    ("answers begin and end", answers_begin_and_end),
    ("data", prompts_and_references),
    ("diversity measures", measures_order_known_groups),
    ("checker", checker_tells_good_from_bad),
    ("room to improve", room_to_improve),
    ("diversity gradient", diversity_gradient_reaches_the_weights),
    ("longest batch", longest_batch_fits),
    ("disk", room_on_disk),
    ("trackers", trackers),
    ("time and money", time_and_money),
)


def preflight(
    experiment: Experiment, folder: Path, on_result: Callable[[CheckResult], None] = lambda _: None
) -> PreflightReport:
    """Carry out all checks for a run that would write to `folder`; nothing is written there."""
    probe = Probe(experiment, folder)
    with deterministic(threads_of_a_job(experiment)):  # times are those of a job
        return carry_out(CHECKS, probe, on_result)


def require_preflight(experiment: Experiment, folder: RunFolder) -> None:
    """Carry out the checks unless this folder has passed them; show those that did not pass, write preflight.json.

    Raises PreflightError that lists the failed checks with their mends.
    """
    made = read_derived(folder.preflight)
    if made and made.get("passed"):
        return
    require_cap = partial(_require_cap, experiment.budget, read_jsonl(folder.ledger), time.monotonic())
    require_cap("before preflight's first check")

    def after_check(check: CheckResult) -> None:
        """Show it if it is noteworthy, and end here where the run was asked to stop or has spent its budget."""
        if check.status != "passed":
            show_check(check)
        stopping.stop_if_requested("the next start makes preflight's checks anew")
        require_cap(f"after preflight's check {check.number}, {check.name}")

    report = preflight(experiment, folder.root, after_check)
    write_json(folder.preflight, report.to_json())
    if report.failed:
        raise PreflightError(_failures(report))
    total = report.figures("time and money")
    Console().print(
        f"preflight: {len(report.checks)} checks in {report.seconds:.0f} s; the run takes "
        f"{total['text']} on this machine",
        highlight=False,
    )


def _require_cap(
    budget: BudgetSettings, rows: Sequence[Mapping[str, Any]], started: float, when: str
) -> None:
    """Raise BudgetError where earlier starts and this preflight have reached a cap: the checks cost what work costs."""
    seconds = time.monotonic() - started
    everything = [*rows, {"seconds": seconds}]
    reached = budget.exceeded(spent_seconds(everything), spent_dollars(everything, budget))
    if reached:
        raise BudgetError(f"{reached} {when}; nothing is left for the work. Raise the cap and run again")


def _failures(report: PreflightReport) -> str:
    listed = "\n".join(
        f"  {one.number} {one.name}: {one.result}{f' → {one.mend}' if one.mend else ''}"
        for one in report.failed
    )
    return (
        f"preflight: {len(report.failed)} of {len(report.checks)} checks failed, nothing was trained\n{listed}\n"
        "  (run.preflight=false starts without the checks)"
    )
