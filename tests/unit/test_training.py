"""Training: resumable bit for bit, never silently at λ = 0, adapters that plain PEFT loads."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from polychromic.errors import CheckerError, DataError, TrainingError
from polychromic.files import read_jsonl, write_json
from polychromic.models.decoding import decode_samples
from polychromic.models.loading import load_base
from polychromic.records import Check, SamplingParameters
from polychromic.sampling.local import LocalSampler
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training.artifacts import is_trained
from polychromic.training.base import ArmRun
from polychromic.training.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from polychromic.training.rollouts import sample_groups
from polychromic.training.schedule import schedule_factor, step_prompts, total_steps
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import ArmTrainer, train_arm


def settings(**changes):
    values = {
        "loss": "rl", "steps": 4, "prompts_per_step": 4, "num_samples": 4, "max_new_tokens": 16,
        "learning_rate": 1e-3, "checkpoint_every": 1, "gradient_share_every": 2,
    }  # fmt: skip
    return TrainingSettings(**(values | changes))


@pytest.fixture
def run(tmp_path, tiny_settings):
    return ArmRun(
        experiment="test", arm="coverage", seed=0, folder=tmp_path / "run", task=ArithmeticTask(64, 16, 16),
        model=tiny_settings, training=settings(), diversity=DiversitySettings(weight=1.0, set_size=2),
    )  # fmt: skip


def weights(adapter: Path):
    return load_file(adapter / "adapter_model.safetensors")


def untimed_metrics(run):
    rows = read_jsonl(run.folder / "metrics.jsonl")
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def test_a_run_stopped_after_any_step_ends_bit_identical(run, tmp_path):
    whole = weights(train_arm(run))
    for stop in (1, 3):
        other = dataclasses.replace(run, folder=tmp_path / f"stopped-{stop}")
        trainer = ArmTrainer(other)
        for _ in range(stop):
            trainer.step()
        resumed = weights(train_arm(other))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
        assert untimed_metrics(run) == untimed_metrics(other)


def test_decoding_has_a_batch_size_apart_from_the_backward_pass(run, tmp_path, monkeypatch):
    """Both bound memory: neither changes which answers are drawn, nor, but for rounding, what is learnt."""
    sizes = []

    def counted(language_model, prompts, num_samples, *arguments):
        sizes.append(len(prompts) * num_samples)
        return decode_samples(language_model, prompts, num_samples, *arguments)

    monkeypatch.setattr("polychromic.sampling.local.decode_samples", counted)
    learnt, drawn = [], []
    for micro, decode, most in ((256, None, 16), (2, 8, 8), (8, None, 8), (2, 16, 16)):
        sizes.clear()
        other = dataclasses.replace(
            run,
            folder=tmp_path / f"{micro}-{decode}",
            training=settings(steps=1, micro_batch_size=micro, max_decode_batch=decode),
        )
        learnt.append(weights(train_arm(other)))
        drawn.append(untimed_metrics(other)[0]["generation/total_tokens"])
        assert sizes == [most] * (16 // most)
    assert len(set(drawn)) == 1
    for other in learnt[1:]:
        for name, tensor in learnt[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_checkpoint_is_written_after_some_minutes_whatever_the_number_of_steps(run, monkeypatch):
    """Past bug: a kill without warning cost up to fifty steps, which are hours where a step takes minutes."""
    trainer = ArmTrainer(dataclasses.replace(run, training=settings(checkpoint_every=50)))
    trainer.step()
    assert latest_checkpoint(run.folder / "checkpoints") is None
    monkeypatch.setattr("polychromic.training.trainer._LONGEST_BETWEEN_CHECKPOINTS", 0.0)
    trainer.step()
    kept = latest_checkpoint(run.folder / "checkpoints")
    assert kept is not None and kept.step == 2


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(run, tmp_path, caplog):
    whole = weights(train_arm(run))
    other = dataclasses.replace(run, folder=tmp_path / "other")
    trainer = ArmTrainer(other)
    for _ in range(3):
        trainer.step()
    newest = sorted((other.folder / "checkpoints").iterdir())[-1]
    content = bytearray((newest / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "weights.safetensors").write_bytes(bytes(content))
    assert all(torch.equal(whole[name], tensor) for name, tensor in weights(train_arm(other)).items())
    assert "damaged" in caplog.text


@pytest.mark.parametrize("content", ["{}", "[]", "", '{"step": 3, "sha256": 1}', None])
def test_a_checkpoint_whose_state_is_damaged_is_passed_over(run, content, caplog):
    trainer = ArmTrainer(run)
    for _ in range(3):
        trainer.step()
    before, newest = sorted((run.folder / "checkpoints").iterdir())[-2:]
    state = newest / "state.json"
    # A digit changed is JSON all the same.
    state.write_text(state.read_text().replace('"step": 3', '"step": 2') if content is None else content)
    assert f"step-{latest_checkpoint(run.folder / 'checkpoints').step:06d}" == before.name
    assert "taking the checkpoint before it" in caplog.text


def checkpoint(step):
    return Checkpoint(step, {"a": torch.full((2,), float(step))}, {"a|step": torch.tensor(step)}, {"n": step})


def steps_kept(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())


def test_the_last_few_checkpoints_are_kept_by_number(tmp_path):
    """Past bug: sorted by name, step 1,000,000 came before step 999,999 and was deleted as the oldest."""
    for step in (999_998, 999_999, 1_000_000):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert steps_kept(tmp_path) == [999_999, 1_000_000]
    assert latest_checkpoint(tmp_path).step == 1_000_000


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_checkpoint_does_not_push_out_a_whole_one(tmp_path, caplog, keep):
    """Past bug: a damaged later checkpoint counted as kept, so that one saved before it was deleted at once."""
    for step in (50, 100):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    (tmp_path / "step-000100" / "weights.safetensors").write_bytes(b"torn")
    assert latest_checkpoint(tmp_path).step == 50
    save_checkpoint(tmp_path, checkpoint(60), keep=keep)
    assert steps_kept(tmp_path) == [50, 60][-keep:]
    assert latest_checkpoint(tmp_path).step == 60


def test_where_no_checkpoint_is_whole_it_is_said(tmp_path, caplog):
    save_checkpoint(tmp_path, checkpoint(50), keep=2)
    (tmp_path / "step-000050" / "optimizer.safetensors").unlink()
    assert latest_checkpoint(tmp_path) is None
    assert "optimizer.safetensors" in caplog.text
    assert "none before it: starting anew" in caplog.text


@pytest.mark.parametrize("name", ["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "training.json"])
@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_finished_adapter_is_made_again_where_any_of_its_files_is_damaged(run, name, damage, caplog):
    whole = {path: path.read_bytes() for path in sorted(train_arm(run).iterdir())}
    file = run.folder / name
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-3])
    assert not is_trained(run.folder)
    assert damage == "removed" or "missing or damaged; it is made again" in caplog.text
    assert {path: path.read_bytes() for path in sorted(train_arm(run).iterdir())} == whole
    assert is_trained(run.folder)


def test_an_adapter_of_an_earlier_version_without_hashes_counts_as_trained(run):
    train_arm(run)
    write_json(run.folder / "training.json", {"steps": 3})
    assert is_trained(run.folder)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # newer transformers
def test_the_adapter_loads_with_plain_peft_and_differs_from_the_base(run, tiny_settings):
    from peft import PeftModel

    adapter = train_arm(run)
    base, tokenizer = load_base(tiny_settings)
    ids = torch.tensor([tokenizer.encode("1,2,3,4=10:")])
    with torch.inference_mode():
        before = base(input_ids=ids).logits
        after = PeftModel.from_pretrained(base, str(adapter))(input_ids=ids).logits
    assert (before - after).abs().max() > 1e-3


def test_the_adapter_configuration_is_the_same_bytes_in_every_process(run):
    """Past bug: peft writes a set, whose order follows the process's hash seed."""
    config = json.loads((train_arm(run) / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert len(config["target_modules"]) == 7


def test_arms_of_one_seed_start_alike_and_part_by_their_weight(run, tmp_path):
    baseline = dataclasses.replace(
        run, arm="baseline", folder=tmp_path / "baseline", diversity=DiversitySettings(weight=0.0)
    )
    one, other = ArmTrainer(run), ArmTrainer(baseline)
    for name, parameter in one.language_model.model.named_parameters():
        assert torch.equal(parameter, dict(other.language_model.model.named_parameters())[name])
    assert step_prompts(one.run, one.prompts, 0) == step_prompts(other.run, other.prompts, 0)
    a, b = weights(train_arm(run)), weights(train_arm(baseline))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_gradient_share_is_logged_beside_loss_share(run):
    train_arm(run)
    rows = read_jsonl(run.folder / "metrics.jsonl")
    assert all("train/diversity_loss_share" in row for row in rows)
    shares = [row["train/diversity_gradient_share"] for row in rows if "train/diversity_gradient_share" in row]
    assert len(shares) == 2  # every second of four steps
    assert all(0 < share < 1 for share in shares)


def test_measuring_the_gradient_share_changes_no_gradient(run):
    gradients = []
    for every in (1, 1000):
        trainer = ArmTrainer(dataclasses.replace(run, training=settings(gradient_share_every=every)))
        outcome = trainer.maker.make(1, trainer.prompts[:32], weight=0.7)
        assert (outcome.measurement is None) == (every == 1000)
        gradients.append([parameter.grad.clone() for parameter in trainer.parameters])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


class OneAnswer(ArithmeticTask):
    """Every answer counts as the same and passes: no set of answers is more diverse than another."""

    def check(self, prompts, texts):
        return [Check(1.0)] * len(texts)

    def cluster(self, prompt, text):
        return "same"


def test_a_diversity_term_without_gradient_stops_the_run_and_says_why(run):
    """The mistake that this project began with: λ > 0 and a gradient of zero, at every λ."""
    silent = dataclasses.replace(
        run,
        task=OneAnswer(64, 16, 16),
        training=settings(steps=50),
        diversity=DiversitySettings(weight=2.0, set_size=2, max_zero_gradient_steps=3),
    )
    with pytest.raises(TrainingError, match=r"λ = 2.*no gradient for 3 diversity steps.*all generations .* the same"):
        train_arm(silent)
    assert len(read_jsonl(silent.folder / "metrics.jsonl")) == 2


class BrokenChecker(ArithmeticTask):
    """Fails on everything."""

    def check(self, prompts, texts):
        return [Check(None, "service unavailable")] * len(texts)


def test_a_failing_checker_stops_the_run_with_its_reason(run):
    with pytest.raises(CheckerError, match=r"failed on 100% .* service unavailable"):
        train_arm(dataclasses.replace(run, task=BrokenChecker(64, 16, 16)))


def test_early_stopping_keeps_the_best_adapter(run):
    from polychromic.training.settings import EarlyStopping

    stopping = EarlyStopping(check_every=1, num_prompts=4, num_samples=2, patience=1, min_improvement=0.9)
    early = dataclasses.replace(run, training=settings(steps=30, early_stopping=stopping))
    train_arm(early)
    assert len(read_jsonl(early.folder / "metrics.jsonl")) < 30
    shutil.rmtree(early.folder / "checkpoints")


class Unchecked(ArithmeticTask):
    """Its checker fails on validation prompts, whose rows lack something, or it has none of them."""

    def check(self, prompts, texts):
        is_train = {prompt.id for prompt in self.prompts("train")}
        return [Check(1.0) if prompt.id in is_train else Check(None, "no target") for prompt in prompts]


def test_early_stopping_without_rewards_says_so(run, monkeypatch):
    """Past bug: the mean of no reward rose in no check, and training ended early without a word."""
    from polychromic.training.settings import EarlyStopping

    chosen = settings(steps=30, early_stopping=EarlyStopping(check_every=1, num_prompts=4, num_samples=2, patience=1))
    early = dataclasses.replace(run, training=chosen, task=Unchecked(64, 16, 16), diversity=DiversitySettings())
    with pytest.raises(CheckerError, match=r"the checker failed on 100% .*no target"):
        train_arm(early)
    prompts = Unchecked.prompts
    monkeypatch.setattr(Unchecked, "prompts", lambda self, split: prompts(self, split) if split == "train" else [])
    with pytest.raises(DataError, match="early_stopping follows the reward of validation prompts, and there are none"):
        train_arm(early)


def test_cross_entropy_learns_the_references_and_their_end(run, tmp_path):
    from itertools import islice

    from polychromic.records import Prompt, as_messages
    from polychromic.tasks.arithmetic import random_problems

    pairs = list(islice(random_problems("train", "references"), 8))

    class Solved(ArithmeticTask):
        def prompts(self, split):
            return [
                Prompt(
                    f"{split}-{i}",
                    as_messages(p.text),
                    (s,),
                    {"numbers": list(p.numbers), "target": p.target},
                )
                for i, (p, s) in enumerate(pairs)
            ]

    learner = dataclasses.replace(
        run, task=Solved(), diversity=DiversitySettings(weight=0.3, set_size=2, num_prompts=2),
        training=settings(loss="sft", steps=12, prompts_per_step=8, learning_rate=1e-2),
    )  # fmt: skip
    train_arm(learner)
    losses = [row["train/quality_loss"] for row in read_jsonl(learner.folder / "metrics.jsonl")]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 2 / 3, 1 / 3]),
        ("cosine", [0.5, 1, 1, 0.75, 0.25]),
    ],
)
def test_schedules(schedule, expected):
    chosen = settings(schedule=schedule, warmup_steps=2)
    np.testing.assert_allclose([schedule_factor(chosen, step, 5) for step in range(5)], expected)


