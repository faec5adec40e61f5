"""Writes a SkyPilot task for a bundle: one rented GPU, spot, resumed after preemption, with a cap on its cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment
from polychromic.experiment.planning.run_plan import MOST_SHARE_OF_MEMORY, RunPlan, plan_run, read_lengths
from polychromic.experiment.planning.time import HARDWARE
from polychromic.files import write_text

_GIGABYTE = 1e9
_PACKAGES_GB = 25  # torch for CUDA with its libraries, and the image
_GRACE_SECONDS = 300  # after SIGTERM: a checkpoint and the packing of what is done


def fitting_plans(experiment: Experiment) -> list[RunPlan]:
    """Plans the run on every known GPU that holds it, the one with the least memory first.

    Raises ConfigError where none does.
    """
    lengths = read_lengths(experiment)
    plans = [plan_run(experiment, hardware, lengths) for hardware in HARDWARE.values() if hardware.is_gpu]
    fitting = sorted((plan for plan in plans if plan.fits), key=lambda plan: plan.hardware.memory)
    if not fitting:
        need = min(plan.peak for plan in plans) / MOST_SHARE_OF_MEMORY / _GIGABYTE
        largest = max(HARDWARE.values(), key=lambda hardware: hardware.memory)
        raise ConfigError(
            f"one GPU of {need:.0f} GB would be needed, and the largest known here is {largest.name} with "
            f"{largest.memory / _GIGABYTE:.0f} GB; lower training.micro_batch_size or evaluation.max_decode_batch, set "
            "model.gradient_checkpointing or model.quantization=nf4"
        )
    return fitting


def sky_task(experiment: Experiment, bundle: str, plans: list[RunPlan], storage: str | None = None) -> dict[str, Any]:
    """Returns the task: any of the GPUs that fit (SkyPilot takes the cheapest there is), a mounted bucket for the run
    folder, and a time limit where the price reaches the cap.

    bundle: file name of the bundle, beside the task's file. storage: name of the bucket.
    Raises ConfigError where the experiment states no cap.
    """
    budget = experiment.budget
    if budget.max_dollars is None or budget.dollars_per_hour is None:
        raise ConfigError(
            "a rented machine needs a cap: state budget.dollars_per_hour (no dearer machine is taken) and "
            "budget.max_dollars, in the file or as overrides"
        )
    heaviest = max((arm.memory for plan in plans for arm in plan.arms), key=lambda memory: memory.weights)
    weights_gb = heaviest.weights / _GIGABYTE
    name = experiment.name.lower().replace("_", "-").replace(".", "-")
    seconds = math.floor(budget.max_dollars / budget.dollars_per_hour * 3600)
    return {
        "name": name,
        "resources": {
            "accelerators": {plan.hardware.sky_name: 1 for plan in plans},
            "cpus": "4+",
            # The weights pass through main memory on their way to the GPU.
            "memory": f"{math.ceil(max(16.0, 1.5 * weights_gb + 8))}+",
            "disk_size": math.ceil(_PACKAGES_GB + 4 * weights_gb + 20),
            "use_spot": True,
            # No dearer machine is taken: the run counts at this price, and never spends more than it says.
            "max_hourly_cost": budget.dollars_per_hour,
            "job_recovery": {"max_restarts_on_errors": 0},
            "autostop": {"idle_minutes": 10, "down": True},
        },
        "num_nodes": 1,
        "file_mounts": {
            # Cached: plain mounts of a bucket cannot append to a file or rename one.
            "/outputs": {"name": storage or f"polychromic-{name}", "mode": "MOUNT_CACHED"},
            f"~/{bundle}": f"./{bundle}",
        },
        "setup": (
            f"mkdir -p ~/bundle && tar -xzf ~/{bundle} -C ~/bundle\n"
            "command -v python3.11 >/dev/null || conda create -q -y -p ~/python311 python=3.11\n"
        ),
        "run": (
            "export POLYCHROMIC_OUT=/outputs\n"
            'export PYTHON="$(command -v python3.11 || echo ~/python311/bin/python)"\n'
            "# The run counts its own cost over all starts and stops at budget.max_dollars; this is the second fence.\n"
            f"timeout --signal=TERM --kill-after={_GRACE_SECONDS} {seconds} bash ~/bundle/{experiment.name}/run.sh\n"
        ),
    }  # fmt: skip


def write_sky_task(path: Path, task: Mapping[str, Any], plans: list[RunPlan]) -> None:
    """Writes the task as YAML, with the plan that its resources come from as a comment."""
    import yaml

    planned = "".join(
        f"#   {plan.hardware.name}: {plan.peak / _GIGABYTE:.1f} of {plan.hardware.memory / _GIGABYTE:.0f} GB, about "
        f"{plan.seconds / 3600:.1f} h\n"
        for plan in plans
    )
    header = (
        "# A task for SkyPilot: `sky jobs launch THIS_FILE` (managed: a preempted machine is replaced, and the run\n"
        "# goes on from its checkpoint in the bucket). Keys go by `--secret HF_TOKEN`, never into this file.\n"
        "# Planned, not measured (docs/scaling.md):\n"
    )
    write_text(path, header + planned + yaml.dump(dict(task), Dumper=_dumper(), sort_keys=False, width=110))


def _dumper() -> Any:
    """Returns a YAML dumper that writes scripts as blocks, line by line."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes what `safe_dump` writes, texts of several lines as blocks."""

    def write(dumper: Any, text: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Dumper.add_representer(str, write)
    return Dumper
