"""Overrides of the command line: they change what they name, or are refused."""

import pytest
import yaml

from polychromic.experiment.config import Experiment

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
