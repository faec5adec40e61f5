"""The task file with which SkyPilot rents a GPU for a bundle."""

import pytest
import yaml
from typer.testing import CliRunner

from polychromic.cli import app
from polychromic.errors import ConfigError
from polychromic.experiment.bundle.sky import fitting_plans, sky_task, write_sky_task
from polychromic.experiment.config import Experiment


def test_the_task_for_a_rented_gpu(tmp_path):
    file, cap = "experiments/qwen3-8b-replies.yaml", ["budget.dollars_per_hour=2", "budget.max_dollars=60"]
    experiment = Experiment.from_file(file, cap)
    plans = fitting_plans(experiment)
    task = sky_task(experiment, "qwen3-8b-replies.bundle.tar.gz", plans, "my-bucket")
    assert next(iter(task["resources"]["accelerators"])) in ("L4", "A10G")  # 24 GB hold it
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["max_hourly_cost"] == 2
    assert task["file_mounts"]["/outputs"] == {"name": "my-bucket", "mode": "MOUNT_CACHED"}
    assert "POLYCHROMIC_OUT=/outputs" in task["run"]
    assert "timeout --signal=TERM --kill-after=300 108000 " in task["run"]  # 30 hours at $2 are $60
    write_sky_task(tmp_path / "sky.yaml", task, plans)
    assert yaml.safe_load((tmp_path / "sky.yaml").read_text()) == task
    with pytest.raises(ConfigError, match=r"needs a cap: state budget\.dollars_per_hour"):
        sky_task(Experiment.from_file(file), "x", plans)
    with pytest.raises(ConfigError, match=r"one GPU of \d+ GB would be needed"):
        fitting_plans(Experiment.from_file(file, ["evaluation.max_decode_batch=20000"]))


def test_no_task_is_written_for_a_bundle_that_is_refused(tmp_path):
    """Past bug: the task stood there before the secret was found, and named a bundle that was not made."""
    (tmp_path / "notes.txt").write_text("hf_" + "a1" * 20)
    told = [f"--out={tmp_path}", f"--emit={tmp_path / 'sky.yaml'}", f"--include={tmp_path / 'notes.txt'}"]
    capped = ["budget.dollars_per_hour=2", "budget.max_dollars=60"]
    refused = CliRunner().invoke(app, ["bundle", "experiments/quickstart.yaml", *capped, *told]).exception
    assert isinstance(refused, ConfigError)
    assert "notes.txt:1: a Hugging Face token" in str(refused)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    made = CliRunner().invoke(app, ["bundle", "experiments/quickstart.yaml", *capped, *told[:2]])
    assert made.exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "sky.yaml", "quickstart.bundle.tar.gz"}
