"""Preflight finds planted faults before anything is trained, and says the fix."""

import json
import shutil
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from polychromic.cli import app
from polychromic.errors import ModelError, PreflightError
from polychromic.experiment.config import Experiment
from polychromic.experiment.jobs import Job, carry_out
from polychromic.experiment.preflight import preflight
from polychromic.experiment.preflight.probe import Probe
from polychromic.experiment.preflight.runner import require_preflight
from polychromic.experiment.preflight.training import (
    ProbedArm,
    _makespan,
    diversity_gradient_reaches_the_weights,
)
from polychromic.experiment.resuming.provenance import threads_of_a_job
from polychromic.experiment.run import run
from polychromic.run_folder import RunFolder
from polychromic.seeding import deterministic

SMALL = {
    "name": "small",
    "task": {"name": "arithmetic", "train_problems": 64, "validation_problems": 20, "test_problems": 12},
    "model": {"source": "polychromic:arithmetic-tiny", "adapter": {"rank": 4}},
    "training": {
        "loss": "rl", "steps": 20, "prompts_per_step": 4, "num_samples": 8, "max_new_tokens": 16,
    },
    "diversity": {"objective": "coverage", "set_size": 4},
    "arms": {"baseline": {}, "coverage": {"diversity": {"weight": 1.0}}},
    "evaluation": {"num_prompts": 12, "num_samples": 16, "max_new_tokens": 16},
}  # fmt: skip


def small(**changes):
    return Experiment.from_mapping({**SMALL, **changes})


def results(experiment, tmp_path):
    report = preflight(experiment, tmp_path / "runs" / experiment.name)
    return report, {check.name: check for check in report.checks}


def test_a_sound_experiment_passes_and_is_priced(tmp_path):
    report, checks = results(small(), tmp_path)
    assert not report.failed
    assert [check.number for check in report.checks] == list(range(1, 15))
    gradient = checks["diversity gradient"].figures["coverage"]
    assert 0 < gradient["share"] < 1
    # The share at the λ that is said to give 30 %: q / (q + λd) from share and λ.
    odds = gradient["share"] / (1 - gradient["share"]) * gradient["weight_for_30_percent"]
    assert odds / (1 + odds) == pytest.approx(0.3)
    total = checks["time and money"].figures
    # 2 arms × 1 seed: 20 steps × 32 generations and 12 × 16 generations, of about 8 tokens; the untrained model's.
    assert total["tokens"] == pytest.approx((2 * (20 * 32 + 12 * 16) + 12 * 16) * 8, rel=0.25)
    assert not (tmp_path / "runs").exists()
    json.dumps(report.to_json(), allow_nan=False)


def test_a_weight_too_small_to_matter_is_named(tmp_path):
    _, checks = results(small(arms={"baseline": {}, "faint": {"diversity": {"weight": 1e-6}}}), tmp_path)
    assert checks["diversity gradient"].status == "warned"
    assert "faint: under 1 % of the gradient" in checks["diversity gradient"].fix


@pytest.mark.parametrize(("every", "status"), [(25, "warned"), (4, "passed")])
def test_a_weight_that_has_no_steps_to_tune_itself_at_is_named(tmp_path, every, status):
    """Past bug: of `weight: auto, mode: share` in a run of 20 steps λ moved once, and nobody said so."""
    tuned = {"diversity": {"weight": "auto", "mode": "share"}}
    experiment = small(
        arms={"baseline": {}, "tuned": tuned}, training={**SMALL["training"], "gradient_share_every": every}
    )
    probe = Probe(experiment, tmp_path)
    measured = SimpleNamespace(measurement=SimpleNamespace(quality_norm=1.0, diversity_norm=1.0))
    probe.arms = {"tuned": ProbedArm(measured, 1.0, 1.0, 8.0, 0.0)}
    found = diversity_gradient_reaches_the_weights(probe)
    assert found.status == status
    assert ("tuned has 1 of its steps to tune λ at" in found.result) == (status == "warned")


