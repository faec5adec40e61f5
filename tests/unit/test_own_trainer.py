"""A trainer from a file outside the package fills a run folder, which is then evaluated as any other."""

from types import SimpleNamespace

import pytest
import yaml
from safetensors.torch import load_file

from polychromic import Experiment, run
from polychromic.errors import ConfigError, TrainingError
from polychromic.experiment.jobs import Job, carry_out
from polychromic.experiment.resuming.inputs import record_inputs
from polychromic.files import read_json
from polychromic.generations import read_generations
from polychromic.integrations.trl import engine as trl
from polychromic.run_folder import RunFolder
from polychromic.training import build_trainer, is_trained

CODE = '''
from polychromic.files import append_jsonl, atomic_folder
from polychromic.models.adapters import save_adapter
from polychromic.models.loading import load_language_model
from polychromic.training import Artifacts, write_ending


class Untouched:
    """Saves the adapter that training would start from."""

    def train(self, run, on_step=None):
        language_model = load_language_model(run.model, seed=run.seed)
        with atomic_folder(run.adapter) as staging:
            save_adapter(language_model.model, staging)
        append_jsonl(run.folder / "metrics.jsonl", [{"step": 1, "train/quality_loss": 0.5}])
        if on_step:
            on_step(1, 1, {"generation/total_tokens": 7})
        write_ending(run.folder, {"steps": 1})
        return Artifacts(run.adapter)


class Idle:
    """Leaves nothing."""

    def train(self, run, on_step=None):
        return Artifacts(run.adapter)


without_method = object()
'''


def experiment(tmp_path, name):
    (tmp_path / "mine.py").write_text(CODE)
    content = {
        "name": "own", "task": {"name": "arithmetic"},
        "model": {"source": "polychromic:arithmetic-tiny", "adapter": {"rank": 4}},
        "training": {"loss": "rl", "steps": 1, "engine": f"mine.py:{name}"}, "arms": {"baseline": {}, "other": {}},
        "evaluation": {
            "num_prompts": 2, "num_samples": 2, "max_new_tokens": 8, "sampling": [{"temperature": 1.0}],
        },
    }  # fmt: skip
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(content))
    return Experiment.from_file(tmp_path / "experiment.yaml")


def test_it_fills_a_folder_that_is_evaluated(tmp_path):
    chosen = experiment(tmp_path, "Untouched")
    root, events = tmp_path / "run", []
    ledger = carry_out(Job(chosen, "other", 3, root), events.append)
    folder = RunFolder(root).arm("other", 3)
    assert is_trained(folder.root)
    weights = load_file(folder.adapter / "adapter_model.safetensors")
    assert all((tensor == 0).all() for name, tensor in weights.items() if "lora_B" in name)
    assert [(row["stage"], row["tokens"] > 0) for row in ledger] == [("train", True), ("evaluate", True)]
    rows = read_generations(folder.generations)
    assert len(rows) == 4
    assert read_json(folder.ending)["steps"] == 1
    assert carry_out(Job(chosen, "other", 3, root, ("train",)), events.append) == []  # nothing is trained twice
    assert list(record_inputs(chosen, models=False)["training_code"]) == ["trainer Untouched"]


def test_one_that_leaves_no_adapter_is_told_what_is_missing(tmp_path):
    with pytest.raises(TrainingError, match="Idle ended without a finished adapter"):
        carry_out(Job(experiment(tmp_path, "Idle"), "other", 0, tmp_path / "run", ("train",)), lambda event: None)


@pytest.mark.parametrize(
    ("engine", "message"),
    [("mine.py:missing", "does not define missing"), ("trl", "training.engine: trl needs TRL, which is not installed")],
)
def test_a_trainer_that_cannot_be_had_is_said_before_another_arm_is_trained(tmp_path, monkeypatch, engine, message):
    """Past bug: the run ended when the turn of that arm came, hours later."""

    def not_installed(_):
        raise LookupError

    monkeypatch.setattr(trl, "metadata", SimpleNamespace(version=not_installed, PackageNotFoundError=LookupError))
    experiment(tmp_path, "Untouched")
    overrides = [f"arms.other.training.engine={engine}", "run.preflight=false"]
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "experiment.yaml", overrides, out=tmp_path / "runs")
    assert not (tmp_path / "runs" / "own" / "baseline").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("remote", "trainer 'remote' is not known; expected one of local"),
        ("mine.py:without_method", "has no method train"),
        ("mine.py:missing", "does not define missing"),
    ],
)
def test_what_is_no_trainer_is_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)
    with pytest.raises(ConfigError, match=message):
        build_trainer(name)
