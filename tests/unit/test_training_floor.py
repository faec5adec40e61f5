"""A quality floor where the signal is references: cross-entropy of validation references, beside the baseline's."""

import dataclasses
import itertools
import json
import math

import pytest

from polychromic.errors import ConfigError, DataError
from polychromic.experiment.config import Experiment
from polychromic.experiment.jobs import baseline_quality, is_measured_from
from polychromic.files import read_jsonl
from polychromic.models.logprobs import answer_logprobs
from polychromic.records import Prompt, as_messages
from polychromic.run_folder import RunFolder
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training import schedule
from polychromic.training.base import ArmRun
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import ArmTrainer, train_arm

FLOOR = {"weight": "auto", "mode": "floor", "floor_margin": 0.02}


class WithReferences(ArithmeticTask):
    """A reference for each prompt; of those of validation, only every other prompt has one."""

    def prompts(self, split):
        answers = {"train": ("(1+2)*3-4", "1*2*3*4"), "validation": ("9-8+7*6", "5+5+5+5")}.get(split, ("1",))
        return [
            Prompt(
                f"{split}-{i}",
                as_messages(f"1,2,3,{i}=5:"),
                (answers[i // 2 % 2],) if split == "train" or i % 2 == 0 else (),
                {"numbers": [1, 2, 3, 4], "target": 5},
            )
            for i in range(8)
        ]


class NoValidationReferences(WithReferences):
    def prompts(self, split):
        found = super().prompts(split)
        return found if split == "train" else [dataclasses.replace(prompt, references=()) for prompt in found]


def run(tmp_path, tiny_settings, *, task=WithReferences, diversity=None, **more):
    training = TrainingSettings(
        loss="sft", steps=7, prompts_per_step=4, max_new_tokens=16, learning_rate=1e-3,
        validation_every=3, validation_prompts=3,
    )  # fmt: skip
    chosen = {"weight": 0.0, "set_size": 2, "num_samples": 4, "num_prompts": 2} | (diversity or {})
    return ArmRun(
        experiment="held-out", arm="arm", seed=0, folder=tmp_path / "run", task=task(64, 16, 16), model=tiny_settings,
        training=training, diversity=DiversitySettings(**chosen), **more,
    )  # fmt: skip


def column(job, key):
    return {row["step"]: row[key] for row in read_jsonl(job.folder / "metrics.jsonl") if key in row}


def test_a_baseline_that_is_measured_from_logs_validation_cross_entropy(tmp_path, tiny_settings):
    baseline = run(tmp_path, tiny_settings, is_measured_from=True)
    trainer = ArmTrainer(baseline)
    # Of the three first prompts with a reference, before any update.
    sequences = trainer.maker.held_out.sequences
    assert len(sequences) == 3
    answers = answer_logprobs(trainer.language_model, sequences)
    by_hand = -float((answers.logprobs_BT * answers.mask_BT).sum().detach() / answers.mask_BT.sum())

    train_arm(baseline)
    measured = column(baseline, "validation/cross_entropy")
    assert list(measured) == [1, 4, 7]
    assert measured[1] == pytest.approx(by_hand, rel=1e-5)
    assert measured[1] != measured[4] != measured[7]


def test_measuring_changes_no_update(tmp_path, tiny_settings):
    plain = run(tmp_path / "plain", tiny_settings)
    looked_at = run(tmp_path / "looked-at", tiny_settings, is_measured_from=True)
    files = [train_arm(job) / "adapter_model.safetensors" for job in (plain, looked_at)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not column(plain, "validation/cross_entropy")


@pytest.mark.parametrize(("baseline", "rises"), [(-99.0, True), (0.0, False)])
def test_the_weight_moves_where_validation_was_measured_and_nowhere_else(tmp_path, tiny_settings, baseline, rises):
    """Past bug: the floor was held on training batches, whose cross-entropy says nothing of new prompts."""
    known = tuple(baseline if step % 3 == 0 else math.nan for step in range(7))
    floor = run(tmp_path, tiny_settings, diversity=FLOOR, baseline_quality=known)
    train_arm(floor)
    weights = list(column(floor, "train/diversity_weight").values())
    moved = [later != earlier for earlier, later in itertools.pairwise(weights)]
    assert moved == [True, False, False, True, False, False]
    assert (weights[-1] > 1.0) == rises


def test_after_the_baselines_end_its_last_measurement_counts(tmp_path, tiny_settings):
    known = (-1.5, math.nan, math.nan, -1.25, math.nan)
    trainer = ArmTrainer(run(tmp_path, tiny_settings, diversity=FLOOR, baseline_quality=known))
    trainer.steps_done = 6
    assert schedule.baseline_quality(trainer.run, trainer.steps_done) == -1.25


def test_without_validation_references_a_floor_cannot_be_held(tmp_path, tiny_settings):
    with pytest.raises(DataError, match="references of validation prompts, and none has any"):
        ArmTrainer(run(tmp_path, tiny_settings, task=NoValidationReferences, diversity=FLOOR))


def experiment(**training):
    return Experiment.from_mapping({
        "name": "floors", "task": {"name": "arithmetic"}, "model": {"source": "polychromic:arithmetic-tiny"},
        "training": {"loss": "sft", "steps": 3}, "diversity": {"set_size": 2},
        "arms": {
            "floor": {"diversity": FLOOR, "training": training},
            "baseline": {"diversity": {"weight": 0.0}},
            "other": {"diversity": {"weight": 1.0}},
        },
    })  # fmt: skip


def test_the_floor_is_read_from_the_baselines_validation(tmp_path):
    folder = RunFolder(tmp_path)
    job = folder.arm("baseline", 0).root
    (job / "adapter").mkdir(parents=True)
    (job / "training.json").write_text("{}")
    rows = [
        {"step": 1, "train/quality_loss": 9.0, "validation/cross_entropy": 1.5},
        {"step": 2, "train/quality_loss": 9.0},
    ]
    (job / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    first, second = baseline_quality(experiment(), "floor", 0, folder)
    assert first == -1.5
    assert math.isnan(second)
    assert [is_measured_from(experiment(), name) for name in ("baseline", "floor", "other")] == [
        True,
        False,
        False,
    ]

    (job / "metrics.jsonl").write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(ConfigError, match=r"validation/cross_entropy of .* which has none.*--fresh"):
        baseline_quality(experiment(), "floor", 0, folder)


def test_a_floor_and_its_baseline_look_at_the_same_references_at_the_same_steps():
    with pytest.raises(ConfigError, match=r"same .*training\.validation_every and training\.validation_prompts"):
        experiment(validation_every=7)
