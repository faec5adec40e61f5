"""The Python interface as a notebook uses it: overrides in every form, results as tables and data frames."""

import json
import math
import sys

import pytest

import polychromic
from polychromic.errors import ConfigError
from polychromic.evaluation import Criterion, compare, measure_arms
from polychromic.experiment.config import Experiment
from polychromic.experiment.result import RunResult
from polychromic.experiment.run import as_experiment
from polychromic.generations import write_generations
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.run_folder import RunFolder

FILE = {
    "name": "small",
    "task": {"name": "arithmetic"},
    "model": {"source": "polychromic:arithmetic-tiny"},
    "training": {"loss": "rl", "steps": 20},
    "diversity": {"objective": "coverage"},
    "arms": {"baseline": {}, "coverage": {"diversity": {"weight": 1.0}}},
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(FILE))
    return path


@pytest.mark.parametrize(
    "overrides",
    [
        {"training.steps": 4, "seeds": [0, 1], "training.learning_rate": 1e-5, "run.preflight": False},
        ["training.steps=4", "seeds=[0,1]", "training.learning_rate=1e-5", "run.preflight=false"],
    ],
)
def test_overrides_are_a_mapping_or_texts(file, overrides):
    chosen = as_experiment(str(file), overrides)
    assert (chosen.training.steps, chosen.seeds, chosen.training.learning_rate) == (4, [0, 1], 1e-5)
    assert chosen.run.preflight is False


def test_one_override_is_one_text(file):
    assert as_experiment(file, "training.steps=4").training.steps == 4


@pytest.mark.parametrize("overrides", [{"training.steps": 4}, "training.steps=4", ["training.steps=4"]])
def test_a_file_that_is_only_read_takes_the_same_overrides(file, overrides):
    """Past bug: a mapping and a single text were refused with "override 't': expected key=value"."""
    assert Experiment.from_file(file, overrides).training.steps == 4


def test_values_of_every_kind_arrive_as_they_are(file):
    criteria = [{"metric": "distinct_correct", "direction": "higher", "relative_change": 0.5}]
    chosen = as_experiment(file, {"comparison.minimum": criteria, "model.revision": "a: b", "budget.max_hours": None})
    assert chosen.comparison.minimum[0].relative_change == 0.5
    assert chosen.model.revision == "a: b"
    assert chosen.budget.max_hours is None


@pytest.mark.parametrize(
    ("experiment", "overrides", "said"),
    [
        (None, [3], r"override 3 \(int\): expected texts such as"),
        (None, {"training.steps": object()}, "override training.steps=<object"),
        (None, {"training.steps": math.nan}, r"override training.steps=nan \(float\): expected a number"),
        (None, {"training.step": 4}, "training.step"),
        (3, (), r"experiment=3 \(int\): expected the path of an experiment file, or an Experiment"),
        (Experiment.from_mapping(FILE), {"training.steps": 4}, "an Experiment object has its values already"),
    ],
)
def test_what_is_no_override_is_refused_in_one_sentence(file, experiment, overrides, said):
    with pytest.raises(ConfigError, match=said):
        as_experiment(file if experiment is None else experiment, overrides)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    by_arm = {}
    for arm, texts in {"baseline": ["<b>", "<b>", "c"], "diverse": ["<b>", "d", "e"]}.items():
        by_arm[arm] = [
            GenerationRow(f"p{p}", i, text, 3, "stop", SamplingParameters(1.0), 0, reward=float(i == 0), cluster=text)
            for p in range(6) for i, text in enumerate(texts)
        ]  # fmt: skip
        write_generations(folder.arm(arm, 0).generations, by_arm[arm])
    tables = measure_arms({(arm, 0): rows for arm, rows in by_arm.items()}, pass_threshold=1.0)
    criteria = {"minimum": [Criterion("distinct_2", "higher", 0.1)]}
    return RunResult(folder, compare(tables, baseline="baseline", criteria=criteria))


def test_a_result_is_a_data_frame_with_intervals_and_differences(result):
    frame = result.to_pandas().set_index(["arm", "metric"])
    mean = result.comparison.mean("diverse", "clusters")
    row = frame.loc[("diverse", "clusters")]
    assert (row["mean"], row["low"], row["high"]) == (mean.mean, mean.low, mean.high)
    contrast = result.comparison.contrast("diverse", "clusters")
    assert row["difference"] == contrast.difference == 1.0
    assert row["p_value"] == contrast.p_value
    assert math.isnan(frame.loc[("baseline", "clusters")]["difference"])
    assert len(frame) == len(result.comparison.means)


def test_generations_are_a_data_frame(result):
    frame = result.generations_to_pandas()
    assert len(frame) == 2 * 6 * 3
    assert set(frame["arm"]) == {"baseline", "diverse"}
    assert frame[frame["arm"] == "diverse"]["reward"].mean() == pytest.approx(1 / 3)


def test_a_notebook_shows_tables_and_text_stays_text(result):
    shown = result._repr_html_()
    assert shown.count("<table>") == 2
    assert "Distinct-2 +10 %" in shown
    assert "<b>" not in shown.replace("<p><b>", "")
    assert str(result).endswith(f"page: {result.folder.report}")
    assert "Distinct-2 +10 %" in str(result)


def test_pandas_is_asked_for_only_where_it_is_used(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert "Distinct-2" in str(result)
    with pytest.raises(ImportError, match="pip install pandas"):
        result.to_pandas()


def test_the_package_offers_what_a_notebook_needs():
    assert polychromic.RunResult is RunResult
    assert set(polychromic.__all__) == {"Experiment", "RunResult", "__version__", "run"}