def test_groups_of_one_answer_fail_the_gradient_probe(tmp_path):
    training = {**SMALL["training"], "temperature": 1e-5}
    report, checks = results(small(training=training), tmp_path)
    assert checks["diversity gradient"].status == "failed"
    assert "all generations of every group are the same" in checks["diversity gradient"].result
    assert [check.name for check in report.failed] == ["diversity gradient"]


def files_task(tmp_path, checker, **more):
    (tmp_path / "checkers.py").write_text(checker)
    for split in ("train", "validation", "test"):
        rows = [
            {"id": f"{split}-{i}", "prompt": f"{i},2,3,4={i + 9}:", "references": [f"{i}+2+3+4"]} for i in range(1, 9)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}
    return {"name": "custom", **files, "checker": f"{tmp_path / 'checkers.py'}:check", **more}


def test_a_checker_that_passes_everything_is_called_lenient(tmp_path):
    """The origin's checker: at least ten characters."""
    task = files_task(tmp_path, "def check(prompt, text):\n    return float(len(text) >= 10)\n")
    evaluation = {**SMALL["evaluation"], "num_prompts": 8}
    _, checks = results(small(task=task, evaluation=evaluation), tmp_path)
    assert checks["checker"].status == "warned"
    assert "lenient" in checks["checker"].result
    assert checks["checker"].figures["repeated word"] == 1.0


def test_training_from_references_is_probed_on_plain_and_on_sampling_steps(tmp_path):
    """A step without a diversity term samples no tokens: the probe once fell over the first one."""
    training = SMALL["training"] | {"loss": "sft"}
    task = files_task(tmp_path, "def check(prompt, text):\n    return float('*' in text)\n")
    evaluation = SMALL["evaluation"] | {"num_prompts": 8}
    _, checks = results(small(task=task, training=training, evaluation=evaluation), tmp_path)
    assert checks["diversity gradient"].figures["coverage"]["share"] > 0
    # 20 steps, each third of which samples 4 prompts × 5 answers in one arm; 8 × 16 of each arm, and of the untrained
    # model, at the end.
    tokens = checks["time and money"].figures["tokens"]
    assert tokens == pytest.approx((7 * 4 * 5 + 3 * 8 * 16) * 8, rel=0.3)


def test_prompts_in_training_and_test_are_named(tmp_path):
    task = files_task(tmp_path, "def check(prompt, text):\n    return 0.5\n")
    evaluation = {**SMALL["evaluation"], "num_prompts": 8}
    _, checks = results(small(task=task, evaluation=evaluation), tmp_path)
    assert checks["data"].status == "warned"
    said = "8 of 8 evaluated prompts are also in training: 8 word for word (first: test-1)"
    assert said in checks["data"].result


def test_criteria_that_the_untrained_model_rules_out_are_named(tmp_path):
    task = files_task(tmp_path, "def check(prompt, text):\n    return 1.0\n")
    evaluation = {**SMALL["evaluation"], "num_prompts": 8}
    criteria = {"minimum": [{"metric": "pass@10", "direction": "higher", "relative_change": 0.25}]}
    _, checks = results(small(task=task, evaluation=evaluation, comparison=criteria), tmp_path)
    assert checks["feasibility"].status == "warned"
    assert "needs 1.25" in checks["feasibility"].result
    assert "cannot exceed 1" in checks["feasibility"].result


def test_a_missing_model_ends_preflight_after_the_checks_that_need_none(tmp_path):
    report, checks = results(small(model={"source": "./not-there"}), tmp_path)
    assert "there is no folder './not-there'" in checks["model"].result
    assert checks["checker"].status == "passed"
    assert checks["data"].status == "passed"
    assert [check.name for check in report.failed] == ["model"]
    not_run = [check.name for check in report.checks if check.result == "not run: model failed"]
    assert not_run == [
        "longest batch", "other models", "feasibility", "same answers", "diversity gradient", "diversity measures",
        "time and money",
    ]  # fmt: skip
    assert checks["disk"].status == "skipped"


