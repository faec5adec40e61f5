"""A run folder received from somebody else is read, and none of the code that it names runs unasked."""

import json

import pytest
from typer.testing import CliRunner

from polychromic.cli import app
from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment
from polychromic.experiment.resuming.folder import resolved_yaml
from polychromic.experiment.run import compare_and_report
from polychromic.files import append_jsonl, write_text
from polychromic.records import GenerationRow
from polychromic.run_folder import RunFolder

PROMPTS = [f"p{index}" for index in range(8)]


@pytest.fixture
def stranger(tmp_path):
    """A checker that leaves a mark wherever it is loaded, the file of its task's prompts, and the mark."""
    mark = tmp_path / "mark"
    (tmp_path / "checker.py").write_text(
        f"open({str(mark)!r}, 'a').close()\n\n\ndef check(prompt, text):\n    return float('good' in text)\n"
    )
    lines = [json.dumps({"id": one, "prompt": f"Say {one}", "references": ["good"]}) for one in PROMPTS]
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path, mark


@pytest.fixture
def folder(stranger):
    root, _ = stranger
    data = str(root / "test.jsonl")
    experiment = Experiment.from_mapping({
        "name": "received", "model": {"source": "nowhere/at-all"},
        "task": {"name": "custom", "train": data, "validation": data, "test": data,
                 "checker": f"{root / 'checker.py'}:check"},
        "arms": {"baseline": {"untrained": True}, "other": {"untrained": True}},
        "evaluation": {"num_prompts": len(PROMPTS), "num_samples": 2},
        "comparison": {"minimum": [{"metric": "pass@1"}]},
    })  # fmt: skip
    folder = RunFolder(root / "received")
    way = experiment.evaluation.sampling_parameters()[0]
    for arm in experiment.arms:
        rows = [
            GenerationRow(prompt, index, f"a good one {index}", 4, "stop", way, 0, reward=1.0)
            for prompt in PROMPTS
            for index in range(2)
        ]
        append_jsonl(folder.arm(arm, 0).generations, [row.to_json() for row in rows])
    write_text(folder.experiment, resolved_yaml(experiment))
    return experiment, folder


def test_a_report_does_not_run_the_checker_and_keeps_what_is_recorded_of_it(folder, stranger):
    """Past bug: `report` on a stranger's folder ran the checker that its file names."""
    experiment, run = folder
    _, mark = stranger
    made = compare_and_report(experiment, run)
    assert made.checker is not None
    page = run.report.read_bytes()
    assert mark.exists()
    mark.unlink()
    for verb in ("report", "cost"):
        done = CliRunner().invoke(app, [verb, str(run.root)])
        assert done.exit_code == 0, done.output + repr(done.exception)
    assert not mark.exists()
    assert run.report.read_bytes() == page


def test_a_report_without_a_record_says_nothing_of_the_checker(folder, stranger):
    _, run = folder
    done = CliRunner().invoke(app, ["report", str(run.root)])
    assert done.exit_code == 0, done.output + repr(done.exception)
    assert json.loads(run.comparison.read_text())["checker"] is None
    assert not stranger[1].exists()


def test_files_that_are_checked_anew_ask_first(stranger):
    root, mark = stranger
    for arm in ("a", "b"):
        lines = [json.dumps({"id": one, "text": f"good {arm} {i}"}) for one in PROMPTS for i in range(2)]
        (root / f"{arm}.jsonl").write_text("\n".join(lines) + "\n")
    (root / "e.yaml").write_text("name: files\ntask: {name: custom, test: test.jsonl, checker: checker.py:check}\n")
    files = [f"--generations={arm}={root / arm}.jsonl" for arm in ("a", "b")]
    made = CliRunner().invoke(app, ["evaluate", str(root / "e.yaml"), *files, "--out", str(root / "out")])
    assert made.exit_code == 0, made.output + repr(made.exception)
    mark.unlink()
    again = ["report", str(root / "out" / "files")]
    error = CliRunner().invoke(app, again).exception
    assert isinstance(error, ConfigError)
    assert "checker.py:check, which runs that code here; add --yes where you trust it" in str(error)
    assert not mark.exists()
    assert CliRunner().invoke(app, [*again, "--yes"]).exit_code == 0
