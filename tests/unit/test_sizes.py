"""Sizes that exceed the data are lowered with a line.

Past bug: `evaluation.num_prompts is 100, but the test split has 1` ended the run of the README's own commands.
"""

import json
import logging

import pytest

from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment
from polychromic.experiment.run import _check_before_work, _warn_of_warmup, as_experiment, within_data

CONTENT = {
    "name": "mine",
    "task": {"name": "custom", "checker": "contains", "embedder": "hash"},
    "model": {"source": "polychromic:arithmetic-tiny"},
    "training": {"loss": "sft", "steps": 1},
    "arms": {"baseline": {}, "other": {"diversity": {"weight": 1.0}}},
}


def experiment(tmp_path, n_test, **evaluation):
    files = {}
    for split, n in (("train", 3), ("validation", 2), ("test", n_test)):
        file = tmp_path / f"{split}.jsonl"
        file.write_text("".join(json.dumps({"prompt": f"{split} {i}"}) + "\n" for i in range(n)))
        files[split] = str(file)
    content = {**CONTENT, "task": CONTENT["task"] | files, "evaluation": evaluation}
    return Experiment.from_mapping(content)


@pytest.mark.parametrize(
    ("n_test", "stated", "used", "line"),
    [
        (
            1,
            {"num_prompts": 100},
            1,
            "evaluation.num_prompts is 100, and the test split has 1: it is evaluated",
        ),
        (4, {"num_prompts": 100}, 4, "the test split has 4: all of them are evaluated"),
        (4, {"num_prompts": 4}, 4, ""),
        (4, {"num_prompts": 2}, 2, ""),
        (1, {"num_prompts": 1}, 1, ""),
        (4, {}, 4, ""),  # nobody asked for the default
    ],
)
def test_sizes_are_those_of_the_data_at_most(tmp_path, caplog, n_test, stated, used, line):
    with caplog.at_level(logging.WARNING):
        lowered = as_experiment(experiment(tmp_path, n_test, **stated))
    assert lowered.evaluation.num_prompts == used
    assert line in caplog.text
    assert bool(line) == bool(caplog.records)
    assert Experiment.from_mapping(lowered.model_dump(mode="json")).evaluation.num_prompts == used


def test_an_arm_that_ends_while_its_learning_rate_rises_is_named(caplog):
    """Past bug: a file with 100 steps of warm-up, tried at 20, trained at a fifth of its learning rate in silence."""
    overrides = {"training.warmup_steps": 100, "training.steps": 20, "arms.coverage.training.warmup_steps": 5}
    _warn_of_warmup(Experiment.from_file("experiments/quickstart.yaml", overrides))
    [record] = caplog.records
    assert record.getMessage() == (
        "arm baseline: training.warmup_steps is 100, and it has 20 steps: its learning rate ends at 20 % of "
        "training.learning_rate; lower warmup_steps"
    )


def test_without_any_prompt_nothing_is_lowered_and_the_run_says_why(tmp_path):
    chosen = experiment(tmp_path, 1)
    (tmp_path / "test.jsonl").unlink()
    assert within_data(chosen) is chosen
    arms = {"baseline": {"untrained": True}, "again": {"untrained": True}}
    chosen = Experiment.from_mapping(
        CONTENT | {"task": {"name": "humaneval"}, "arms": arms, "evaluation": {"split": "validation"}}
    )
    with pytest.raises(ConfigError, match="task humaneval has no validation prompts"):
        _check_before_work(within_data(chosen))