def test_quantization_without_a_gpu_is_one_clear_line(tmp_path):
    _, checks = results(small(model={**SMALL["model"], "quantization": "nf4"}), tmp_path)
    assert "needs a CUDA device" in checks["versions and device"].result


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine can do it")
def test_the_qwen_experiment_says_at_once_what_it_needs(tmp_path):
    """It once asked the hub for the model, and tried again for a minute, before saying so."""
    experiment = Experiment.from_file("experiments/qwen3-8b-replies.yaml")
    with pytest.raises(ModelError, match=r"^model.quantization: nf4 \(QLoRA\) needs a CUDA device"):
        run(experiment, out=tmp_path)


def test_a_full_disk_fails(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 99, 1))
    _, checks = results(small(), tmp_path)
    assert checks["disk"].status == "failed"
    assert "--out" in checks["disk"].fix


def test_run_stops_before_training_and_can_be_told_not_to_look(tmp_path):
    cold = small(training={**SMALL["training"], "temperature": 1e-5, "steps": 2})
    with pytest.raises(
        PreflightError,
        match=r"nothing was trained\n  12 diversity gradient: (.|\n)*not run, since that decides: time and money",
    ):
        run(cold, out=tmp_path)
    assert not (tmp_path / "small" / "baseline").exists()
    assert json.loads((tmp_path / "small" / "preflight.json").read_text())["passed"] is False
    unchecked = cold.model_copy(update={"run": cold.run.model_copy(update={"preflight": False})})
    assert run(unchecked, out=tmp_path).comparison.n_prompts == 12


def test_the_run_keeps_what_preflight_sampled(tmp_path):
    experiment = small(training={**SMALL["training"], "steps": 1})
    folder = RunFolder(tmp_path)
    require_preflight(experiment, folder)
    kept = folder.arm("untrained", 0).generations.read_text()
    assert len(kept.splitlines()) == 12 * 16
    require_preflight(experiment, folder)  # it has passed: nothing is sampled again
    assert folder.arm("untrained", 0).generations.read_text() == kept
    # The job itself samples the very same.
    with deterministic(threads_of_a_job(experiment)):
        carry_out(Job(experiment, "untrained", 0, tmp_path / "other", ("evaluate",)), lambda _: None)
    assert RunFolder(tmp_path / "other").arm("untrained", 0).generations.read_text() == kept


def test_a_preflight_that_fails_leaves_nothing_that_holds_one_to_its_settings(tmp_path):
    cold = small(training={**SMALL["training"], "temperature": 1e-5, "steps": 2})
    with pytest.raises(PreflightError):
        require_preflight(cold, RunFolder(tmp_path))
    assert not (tmp_path / "untrained").exists()


def test_the_verb_ends_with_1_and_prints_json(tmp_path):
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps({**SMALL, "model": {"source": "./not-there"}}))
    result = CliRunner().invoke(app, ["preflight", str(file), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["passed"] is False


def test_an_experiment_without_trained_arms_is_checked_too(tmp_path):
    """Room on disk was taken from the checkpoints of trained arms, of which there were none."""
    content = {key: value for key, value in SMALL.items() if key not in ("training", "diversity")}
    arms = {"baseline": {"untrained": True}, "same": {"untrained": True}}
    report, checks = results(Experiment.from_mapping({**content, "arms": arms}), tmp_path)
    assert not report.failed
    assert checks["longest batch"].result.startswith("no arm is trained")
    assert checks["time and money"].figures["tokens"] == pytest.approx(2 * 12 * 16 * 8, rel=0.25)


def test_workers_take_the_next_job_as_they_become_free():
    assert _makespan([3.0, 1.0, 1.0, 1.0], workers=2) == 3.0
    assert _makespan([1.0, 1.0, 3.0], workers=2) == 4.0
    assert _makespan([1.0, 2.0], workers=1) == 3.0
