"""Files say what a person reads: no YAML trap, no key twice, no name or criterion that the file itself rules out."""

from pathlib import Path

import pytest

from polychromic.errors import ConfigError, DataError
from polychromic.experiment.config import Experiment
from polychromic.experiment.external import ExternalExperiment
from polychromic.files import read_json, read_jsonl
from polychromic.run_folder import AT_THE_TOP, RunFolder
from polychromic.tasks.data.prompts import load_prompts
from polychromic.tasks.settings import CustomSettings

QUICKSTART = Path("experiments/quickstart.yaml")


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        Experiment.from_file(QUICKSTART, overrides)
    return str(error.value)


@pytest.mark.parametrize(("written", "read"), [("010", "8"), ("1:30", "90"), ("-017", "-15"), ("1:30.5", "90.5")])
def test_numbers_that_yaml_reads_in_another_base_are_refused(tmp_path, written, read):
    assert f"{written} is {read} in YAML" in refused(f"training.steps={written}")
    file = tmp_path / "experiment.yaml"
    file.write_text(QUICKSTART.read_text() + f"\nother: [1, {written}]\n")
    line = len(QUICKSTART.read_text().splitlines()) + 2
    with pytest.raises(ConfigError, match=f"line {line}: {written} is {read} in YAML"):
        Experiment.from_file(file)


@pytest.mark.parametrize("word", ["true", "yes", "on", "False", "no"])
@pytest.mark.parametrize(
    "key", ["training.steps", "training.learning_rate", "seeds.0", "evaluation.sampling.0.temperature"]
)
def test_yes_and_no_are_no_numbers(key, word):
    assert f"{key}: input should be a valid" in refused(f"{key}={word}")


def test_yes_and_no_are_no_numbers_in_mappings_and_arms():
    assert "baseline_values.pass@1: input" in refused("comparison.baseline_values={pass@1: yes}")
    assert "arms.coverage.training.steps: input" in refused("arms.coverage.training.steps=true")
    assert Experiment.from_file(QUICKSTART, ["run.preflight=no"]).run.preflight is False


def test_an_override_reaches_into_a_list():
    settings = Experiment.from_file(
        QUICKSTART, ["evaluation.sampling.0.temperature=0.5", "evaluation.sampling[1].top_p=0.5", "seeds.1=9"]
    )
    assert settings.evaluation.sampling[0].temperature == 0.5
    assert settings.evaluation.sampling[1].top_p == 0.5
    assert settings.seeds[1] == 9


def test_an_override_makes_a_list_that_the_file_lacks(tmp_path):
    file = tmp_path / "experiment.yaml"
    file.write_text(
        "name: x\ntask: {name: arithmetic}\nmodel: {source: smollm2-135m}\n"
        "training: {loss: rl, steps: 1}\narms: {baseline: {}, b: {}}\n"
    )
    found = Experiment.from_file(file, ["evaluation.sampling.0.temperature=0.5"])
    assert [way.temperature for way in found.evaluation.sampling] == [0.5]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "evaluation.sampling.9.temperature=0.5",
            "evaluation.sampling is a list of 2, expected a number from 0 to 2",
        ),
        ("evaluation.sampling.first.temperature=0.5", "expected a number from 0 to 2, got first"),
        ("training.steps.more=1", "training.steps is 100, which has no more"),
        ("training..steps=1", "expected key=value"),
    ],
)
def test_an_override_that_leads_nowhere_is_named(override, expected):
    assert expected in refused(override)


def test_the_users_home_is_expanded_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "e.yaml").write_text(
        "name: x\ntask: {name: custom, train: ~/a.jsonl, validation: ~/a.jsonl, test: ~/a.jsonl, checker: ~/c.py:f}\n"
        "model: {source: ~/model, adapter: {start_from: ~/adapter}}\ntraining: {loss: rl, steps: 1}\n"
        "evaluation: {embedder: ~/embedder}\narms: {baseline: {}, b: {model: {source: ~/other}}}\n"
    )
    found = Experiment.from_file("~/e.yaml")
    assert isinstance(found.task, CustomSettings)
    assert found.task.train == str(tmp_path / "a.jsonl")
    assert found.task.checker == f"{tmp_path}/c.py:f"
    assert found.model.source == str(tmp_path / "model")
    assert found.model.adapter.start_from == str(tmp_path / "adapter")
    assert found.evaluation.embedder == str(tmp_path / "embedder")
    assert found.arm("b").model.source == str(tmp_path / "other")
    with pytest.raises(ConfigError, match="no such home folder"):
        Experiment.from_file("~nobody-of-that-name/e.yaml")


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        (
            "{metric: pass@100, relative_change: 0.1}",
            "pass@100 needs 100 generations per prompt, and evaluation.num_samples",
        ),
        ("{metric: distinct_correct@65}", "distinct_correct@65 needs 65 generations per prompt"),
        ("{metric: vendi, relative_change: 0.1}", "vendi needs evaluation.embedder"),
        ("{metric: tokens}, {metric: tokens, direction: lower}", "tokens is to be both higher and lower"),
        (
            "{metric: distinct_2}, {metric: distinct_2, relative_change: 0.1}",
            "distinct_2 higher is stated twice",
        ),
        (
            "{metric: pass@1, direction: not_worse, margin: 1}",
            "can never be missed: its values lie between 0 and 1",
        ),
    ],
)
def test_criteria_that_the_file_rules_out_are_refused_on_reading(criteria, expected):
    assert expected in refused(f"comparison.minimum=[{criteria}]")


def test_a_gain_beyond_the_ceiling_from_a_known_baseline_is_refused_on_reading():
    criteria = "comparison.minimum=[{metric: pass@1, relative_change: 0.2}]"
    assert "needs 1.08, and it cannot exceed 1" in refused(criteria, "comparison.baseline_values={pass@1: 0.9}")


def test_files_of_generations_know_their_own_number_of_answers():
    overrides = ["comparison.minimum=[{metric: pass@100, relative_change: 0.1}]"]
    files = {"baseline": ["a.jsonl"], "b": ["b.jsonl"]}
    assert ExternalExperiment.from_file(QUICKSTART, files, overrides).arms == ["baseline", "b"]


@pytest.mark.parametrize("name", [*AT_THE_TOP, "Report.HTML", "my-ledger.jsonl.old"])
def test_names_of_files_of_the_run_folder_are_refused_on_reading(name):
    assert "is a file of the run folder" in refused(f"arms={{baseline: {{}}, {name}: {{}}}}")
    assert "is a file of the run folder" in refused(f"name={name}")


def test_every_file_of_a_run_folder_is_a_name_that_no_arm_may_have(tmp_path):
    folder = RunFolder(tmp_path)
    of_folder = [getattr(folder, name) for name, value in vars(RunFolder).items() if isinstance(value, property)]
    names = {path.name for path in of_folder if isinstance(path, Path)}
    assert {name for name in names if not name.startswith(".")} <= set(AT_THE_TOP)


@pytest.mark.parametrize("line", ['{"prompt": "a", "prompt": "b"}', '{"prompt": "a", "meta": {"x": 1, "x": 2}}'])
def test_a_key_that_stands_twice_in_a_line_is_refused_by_every_reader(tmp_path, line):
    file = tmp_path / "lines.jsonl"
    file.write_text(line + "\n")
    for read in (load_prompts, read_jsonl, read_json):
        with pytest.raises(DataError, match="stands twice in one object"):
            read(file)
