"""Preflight's check of the checker: it says what the checker does, also where that is nothing."""

import json

import pytest

from polychromic.experiment.config import Experiment
from polychromic.experiment.preflight import data
from polychromic.experiment.preflight.probe import CheckSkippedError, Probe
from polychromic.experiment.preflight.runner import Row, carry_out

CHECKERS = """
def broken(prompt, text):
    return prompt.meta["expected"] == text

def blind(prompt, text):
    return None if text in prompt.references else False

def good(prompt, text):
    return text in prompt.references
"""


def found(tmp_path, checker, *, references=True):
    rows = [{"prompt": f"What is {n} + {n}?"} | ({"references": [str(2 * n)]} if references else {}) for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "checks.py").write_text(CHECKERS)
    task = dict.fromkeys(("train", "validation", "test"), str(tmp_path / "rows.jsonl")) | {"embedder": "hash"}
    content = {
        "name": "small",
        "task": {"name": "custom", "checker": checker and f"{tmp_path}/checks.py:{checker}", **task},
        "model": {"source": "polychromic:arithmetic-tiny"},
        "arms": {"baseline": {"untrained": True}, "asked": {"untrained": True, "verbalized": 2}},
    }
    return data.checker_tells_good_from_bad(Probe(Experiment.from_mapping(content), tmp_path / "run"))


@pytest.mark.parametrize(
    ("checker", "references", "status", "said"),
    [
        ("good", True, "passed", "The checker tells references from bad controls. Passing: references 100 %"),
        ("broken", True, "failed", "The checker gives no reward for any of 40 control texts: KeyError: 'expected'."),
        ("blind", True, "warned", "The checker gives no reward for 8 of 8 references: the checker returned None"),
        ("broken", False, "warned", "for any of 24 control texts: KeyError: 'expected'. Passing: empty not judged"),
    ],
)
def test_a_checker_that_gives_no_reward_is_named_with_its_reason(tmp_path, checker, references, status, said):
    """Past bug: "The checker tells references from bad controls", of one that failed on every text."""
    finding = found(tmp_path, checker, references=references)
    assert finding.status == status
    assert said in finding.result
    assert "nan" not in finding.result


def test_without_a_checker_nothing_is_said_of_one(tmp_path):
    """Past bug: "The checker tells references from bad controls", where there was none."""
    with pytest.raises(CheckSkippedError, match="no checker is named"):
        found(tmp_path, None)


def test_a_task_without_validation_prompts_is_tried_on_those_that_are_evaluated(tmp_path):
    """Past bug: a traceback, as `run experiments/humaneval.yaml` ended in one."""
    problem = {"prompt": "Write one().", "tests": ["assert one() == 1"], "solution": "def one(): return 1"}
    (tmp_path / "test.jsonl").write_text(json.dumps(problem))
    content = {
        "name": "small",
        "task": {"name": "code", "test": str(tmp_path / "test.jsonl")},
        "model": {"source": "polychromic:arithmetic-tiny"},
        "arms": {"baseline": {"untrained": True}, "asked": {"untrained": True, "verbalized": 2}},
    }
    probe = Probe(Experiment.from_mapping(content), tmp_path / "run")
    report = carry_out([Row(1, "checker", data.checker_tells_good_from_bad)], probe, lambda _: None)
    assert [(check.status, check.figures["references"]) for check in report.checks] == [("passed", 1.0)]
