"""A sample of the trials that `make attack` makes in full: damage to a file of a run folder, and a verb after it."""

import json
import random

import pytest
from tests.attack.damage import JOB, attempt, trials
from tests.command import command

SAMPLED = 20


def some_trials():
    quick = [trial for trial in trials() if trial.verb in ("cost", "diagnose", "report")]
    return random.Random(0).sample(quick, SAMPLED)


@pytest.mark.parametrize("trial", some_trials(), ids=str)
def test_damage_is_a_sentence_or_is_mended(trial, whole, tmp_path):
    assert attempt(trial, whole, tmp_path / "damaged") == ""


@pytest.mark.parametrize("name", ["comparison.json", "report.html", "report.md", "diagnosis.json", "figures/pass.svg"])
def test_what_is_derived_is_made_again(root, whole, name):
    (root / name).write_bytes(b'{"a": \xff')
    ending = command("report", str(root))
    assert (ending.code, ending.crash) == (0, "")
    assert (root / name).read_bytes() == (whole / name).read_bytes()


def test_a_damaged_comparison_takes_only_the_gains_from_the_cost(root):
    (root / "comparison.json").write_text('{"verdict": []}')
    ending = command("cost", str(root))
    assert ending.code == 0
    assert "spent: " in ending.output


def test_a_damaged_preflight_is_made_again_and_said(root, caplog):
    from polychromic.files import read_derived

    (root / "preflight.json").write_text('{"passed": "yes", "checks": []}')
    assert read_derived(root / "preflight.json") is None
    assert "preflight.json: damaged (passed: expected true or false, found 'yes'); delete it" in caplog.text


def test_a_row_of_another_shape_is_named_by_file_line_and_key(root):
    ledger = root / "ledger.jsonl"
    rows = [json.loads(line) for line in ledger.read_text().splitlines()]
    rows[1]["seconds"] = "long"
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    message = command("cost", str(root)).errors
    assert f"{ledger}:2: damaged (seconds: expected a number, found 'long'); put a copy back" in message


def test_the_metrics_of_a_job_say_how_to_train_it_again(root):
    (root / JOB / "metrics.jsonl").write_text("[]\n")
    assert "the next run trains that arm and seed again" in command("diagnose", str(root)).errors
