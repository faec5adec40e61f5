"""A metric from a file outside the package: measured on every arm, judged by a criterion, shown, hashed, and run only
where its owner says so."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polychromic.cli import app
from polychromic.errors import ConfigError, DataError
from polychromic.evaluation import METRICS, find_metric
from polychromic.experiment.external import ExternalExperiment

MINE = """
from pathlib import Path

from polychromic.evaluation import metric

Path(__file__).with_name("mark").touch()


@metric("Share with an emoji", meaning="Share of a prompt's answers with an emoji", highest=1.0)
def share_of_emoji(answers):
    return sum("\\N{SLIGHTLY SMILING FACE}" in text for text in answers.texts) / len(answers)


@metric("Too high", highest=1.0)
def too_high(answers):
    return 2.0


@metric("No number", highest=1.0)
def no_number(answers):
    return None


@metric("Endless")
def endless(answers):
    return float("inf")


@metric("Fails", highest=1.0)
def fails(answers):
    return answers.texts[99]


def plain(answers):
    return 0.0
"""
EXPERIMENT = """
name: emoji
task: {{name: custom, test: test.jsonl, checker: contains}}
evaluation: {{metrics: [{metrics}]}}
comparison:
  minimum:
    - {{metric: {criterion}, direction: {direction}}}
"""


@pytest.fixture
def place(tmp_path):
    """A file of prompts, two arms of answers, and a metric in a file of its own."""
    registered = dict(METRICS)
    (tmp_path / "mine.py").write_text(MINE)
    prompts = [{"id": f"p{n}", "prompt": f"Say {n}", "references": ["good"]} for n in range(12)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in prompts))
    for arm, ending in (("plain", "."), ("happy", " \N{SLIGHTLY SMILING FACE}")):
        lines = [{"id": one["id"], "text": f"a good {i}{ending if i else '.'}"} for one in prompts for i in range(4)]
        (tmp_path / f"{arm}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    yield tmp_path
    METRICS.clear()
    METRICS.update(registered)


def write(place: Path, metrics="mine.py:share_of_emoji", criterion="share_of_emoji", direction="higher") -> Path:
    path = place / "e.yaml"
    path.write_text(EXPERIMENT.format(metrics=metrics, criterion=criterion, direction=direction))
    return path


def files(place: Path) -> dict[str, list[str]]:
    return {arm: [str(place / f"{arm}.jsonl")] for arm in ("plain", "happy")}


def evaluate(place: Path, path: Path):
    named = [f"--generations={arm}={found[0]}" for arm, found in files(place).items()]
    return CliRunner().invoke(app, ["evaluate", str(path), *named, "--out", str(place / "out")])


def test_it_is_measured_judged_and_shown(place):
    done = evaluate(place, write(place))
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert "Yes: happy does what was asked of it." in done.output
    assert "met: Share with an emoji" in done.output
    comparison = json.loads((place / "out" / "emoji" / "comparison.json").read_text())
    means = {one["arm"]: one["mean"] for one in comparison["means"] if one["metric"] == "share_of_emoji"}
    assert means == {"plain": 0.0, "happy": 0.75}
    assert comparison["signatures"]["share_of_emoji"].startswith("share_of_emoji|")
    page = (place / "out" / "emoji" / "report.html").read_text()
    assert "Share with an emoji rose by" in page
    assert "Share of a prompt&#39;s answers with an emoji" in page


def test_reading_or_reporting_a_folder_runs_no_code_unasked(place):
    assert evaluate(place, write(place)).exit_code == 0
    (place / "mark").unlink()
    METRICS.pop("share_of_emoji")
    (place / "mine.py").write_text(MINE + "\n# changed, so that the file is run again\n")
    folder = ["report", str(place / "out" / "emoji")]
    error = CliRunner().invoke(app, folder).exception
    assert isinstance(error, ConfigError)
    assert "mine.py:share_of_emoji, which runs that code here; add --yes where you trust it" in str(error)
    assert not (place / "mark").exists()
    assert CliRunner().invoke(app, [*folder, "--yes"]).exit_code == 0
    assert (place / "mark").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"metrics": "mine.py:nothing"}, "does not define nothing"),
        ({"metrics": "mine.py:plain"}, "is a function that is not registered; write @metric"),
        ({"metrics": "share_of_emoji"}, "expected path/to/file.py:name or module:name"),
        ({"direction": "lower"}, "direction lower, but higher is better here"),
        ({"criterion": "share_of_smiles"}, "'share_of_smiles' is not known.*evaluation.metrics names"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_measured(place, options, expected):
    with pytest.raises(ConfigError, match=f"(?s){expected}"):
        ExternalExperiment.from_file(write(place, **options), files(place))


def test_a_value_beyond_the_bounds_is_refused(place):
    error = evaluate(place, write(place, "mine.py:too_high", "too_high")).exception
    assert isinstance(error, DataError)
    assert "metric too_high = 2 for prompt 'p0'; its values lie between 0 and 1" in str(error)


def test_an_infinite_value_is_refused(place):
    """Past bug: it was taken, and differences, intervals and p-values of the metric were nan."""
    error = evaluate(place, write(place, "mine.py:endless", "endless")).exception
    assert isinstance(error, DataError)
    assert "metric endless = inf for prompt 'p0'; its values lie between 0 and inf, and are finite or nan" in str(error)


@pytest.mark.parametrize(
    ("name", "said"), [("no_number", "TypeError: float"), ("fails", "IndexError: .*mine.py, line 31")]
)
def test_a_metric_that_fails_is_named_with_its_line(place, name, said):
    """Past bug: it ended the command in a traceback."""
    error = evaluate(place, write(place, f"mine.py:{name}", name)).exception
    assert isinstance(error, DataError)
    assert re.search(rf"metric {name} for prompt 'p0': {said}", str(error))


def test_a_copy_of_an_experiment_is_read_beside_the_original(place):
    """Past bug: its metric was taken for another one of the same key."""
    (place / "copy.py").write_text(MINE)
    for name in ("mine.py", "copy.py", "mine.py"):
        ExternalExperiment.from_file(write(place, f"{name}:share_of_emoji"), files(place))
    assert find_metric("share_of_emoji").name == "Share with an emoji"


def test_a_metric_may_be_edited_and_loaded_again_but_a_key_is_taken_once(place):
    ExternalExperiment.from_file(write(place), files(place))
    (place / "mine.py").write_text(MINE.replace("Share with an emoji", "Smiles"))
    ExternalExperiment.from_file(write(place), files(place))
    assert find_metric("share_of_emoji").name == "Smiles"
    (place / "other.py").write_text(MINE)
    with pytest.raises(ConfigError, match="is that of another metric"):
        ExternalExperiment.from_file(write(place, "other.py:share_of_emoji"), files(place))
