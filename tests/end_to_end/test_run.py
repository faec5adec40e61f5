"""The main job as a user runs it: two arms, two seeds, killed on the way, continued, reported."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polychromic.cli import app
from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment

POLYCHROMIC = [sys.executable, "-m", "polychromic"]
SMALL = [
    "seeds=[0,1]",
    "training.steps=4",
    "training.prompts_per_step=4",
    "training.num_samples=6",
    "diversity.set_size=4",
    "training.checkpoint_every=2",
    "evaluation.num_prompts=12",
    "evaluation.num_samples=16",
    "evaluation.sampling=[{temperature: 0.6}, {temperature: 1.0}]",
    "task.train_problems=64",
    "task.test_problems=12",
    "run.workers=1",
    "run.preflight=false",
    # Twelve problems may all be solved: then "pass@16 higher" is rightly refused.
    "comparison.minimum=[{metric: distinct_correct, direction: higher, relative_change: 0.1}]",
]


def start(out: Path, *more: str) -> subprocess.Popen:
    command = [*POLYCHROMIC, "run", "experiments/quickstart.yaml", *SMALL, *more, "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> str:
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return stdout


def artefacts(root: Path) -> dict[str, bytes]:
    """Adapters, generations and comparison: what must be the same however the run came about."""
    found = [*root.rglob("adapter/*"), *root.rglob("generations.jsonl"), root / "comparison.json"]
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(found)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    stdout = finish(start(out))
    return out / "quickstart", stdout


def test_a_run_ends_with_a_verdict_and_a_page(whole):
    root, stdout = whole
    assert "report.html" in stdout
    comparison = json.loads((root / "comparison.json").read_text())
    assert comparison["schema_version"] >= 1
    page = (root / "report.html").read_text()
    assert "<script src" not in page
    assert "coverage" in page


def test_a_run_leaves_the_files_of_the_design(whole):
    root, _ = whole
    n_settings = len(Experiment.from_file("experiments/quickstart.yaml", SMALL).evaluation.sampling)
    for name in ("experiment.yaml", "provenance.json", "ledger.jsonl", "report.md"):
        assert (root / name).is_file(), name
    for job in ("baseline/seed-0", "baseline/seed-1", "coverage/seed-0", "coverage/seed-1"):
        assert (root / job / "adapter" / "adapter_model.safetensors").is_file()
        assert (root / job / "metrics.jsonl").read_text().count("\n") == 4
        assert (root / job / "generations.jsonl").read_text().count("\n") == 12 * 16 * n_settings


def test_the_code_of_a_model_card_loads_the_adapter_beside_it(whole):
    adapter = whole[0] / "coverage" / "seed-1" / "adapter"
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


def test_running_again_does_nothing_twice(whole):
    root, _ = whole
    before = artefacts(root)
    ledger = (root / "ledger.jsonl").read_text()
    finish(start(root.parent))
    assert artefacts(root) == before
    assert (root / "ledger.jsonl").read_text() == ledger


@pytest.mark.parametrize("landmark", ["baseline/seed-0/checkpoints/step-000002", "coverage/seed-0/generations.jsonl"])
def test_a_killed_run_is_continued_to_identical_files(whole, tmp_path, landmark):
    process = start(tmp_path)
    deadline = time.monotonic() + 200
    while not (tmp_path / "quickstart" / landmark).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finish(start(tmp_path))
    assert artefacts(tmp_path / "quickstart") == artefacts(whole[0])


def test_other_settings_in_one_folder_are_refused_by_key(whole):
    root, _ = whole
    command = [
        "run",
        "experiments/quickstart.yaml",
        *SMALL,
        "training.learning_rate=0.5",
        "--out",
        str(root.parent),
    ]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, ConfigError)
    assert "training.learning_rate" in str(result.exception)
    assert "--fresh" in str(result.exception)


def test_a_run_goes_on_when_the_shell_that_started_it_is_gone(tmp_path):
    """Past bug: `nohup polychromic run … &` stopped when its terminal closed, since its parent was gone."""
    command = [
        *POLYCHROMIC,
        "train",
        "experiments/quickstart.yaml",
        *SMALL,
        "seeds=[0]",
        "--out",
        str(tmp_path),
    ]
    subprocess.run(
        ["sh", "-c", '"$@" </dev/null >/dev/null 2>&1 &', "sh", *command],
        check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    adapters = [tmp_path / "quickstart" / arm / "seed-0" / "adapter" for arm in ("baseline", "coverage")]
    deadline = time.monotonic() + 240
    while not all(adapter.is_dir() for adapter in adapters):
        assert time.monotonic() < deadline, "the run ended with its shell"
        time.sleep(0.5)
