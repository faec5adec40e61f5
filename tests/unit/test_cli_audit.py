"""`polychromic audit`: the published score's weakness by numbers, and the arms of an experiment file."""

from typing import get_args

import pytest
from typer.testing import CliRunner

from polychromic.cli import app
from polychromic.errors import ConfigError
from polychromic.objective import OBJECTIVES
from polychromic.objective.scores import GateRule


def audit(*arguments):
    result = CliRunner().invoke(app, ["audit", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_the_published_score_prefers_being_wrong():
    out = audit("--objective", "polychromic", "--set-size", "4", "--wrong-clusters", "1,3,6")
    for wrong, share in (
        ("1 wrong cluster", "0.794"),
        ("3 wrong clusters", "0.718"),
        ("6 wrong clusters", "0.693"),
    ):
        assert f"{wrong}: P(correct) = {share}, 1.00 of 1 correct answer in use" in out
    assert out.count("warning: being wrong pays") == 3


def test_coverage_is_right_and_even():
    out = audit("--objective", "coverage", "--correct-modes", "3", "--wrong-clusters", "2")
    assert "P(correct) = 1.000, 3.00 of 3 correct answers in use" in out
    assert "warning" not in out


def test_every_arm_of_a_file_is_audited_with_its_weight():
    out = audit("experiments/arithmetic-weights.yaml", "--correct-modes", "2", "--wrong-clusters", "2")
    assert "baseline: no diversity term" in out
    assert "conservative: reward + 0.3 × coverage, K = 4" in out
    assert "floor: reward + 1 (tuned while training; audited at 1) × coverage" in out
    assert out.count("P(correct) = 1.000") == 4


def test_where_no_right_answer_is_in_use_no_number_is_made_up():
    """It said "nan of 1 correct answers in use"."""
    out = audit("--objective", "distance", "--wrong-clusters", "2")
    assert "2 wrong clusters: P(correct) = 0.000, none of 1 correct answer in use" in out
    assert "being wrong costs nothing" in out


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("gate", get_args(GateRule))
def test_any_objective_and_gate_of_an_experiment_file(objective, gate):
    changes = (f"diversity.objective={objective}", f"diversity.gate={gate}", "diversity.set_size=3")
    out = audit("experiments/quickstart.yaml", *changes, "--wrong-clusters", "2", "--correct-modes", "2")
    assert f"reward + 1.5 × {objective}, K = 3, gate: {gate}" in out
    assert out.count("P(correct) = ") == 1
    assert "sampled subsets" not in out


def test_an_arm_whose_subsets_are_sampled_in_training_says_so():
    vendi = ("diversity.objective=vendi", "diversity.set_size=4", "training.num_samples=24")
    out = audit("experiments/quickstart.yaml", *vendi, "--wrong-clusters", "1")
    assert "training scores 2048 sampled subsets of the 10626 that 24 generations have" in out


def test_an_override_changes_what_is_audited():
    out = audit("experiments/quickstart.yaml", "diversity.objective=polychromic", "--wrong-clusters", "3")
    assert "reward + 1.5 × polychromic" in out


def test_a_file_trained_from_references_says_what_stands_in_for_them():
    out = audit("experiments/replies.yaml", "--wrong-clusters", "1")
    assert "moderate: share of right answers, standing in for references + 1 × distance, K = 2, gate: product" in out


@pytest.mark.parametrize("option", ["--set-size 8", "--objective vendi", "--gate none", "--diversity-weight 2"])
def test_an_objective_beside_a_file_is_refused_and_not_passed_over(option):
    name, value = option.split()
    error = CliRunner().invoke(app, ["audit", "experiments/quickstart.yaml", name, value]).exception
    assert isinstance(error, ConfigError)
    assert str(error).startswith(f"{name}: the arms of experiments/quickstart.yaml state their own objective; leave")
    assert "wrong clusters" in audit("experiments/quickstart.yaml", "diversity.set_size=7", "--wrong-clusters", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective", "beauty"], "audit: objective is 'beauty'"),
        (["--wrong-clusters", "few"], "expected whole numbers such as 1,3,6"),
        (["--set-size", "0"], "set_size is 0"),
        (["--objective", "distance", "--set-size", "1"], "set_size is 1, expected at least 2 for 'distance'"),
        (["--gate", "soft"], "gate is 'soft'"),
    ],
)
def test_bad_values_are_one_message(arguments, message):
    with pytest.raises(ConfigError, match=message):
        audit(*arguments)
