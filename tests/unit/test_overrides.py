"""Overrides of the command line: they change what they name, or are refused."""

import pytest
import yaml

from polychromic.errors import ConfigError
from polychromic.experiment.bundle.contents import own_files, portable_yaml
from polychromic.experiment.config import Experiment
from polychromic.experiment.resuming.folder import resolved_yaml

CONTENT = {
    "name": "dots",
    "task": {"name": "arithmetic"},
    "model": {"source": "m", "adapter": {"rank_pattern": {"layers.0.q_proj": 2}}},
    "training": {"loss": "rl", "steps": 2},
    "arms": {"baseline": {}, "lambda0": {}, "lambda0.5": {"diversity": {"weight": 0.5}}},
}


@pytest.fixture
def read(tmp_path):
    """Reads the file with overrides."""
    (tmp_path / "dots.yaml").write_text(yaml.safe_dump(CONTENT))
    return lambda *overrides: Experiment.from_file(tmp_path / "dots.yaml", overrides)


def test_names_with_dots_are_found(read):
    """Past bug: `arms.lambda0.5.diversity.weight=2` looked for an arm lambda0 with a list; `polychromic tune` ends in
    such a command."""
    changed = read("arms.lambda0.5.diversity.weight=2", "arms.lambda0.training.steps=3", "arms.lambda0.5.training={}")
    assert changed.arms["lambda0.5"] == {"diversity": {"weight": 2}, "training": {}}
    assert changed.arms["lambda0"] == {"training": {"steps": 3}}
    assert read("model.adapter.rank_pattern.layers.0.q_proj=8").model.adapter.rank_pattern == {"layers.0.q_proj": 8}


def test_texts_that_look_like_numbers_are_texts_in_a_bundle_and_in_a_run_folder(read, tmp_path):
    """Past bug: a commit's hash such as 12345e6 and names such as 1e5 stood there without quotes, and the bundle's run
    refused them on the rented machine, or gave the model's template a number."""
    options = ["1e5", "12345e6", "-1E-3", ".5e+1", "1_0e2", "0x10", "1.5", "12", "12:30", "yes", "null", "2026-11-26"]
    overrides = [f"model.chat_template_options.o{i}='{text}'" for i, text in enumerate(options)]
    stated = read(
        "name='1e5'", "model.revision='12345e6'", "arms={'2e3': {}}", "training.learning_rate=1e-5", *overrides
    )
    for written in (resolved_yaml(stated), portable_yaml(stated, own_files(stated))):
        (tmp_path / "again.yaml").write_text(written)
        assert Experiment.from_file(tmp_path / "again.yaml") == stated
    assert list(stated.model.chat_template_options.values()) == options


@pytest.mark.parametrize("key", ["train", "judge", "checker"])
def test_a_key_of_another_task_is_not_offered_as_itself(read, key):
    """Past bug: `task.arithmetic.train: unknown key; did you mean train?`"""
    with pytest.raises(ConfigError) as refused:
        read(f"task.{key}=x.jsonl")
    said = str(refused.value).rpartition("unknown key; ")[2]
    assert "train_problems" in said if key == "train" else key not in said
