"""The hosted trackers with their packages really installed; skipped where an extra is missing.

No account, no network: nothing may ask for a login, and a run must end."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from pathlib import Path
from polychromic.training.trackers import open_trackers
[tracker] = open_trackers([sys.argv[1]], Path(sys.argv[2]), project="probe", run_name="arm/seed-0")
for step in (1, 2):
    tracker.log({"train/reward": 0.25 * step, "train/diversity_gradient_share": 0.3}, step)
tracker.close()
"""


def track(name, folder):
    pytest.importorskip(name, reason=f"the extra polychromic[{name}] is not installed")
    no_account = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "TRACKIO", "HF_"))}
    environment = no_account | {
        "HOME": str(folder),
        "https_proxy": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(folder / "run")],
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_tensorboard_holds_every_number(tmp_path):
    track("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("train/reward")] == [(1, 0.25), (2, 0.5)]


def test_wandb_without_an_account_logs_offline(tmp_path):
    output = track("wandb", tmp_path)
    assert "Enter your choice" not in output
    assert list((tmp_path / "run").rglob("*.wandb")), output


def test_trackio_logs_locally(tmp_path):
    track("trackio", tmp_path)
    assert list(tmp_path.rglob("*.db")), "trackio keeps a local database"
