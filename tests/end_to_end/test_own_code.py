"""A task and a sampler from a file outside the package, named by import path: preflight, two steps and evaluation."""

import json

import pytest
from typer.testing import CliRunner

from polychromic import Experiment, run
from polychromic.cli import app
from polychromic.errors import ConfigError
from polychromic.models.loading import load_language_model
from polychromic.models.settings import ModelSettings
from polychromic.sampling.base import SamplerSettings, build_sampler
from polychromic.tasks.base import build_task

MINE = """
from pathlib import Path

from pydantic import BaseModel, Field

from polychromic.records import Check, Prompt, as_messages
from polychromic.sampling.local import LocalSampler
from polychromic.tasks import Task


class Sums(Task):
    name = "sums"
    pass_threshold = 1.0

    def __init__(self, longest: int = 3):
        Path(__file__).with_name("made").touch()
        self.longest = longest

    def prompts(self, split):
        first = {"train": 0, "validation": 10, "test": 20}[split]
        return [Prompt(f"{split}-{i}", as_messages(f"{i % 9 + 1},2,3,4={i}:")) for i in range(first, first + 8)]

    def check(self, prompts, texts):
        return [Check(float(0 < len(text) <= self.longest)) for text in texts]


class Keys(BaseModel):
    longest: int = Field(ge=1)

    def build(self):
        return Sums(self.longest)


class Logged(LocalSampler):
    def __init__(self, language_model, max_decode_batch, log):
        super().__init__(language_model, max_decode_batch)
        self.log = Path(log)

    def sample(self, prompts, num_samples, parameters, seeds):
        with self.log.open("a") as log:
            log.write(f"{len(prompts) * num_samples}\\n")
        return super().sample(prompts, num_samples, parameters, seeds)


def nothing(**keys):
    return object()
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "own.yaml").write_text(
        "name: own\n"
        "task: {name: 'mine.py:Sums', longest: 8}\n"
        f"sampling: {{engine: 'mine.py:Logged', log: {tmp_path / 'log'}}}\n"
        "model: {source: 'polychromic:arithmetic-tiny', adapter: {rank: 4, alpha: 8}}\n"
        "training: {loss: rl, steps: 2, prompts_per_step: 4, num_samples: 4, max_new_tokens: 12}\n"
        "diversity: {objective: coverage, set_size: 2}\n"
        "arms: {baseline: {diversity: {weight: 0.0}}, diverse: {diversity: {weight: 1.0, mode: share}}}\n"
        "evaluation: {num_prompts: 8, num_samples: 4, max_new_tokens: 12, untrained: false}\n"
        "comparison: {minimum: [{metric: distinct_2, relative_change: 0.0}]}\n"
    )
    return tmp_path


def test_a_task_and_a_sampler_of_ones_own_run_end_to_end(folder):
    result = run(folder / "own.yaml", out=folder)
    root = folder / "own"
    assert (root / "preflight.json").exists()
    rows = [json.loads(line) for line in (root / "diverse/seed-0/generations.jsonl").read_text().splitlines()]
    assert len(rows) == 8 * 4
    assert all(row["reward"] == float(0 < len(row["text"]) <= 8) for row in rows)
    steps = (root / "diverse/seed-0/metrics.jsonl").read_text().splitlines()
    assert len(steps) == 2
    drawn = [int(line) for line in (folder / "log").read_text().splitlines()]
    # Two arms of two steps, and of 8 prompts; preflight draws some of its own.
    assert sum(drawn) > 2 * (2 * 4 * 4 + 8 * 4)
    assert result.comparison.mean("baseline", "distinct_2").n_prompts == 8
    inputs = json.loads((root / "provenance.json").read_text())
    assert set(inputs["checkers"]["task"]) == {"mine.py"}
    assert set(inputs["training_code"]["sampler Logged"]) == {"mine.py"}

    (folder / "made").unlink()
    refused = CliRunner().invoke(app, ["report", str(root)])
    assert isinstance(refused.exception, ConfigError)
    assert "mine.py:Sums, which runs that code here; add --yes" in str(refused.exception)
    assert not (folder / "made").exists()
    assert CliRunner().invoke(app, ["report", str(root), "--yes"]).exit_code == 0

    (folder / "mine.py").write_text(MINE.replace("<= self.longest", "< self.longest"))
    with pytest.raises(ConfigError, match=r"the task's code \(mine.py\)"):
        run(folder / "own.yaml", out=folder)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            "{name: 'mine.py:Sums', shortest: 3}",
            "got an unexpected keyword argument 'shortest'; it is defined as",
        ),
        ("{name: 'mine.py:Keys', longest: 0}", "longest: Input should be greater than or equal to 1"),
        ("{name: 'mine.py:nothing'}", "makes a object, which lacks name, pass_threshold, prompts, check"),
        ("{name: 'mine.py:Products'}", "mine.py does not define Products; it defines "),
        ("{name: 'yours.py:Sums'}", "there is no file "),
    ],
)
def test_a_task_that_cannot_be_made_says_why(folder, section, message):
    text = (folder / "own.yaml").read_text().replace("{name: 'mine.py:Sums', longest: 8}", section)
    (folder / "own.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        build_task(Experiment.from_file(folder / "own.yaml").task)
    assert message in str(caught.value)


def test_a_model_of_keys_makes_the_task(folder):
    text = (folder / "own.yaml").read_text().replace("mine.py:Sums', longest: 8", "mine.py:Keys', longest: 2")
    (folder / "own.yaml").write_text(text)
    task = build_task(Experiment.from_file(folder / "own.yaml").task)
    assert [check.reward for check in task.check(task.prompts("test")[:2], ["12", "123"])] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"engine": "remote"},
            "engine 'remote' is not known, expected one of local, vllm, path/to/file.py:name",
        ),
        ({"engine": "local", "log": "x"}, "log: unknown key; engine local takes no further keys"),
    ],
)
def test_a_sampling_section_that_does_not_fit_says_why(folder, keys, message):
    content = Experiment.from_file(folder / "own.yaml").model_dump(mode="json")
    with pytest.raises(ConfigError) as caught:
        Experiment.from_mapping(content | {"sampling": keys})
    assert message in str(caught.value)


def test_an_engine_that_cannot_be_made_says_why(folder):
    language_model = load_language_model(ModelSettings(source="polychromic:arithmetic-tiny"), trainable=False)
    options = {"max_decode_batch": 8, "thinking": "auto"}
    for keys, message in (
        ({"engine": f"{folder / 'mine.py'}:Logged"}, "missing a required argument: 'log'"),
        ({"engine": f"{folder / 'mine.py'}:Keys", "longest": 3}, "too many positional arguments"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_sampler(SamplerSettings(**keys), language_model, **options)
