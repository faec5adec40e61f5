"""The main job as a user runs it: two arms, two seeds, a page, and the same command once more."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from tests.faults.storm import PATIENCE, SIZES, WORKERS, artefacts, start
from typer.testing import CliRunner

from polychromic.cli import app
from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment

QUICKSTART = ["experiments/quickstart.yaml", *SIZES["small"], f"run.workers={WORKERS}"]


@pytest.fixture
def copied(untouched_run, tmp_path):
    return shutil.copytree(untouched_run, tmp_path / "quickstart")


def test_a_run_ends_with_a_verdict_and_a_page(untouched_run):
    comparison = json.loads((untouched_run / "comparison.json").read_text())
    assert comparison["schema_version"] >= 1
    page = (untouched_run / "report.html").read_text()
    assert "<script src" not in page
    assert "coverage" in page


def test_a_run_leaves_the_files_of_the_design(untouched_run):
    n_settings = len(Experiment.from_file(QUICKSTART[0], QUICKSTART[1:]).evaluation.sampling)
    for name in ("experiment.yaml", "provenance.json", "ledger.jsonl", "report.md"):
        assert (untouched_run / name).is_file(), name
    for job in ("baseline/seed-0", "baseline/seed-1", "coverage/seed-0", "coverage/seed-1"):
        assert (untouched_run / job / "adapter" / "adapter_model.safetensors").is_file()
        assert (untouched_run / job / "metrics.jsonl").read_text().count("\n") == 4
        assert (untouched_run / job / "generations.jsonl").read_text().count("\n") == 12 * 16 * n_settings


def test_the_code_of_a_model_card_loads_the_adapter_beside_it(untouched_run):
    adapter = untouched_run / "coverage" / "seed-1" / "adapter"
    card = (adapter / "README.md").read_text()
    assert card.startswith("---\n")
    for said in ("# quickstart: coverage, seed 1", "| λ | ", "= Pass@1", "95 % intervals"):
        assert said in card
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code += """
prompt = tokenizer("1,4,6,6=4:", return_tensors="pt")
with_adapter = model(**prompt).logits
with model.disable_adapter():
    print(float((with_adapter - model(**prompt).logits).abs().max()))
"""
    output = subprocess.run([sys.executable, "-c", code], cwd=adapter, capture_output=True, text=True, check=True)
    assert float(output.stdout) > 1e-4


def test_running_again_does_nothing_twice(copied):
    before = artefacts(copied)
    ledger = (copied / "ledger.jsonl").read_text()
    stdout, stderr = start(copied.parent, WORKERS).communicate(timeout=PATIENCE)
    assert str(copied / "report.html") in stdout, stderr
    assert artefacts(copied) == before
    assert (copied / "ledger.jsonl").read_text() == ledger


def test_other_settings_in_one_folder_are_refused_by_key(copied):
    command = ["run", *QUICKSTART, "training.learning_rate=0.5", "--out", str(copied.parent)]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, ConfigError)
    assert "training.learning_rate" in str(result.exception)
    assert "--fresh" in str(result.exception)


def test_a_run_goes_on_when_the_shell_that_started_it_is_gone(tmp_path):
    """Past bug: `nohup polychromic run … &` stopped when its terminal closed, since its parent was gone."""
    command = [sys.executable, "-m", "polychromic", "train", *QUICKSTART, "--arm", "coverage", "seeds=[0]"]
    subprocess.run(
        ["sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh", *command, "--out", str(tmp_path)],
        check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not (tmp_path / "quickstart" / "coverage" / "seed-0" / "adapter").is_dir():
        assert time.monotonic() < deadline, "the run ended with its shell"
        time.sleep(0.5)
