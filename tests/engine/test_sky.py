"""SkyPilot's own parser reads the task that `bundle --emit` writes, and refuses one with an unknown key."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from polychromic.experiment.bundle.sky import fitting_plans, sky_task, write_sky_task
from polychromic.experiment.config import Experiment

pytestmark = pytest.mark.engine

PARSE = """
import json, sys, sky
task = sky.Task.from_yaml(sys.argv[1])
resources = list(task.resources)
print(json.dumps({
    "name": task.name,
    "accelerators": sorted(name for one in resources for name in one.accelerators),
    "dollars": sorted({one.max_hourly_cost for one in resources}),
    "spot": all(one.use_spot for one in resources),
    "restarts": [one.job_recovery.get("max_restarts_on_errors") for one in resources],
    "down": all(one.autostop_config.down for one in resources),
    "storage": {path: one.mode.value for path, one in task.storage_mounts.items()},
    "files": task.file_mounts, "nodes": task.num_nodes,
}))
"""


def parse(path, home):
    python = os.environ.get("SKYPILOT_PYTHON")
    if not python:
        pytest.skip("SKYPILOT_PYTHON names no interpreter with skypilot (make sky sets one up)")
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    command = [str(Path(python).absolute()), "-c", PARSE, path.name]
    return subprocess.run(
        command, cwd=path.parent, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


def test_skypilot_reads_the_task(tmp_path):
    experiment = Experiment.from_file(
        "experiments/qwen3-8b-replies.yaml", ["budget.dollars_per_hour=1", "budget.max_dollars=60"]
    )
    bundle = "qwen3-8b-replies.bundle.tar.gz"
    (tmp_path / bundle).write_bytes(b"")
    plans = fitting_plans(experiment)
    task = sky_task(experiment, bundle, plans)
    write_sky_task(tmp_path / "sky.yaml", task, plans)
    parsed = parse(tmp_path / "sky.yaml", tmp_path)
    assert parsed.returncode == 0, parsed.stderr
    assert json.loads(parsed.stdout.splitlines()[-1]) == {
        "name": "qwen3-8b-replies",
        "accelerators": sorted(plan.hardware.sky_name for plan in plans),
        "dollars": [1.0],
        "spot": True,
        "restarts": [0] * len(plans),
        "down": True,
        "storage": {"/outputs": "MOUNT_CACHED"},
        "files": {f"~/{bundle}": f"./{bundle}"},
        "nodes": 1,
    }
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(task | {"resources": task["resources"] | {"use_spott": True}}))
    refused = parse(tmp_path / "wrong.yaml", tmp_path)
    assert refused.returncode != 0
    assert "use_spott" in refused.stderr
