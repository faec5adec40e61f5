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
name, folder, first, last = sys.argv[1:]
[tracker] = open_trackers([name], Path(folder), project="probe", run_name="arm/seed-0", steps_done=int(first) - 1)
for step in range(int(first), int(last) + 1):
    tracker.log({"train/reward": 0.25 * step, "train/diversity_gradient_share": 0.3}, step)
tracker.close()
"""


def track(name, folder, first=1, last=2):
    """Logs these steps as a start of its own that begins with the first."""
    pytest.importorskip(name, reason=f"the extra polychromic[{name}] is not installed")
    no_account = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "TRACKIO", "HF_"))}
    environment = no_account | {
        "HOME": str(folder),
        "https_proxy": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, name, str(folder / "run"), str(first), str(last)],
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


def test_tensorboard_shows_no_step_twice_where_a_killed_run_went_on(tmp_path):
    """Steps after the last checkpoint are made again; both stood there, and curves ran back."""
    track("tensorboard", tmp_path, 1, 3)
    track("tensorboard", tmp_path, 2, 4)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("train/reward")] == [
        (step, 0.25 * step) for step in (1, 2, 3, 4)
    ]


def test_wandb_without_an_account_logs_offline(tmp_path):
    output = track("wandb", tmp_path)
    assert "Enter your choice" not in output
    assert list((tmp_path / "run").rglob("*.wandb")), output
    track("wandb", tmp_path, 2, 4)
    ids = [path.stem.removeprefix("run-") for path in (tmp_path / "run").rglob("*.wandb")]
    assert len(ids) == 2, "an offline start has files of its own"
    assert len(set(ids)) == 1, "of one run, which `wandb sync` puts together"


def test_trackio_logs_locally(tmp_path):
    track("trackio", tmp_path)
    assert list(tmp_path.rglob("*.db")), "trackio keeps a local database"
    assert "Resumed existing run: arm/seed-0" in track("trackio", tmp_path, 2, 4)