@pytest.mark.parametrize(
    ("epochs", "prompts", "steps"), [(3, 15, 6), (1, 15, 2), (1, 16, 2), (0.1, 15, 1), (2, 3, 2), (0.5, 160, 10)]
)
def test_epochs_are_passes_over_all_prompts(epochs, prompts, steps):
    """Past bug: three passes over 15 prompts, 8 a step, were three steps, which saw 24 prompts in place of 45."""
    assert total_steps(settings(steps=None, epochs=epochs, prompts_per_step=8), prompts) == steps


@pytest.mark.parametrize(("baseline", "rises"), [(-1.0, True), (2.0, False)])
def test_a_floor_that_follows_the_baseline_moves_the_weight(run, baseline, rises):
    floor = DiversitySettings(weight="auto", mode="floor", floor_margin=0.02, set_size=2)
    train_arm(dataclasses.replace(run, diversity=floor, baseline_quality=(baseline, baseline)))
    weights_seen = [row["train/diversity_weight"] for row in read_jsonl(run.folder / "metrics.jsonl")]
    assert weights_seen[0] == 1.0
    assert all((later > earlier) == rises for earlier, later in itertools.pairwise(weights_seen))


@pytest.mark.parametrize(("loss", "measured"), [("rl", [0, 4, 8]), ("sft", [0, 3, 6, 9])])
def test_gradient_shares_are_measured_on_steps_that_have_a_diversity_term(run, loss, measured):
    """Past bug: beside references, shares were measured every 25th step and diversity sampled every 3rd."""
    maker = ArmTrainer(run).maker
    maker.run = dataclasses.replace(run, training=settings(loss=loss, gradient_share_every=4))
    assert [step for step in range(10) if maker.plan(step).measures] == measured
    assert all(maker.plan(step).diversity for step in measured)


@pytest.mark.parametrize(("truncation_reward", "rewards"), [("checker", {0.0, 1.0}), ("zero", {0.0})])
def test_an_answer_that_was_cut_may_count_for_nothing(tiny_model, truncation_reward, rewards):
    """Past bug: a checker that liked half-sentences taught a model never to end (90 % of its answers were cut)."""

    class EveryOther(ArithmeticTask):
        def check(self, prompts, texts):
            return [Check(float(index % 2)) for index in range(len(texts))]

    task = EveryOther(64, 16, 16)
    prompts = task.prompts("train")[:2]
    parameters = SamplingParameters(max_new_tokens=3)  # an answer takes eight tokens
    groups = sample_groups(
        LocalSampler(tiny_model), task, prompts, 4, parameters, [0, 1], truncation_reward=truncation_reward
    )
    assert {reward for group in groups for reward in group.rewards} == rewards
