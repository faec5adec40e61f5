"""Training on what another policy drew: the corrected gradient, and an engine that goes away in the middle."""

import dataclasses

import pytest
import torch

from polychromic import stopping
from polychromic.errors import ConfigError, EngineError, StoppedError
from polychromic.files import read_jsonl
from polychromic.models.loading import load_language_model
from polychromic.models.logprobs import plain_logprobs
from polychromic.records import SamplingParameters
from polychromic.sampling.base import SamplerSettings
from polychromic.sampling.local import LocalSampler
from polychromic.seeding import child_seed
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training import steps
from polychromic.training.base import ArmRun
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.steps import build_step
from polychromic.training.trainer import ArmTrainer, train_arm

N = 4


class HotSampler(LocalSampler):
    """Draws at 1.2 times the temperature that it is asked for, and says so in its log-probabilities."""

    def sample(self, prompts, num_samples, parameters, seeds):
        hot = SamplingParameters(1.2 * parameters.temperature, max_new_tokens=parameters.max_new_tokens)
        return super().sample(prompts, num_samples, hot, seeds)


class SilentSampler(LocalSampler):
    def sample(self, *arguments):
        groups = super().sample(*arguments)
        return [[dataclasses.replace(one, token_logprobs=None) for one in group] for group in groups]


def run_of(folder, tiny_settings, **training):
    values = {
        "loss": "rl", "steps": 4, "prompts_per_step": 8, "num_samples": N, "max_new_tokens": 12,
        "learning_rate": 1e-3, "micro_batch_size": 5, "checkpoint_every": 100,
    }  # fmt: skip
    return ArmRun(
        "importance", "diverse", 0, folder, ArithmeticTask(64, 16, 16), tiny_settings,
        TrainingSettings(**values | training), DiversitySettings(weight=0.5, set_size=2),
    )  # fmt: skip


def sampled_by(monkeypatch, sampler):
    monkeypatch.setattr(steps, "build_sampler", lambda settings, model, **_: sampler(model, 64))


def corrected(run, level, cap=2.0):
    sampling = SamplerSettings(importance_correction="truncated", importance_level=level, importance_cap=cap)
    return dataclasses.replace(run, sampling=sampling)


def gradient_of(run):
    """Gradient of a step by name of the parameter, its metrics, and the step."""
    model = load_language_model(run.model, seed=child_seed(run.experiment, "adapter", run.seed) % 2**31)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.01)
    step = build_step(run, model)
    outcome = step.make(0, step.prompts[:8], 0.5)
    gradients = {name: p.grad.clone() for name, p in model.model.named_parameters() if p.grad is not None}
    return gradients, outcome.metrics, step


@pytest.mark.parametrize("level", ["token", "generation", "group"])
def test_each_level_weighs_the_gradient_of_each_generation(run, monkeypatch, level):
    """Σ_i A_i Σ_t w_t ∇log π(y_t), written out one generation at a time, whatever the micro-batches are."""
    sampled_by(monkeypatch, HotSampler)
    cap = 1.05
    found, metrics, step = gradient_of(corrected(run, level, cap))
    sampled = step.sample(0, step.prompts[:8], N)
    model = step.language_model
    parameters = [p for p in model.model.parameters() if p.requires_grad]
    advantages = (sampled.advantages.quality_PN + 0.5 * sampled.advantages.diversity_PN).ravel()
    generations = [one for group in sampled.groups for one in group.generations]
    logprobs = [plain_logprobs(model, sequence) for sequence in sampled.sequences]
    ratios = [
        trained.detach() - torch.tensor(one.token_logprobs) for trained, one in zip(logprobs, generations, strict=True)
    ]
    loss, weights = torch.zeros(()), []
    for index, trained in enumerate(logprobs):
        if level == "token":
            weight = ratios[index].exp().clamp(max=cap)
        elif level == "generation":
            weight = ratios[index].sum().exp().clamp(max=cap).expand(len(trained))
        else:
            first = index // N * N
            weight = torch.cat(ratios[first : first + N]).sum().exp().clamp(max=cap).expand(len(trained))
        loss = loss - float(advantages[index]) * (weight * trained).sum() / len(sampled.groups)
        if advantages[index]:
            weights.append(weight)
    expected = torch.autograd.grad(loss, parameters)
    for gradient, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(gradient, other, atol=2e-5, rtol=1e-3)
    weights = torch.cat(weights)
    assert metrics["train/importance_weight"] == pytest.approx(float(weights.mean()), rel=1e-3)
    assert metrics["train/importance_truncated"] == pytest.approx(float((weights >= cap).float().mean()))
    assert metrics["train/importance_truncated"] > 0 or level == "group"
    uncorrected, _, _ = gradient_of(run)
    assert any(not torch.allclose(uncorrected[name], found[name], rtol=1e-2, atol=1e-5) for name in found)


@pytest.fixture
def run(tmp_path, tiny_settings):
    return run_of(tmp_path / "run", tiny_settings)


def test_the_policys_own_samples_have_weights_of_one(run):
    plain, metrics, _ = gradient_of(run)
    assert "train/importance_weight" not in metrics
    for level in ("generation", "group"):
        weighed, metrics, _ = gradient_of(corrected(run, level))
        assert metrics["train/importance_weight"] == pytest.approx(1.0, abs=1e-4)
        assert metrics["train/importance_truncated"] == 0.0
        for name, gradient in plain.items():
            torch.testing.assert_close(weighed[name], gradient, rtol=1e-3, atol=1e-6)


def test_a_sampler_that_tells_no_log_probabilities_cannot_be_corrected(run, monkeypatch):
    sampled_by(monkeypatch, SilentSampler)
    with pytest.raises(ConfigError, match=r"importance_correction: engine local tells no log-probabilities"):
        gradient_of(corrected(run, "token"))


class Failing(LocalSampler):
    """Fails once, at the third batch of this process."""

    batches = 0

    def sample(self, *arguments):
        Failing.batches += 1
        if Failing.batches == 3:
            raise EngineError("sampling.url: http://localhost:8000: does not answer")
        return super().sample(*arguments)


def test_an_engine_that_goes_away_leaves_a_checkpoint_of_the_step_before(run, tmp_path, monkeypatch):
    whole = dataclasses.replace(run, folder=tmp_path / "whole")
    train_arm(whole)
    monkeypatch.setattr(Failing, "batches", 0)
    sampled_by(monkeypatch, Failing)
    with pytest.raises(EngineError, match="does not answer"):
        train_arm(run)
    assert [folder.name for folder in (run.folder / "checkpoints").iterdir()] == ["step-000002"]
    train_arm(run)
    rewards = [[row["train/reward"] for row in read_jsonl(one.folder / "metrics.jsonl")] for one in (run, whole)]
    assert len(rewards[0]) == 4
    assert rewards[0] == rewards[1]


def test_an_engine_that_ends_with_the_run_is_a_stop_and_no_error(run, monkeypatch):
    """Ctrl-C reaches every process of the terminal, the engine's among them."""
    monkeypatch.setattr(Failing, "batches", 1)
    sampled_by(monkeypatch, Failing)
    trainer = ArmTrainer(run)
    trainer.step()
    monkeypatch.setattr(stopping, "_wish", stopping._Wish())
    stopping.request("SIGINT")
    with pytest.raises(StoppedError, match="it is kept after step 1"):
        trainer.step()
    assert [folder.name for folder in (run.folder / "checkpoints").iterdir()] == ["step-000001"]
