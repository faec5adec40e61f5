"""`training.engine: trl`: an experiment file's steps through TRL, in the same run folder, killed and continued."""

import dataclasses
import importlib.metadata
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

pytest.importorskip("trl")

from polychromic import run as run_experiment
from polychromic import stopping
from polychromic.errors import ConfigError, ModelError, StoppedError, TrainingError
from polychromic.files import read_jsonl
from polychromic.integrations.trl.arm import ArmGRPOTrainer
from polychromic.integrations.trl.engine import TrlTrainer, grpo_config, require_trl
from polychromic.models.loading import load_language_model
from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.records import SamplingParameters
from polychromic.run_folder import RunFolder
from polychromic.sampling.local import LocalSampler
from polychromic.seeding import child_seed, deterministic
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.training.base import ArmRun
from polychromic.training.parallel import ALONE, Processes
from polychromic.training.schedule import step_prompts
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import ArmTrainer

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("default")]

FILE = {
    "name": "small",
    "seeds": [0],
    "task": {"name": "arithmetic", "train_problems": 64, "validation_problems": 8, "test_problems": 8},
    "model": {"source": "polychromic:arithmetic-tiny", "adapter": {"rank": 4, "alpha": 8}},
    "training": {
        "loss": "rl", "engine": "trl", "steps": 5, "prompts_per_step": 4, "num_samples": 4, "learning_rate": 1e-3,
        "schedule": "linear", "max_new_tokens": 16, "checkpoint_every": 2, "gradient_share_every": 2,
        "micro_batch_size": 8,
    },
    "diversity": {"objective": "coverage", "set_size": 2, "baseline": "fitted"},
    "arms": {"baseline": {"diversity": {"weight": 0.0}}, "coverage": {"diversity": {"weight": 1.0}}},
    "evaluation": {"num_prompts": 6, "num_samples": 4, "max_new_tokens": 16},
    "comparison": {"baseline": "baseline"},
    "run": {"preflight": False, "executor": "local"},
}  # fmt: skip


@pytest.fixture
def experiment(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(FILE))
    return file


def arm_run(folder, *, diversity=None, **training):
    keys = {**FILE["training"], **training}
    return ArmRun(
        experiment="small", arm="coverage", seed=0, folder=folder, task=ArithmeticTask(64, 8, 8),
        model=ModelSettings(source="polychromic:arithmetic-tiny", adapter=AdapterSettings(rank=4, alpha=8)),
        training=TrainingSettings(**keys), diversity=diversity or DiversitySettings(weight=1.0, set_size=2),
    )  # fmt: skip


def weights(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def untimed(path):
    return [{key: value for key, value in row.items() if "time" not in key} for row in read_jsonl(path)]


def as_the_local_sampler(trainer, run):
    """Makes TRL "sample" what the local trainer samples at each step."""

    def given(prompt_ids, images, fields, num_generations, **_others):
        step = trainer.state.global_step
        prompts = step_prompts(run, run.task.prompts("train"), step)
        seeds = [child_seed(run.experiment, run.arm, run.seed, step, prompt.id) for prompt in prompts]
        sampler = LocalSampler(trainer.language_model)
        parameters = SamplingParameters(1.0, max_new_tokens=run.training.max_new_tokens)
        trainer.model.eval()
        groups = sampler.sample(prompts, num_generations, parameters, seeds)
        trainer.model.train()
        return [list(one.token_ids) for group in groups for one in group], None

    trainer._generate_single_turn = given


def test_its_steps_are_those_of_the_local_trainer(tmp_path):
    """Prompts, rewards, advantages, gradient, clipping, schedule and λ are the same: on the same generations both end
    with the same weights and the same metrics."""
    settings = DiversitySettings(weight="auto", mode="share", set_size=2)
    changes = {"max_gradient_norm": 0.5, "gradient_share_every": 1, "warmup_steps": 2}
    run = arm_run(tmp_path / "trl", diversity=settings, **changes)
    local = dataclasses.replace(
        run, folder=tmp_path / "local", training=run.training.model_copy(update={"engine": "local"})
    )
    with deterministic():
        language_model = load_language_model(run.model, seed=child_seed("small", "adapter", 0) % 2**31)
        language_model.model.generation_config.eos_token_id = sorted(language_model.stop_ids)
        trainer = ArmGRPOTrainer(run, language_model, grpo_config(run, ALONE), None)
        as_the_local_sampler(trainer, run)
        trainer.begin(0)
        trainer.train()
        other = ArmTrainer(local)
        while not other.finished:
            other.step()
    for name, parameter in other.language_model.model.named_parameters():
        if parameter.requires_grad:
            mine = dict(language_model.model.named_parameters())[name]
            assert float((mine - parameter).detach().abs().max()) < 2e-5, name
    rows, expected = untimed(run.folder / "metrics.jsonl"), untimed(local.folder / "metrics.jsonl")
    assert len(rows) == len(expected) == 5
    for row, other_row in zip(rows, expected, strict=True):
        others = set(other_row) - {"train/sampler_mismatch", "generation/entropy"}
        assert others <= set(row)
        for key in others:
            assert row[key] == pytest.approx(other_row[key], rel=2e-3, abs=1e-5, nan_ok=True), key


def train_alone(run, threads):
    with deterministic(threads):
        TrlTrainer().train(run)


def killed_after(run, steps):
    """Trains in a process of its own until so many rows of metrics are written, and kills it with signal 9."""
    # Not forked: of the threads that torch has begun here, a forked process has none and waits for them for ever.
    process = multiprocessing.get_context("spawn").Process(target=train_alone, args=(run, torch.get_num_threads()))
    process.start()
    metrics = run.folder / "metrics.jsonl"
    while process.is_alive() and not (metrics.exists() and len(metrics.read_text().splitlines()) >= steps):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode


@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_killed_in_training_ends_bit_identical(tmp_path, steps):
    settings = DiversitySettings(weight="auto", mode="share", set_size=2, baseline="fitted")
    whole = arm_run(tmp_path / "whole", diversity=settings, gradient_share_every=1)
    killed = dataclasses.replace(whole, folder=tmp_path / "killed")
    with deterministic():
        TrlTrainer().train(whole)
        assert killed_after(killed, steps) == -signal.SIGKILL
        TrlTrainer().train(killed)
    assert same(weights(whole), weights(killed))
    assert untimed(whole.folder / "metrics.jsonl") == untimed(killed.folder / "metrics.jsonl")


def test_an_experiment_file_is_run_from_training_to_report(experiment, tmp_path):
    result = run_experiment(experiment, out=tmp_path)
    for arm in FILE["arms"]:
        place = result.folder.arm(arm, 0)
        assert place.is_trained
        assert [row["step"] for row in read_jsonl(place.metrics)] == [1, 2, 3, 4, 5]
        assert len(read_jsonl(place.generations)) == 6 * 4
    assert result.folder.report.exists()
    assert json.loads(result.folder.diagnosis.read_text())["arms"][1]["steps"] == 5
    assert json.loads(result.folder.comparison.read_text())


def test_two_launched_processes_fill_one_folder(experiment, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]  # any free port
    launch += ["-m", "polychromic", "train", str(experiment), "--out", str(tmp_path), "--arm", "coverage"]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    place = RunFolder(tmp_path / "small").arm("coverage", 0)
    assert place.is_trained
    rows = read_jsonl(place.metrics)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(row["generation/total_tokens"] >= 16 * 2 for row in rows)
    assert np.isfinite([row["train/gradient_norm"] for row in rows]).all()


def test_a_polite_stop_keeps_a_checkpoint_and_the_same_run_goes_on(tmp_path):
    whole, stopped = arm_run(tmp_path / "whole"), arm_run(tmp_path / "stopped")
    with deterministic():
        TrlTrainer().train(whole)
        with stopping.listening(), pytest.raises(StoppedError, match="coverage/seed-0 is kept after step 4"):
            TrlTrainer().train(stopped, lambda done, total, metrics: stopping.request("a test") if done == 3 else None)
        seen = []
        TrlTrainer().train(stopped, lambda done, total, metrics: seen.append((done, total)))
    assert seen == [(5, 5)]
    assert same(weights(whole), weights(stopped))
    TrlTrainer().train(stopped, lambda *_: pytest.fail("it is trained already"))


def test_an_update_that_is_not_finite_is_not_made(tmp_path):
    run = arm_run(tmp_path / "run")
    language_model = load_language_model(run.model, seed=1)
    trainer = ArmGRPOTrainer(run, language_model, grpo_config(run, ALONE), None)
    trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    trained[0].grad = torch.zeros_like(trained[0])
    trainer.require_finite_gradient()
    trained[-1].grad = torch.full_like(trained[-1], math.inf)
    with pytest.raises(TrainingError, match=r"the gradient is not finite at step 1; lower training.learning_rate"):
        trainer.require_finite_gradient()


def test_a_model_that_samples_nothing_any_more_is_named(tmp_path):
    run = arm_run(tmp_path / "run", learning_rate=1e30)
    with deterministic(), pytest.raises(ModelError, match="logits are not numbers at step 2"):
        TrlTrainer().train(run)


@pytest.mark.parametrize(
    ("training", "processes", "reason"),
    [
        (
            {"engine_options": {"no_such": 1}},
            1,
            "engine_options.no_such: TRL's GRPOConfig has no such option",
        ),
        (
            {"engine_options": {"learning_rate": 1.0}},
            1,
            "engine_options.learning_rate: the experiment file states it",
        ),
        ({"engine_options": {"vllm_importance_sampling_clip_min": 9.0}}, 1, "TRL refuses them"),
        ({}, 3, "a step has 16 sequences .* which 3 processes cannot share evenly"),
    ],
)
def test_what_trl_cannot_be_asked_is_refused(tmp_path, training, processes, reason):
    with pytest.raises(ConfigError, match=reason):
        grpo_config(arm_run(tmp_path, **training), Processes(0, processes))


@pytest.mark.parametrize("version", ["1.15.2", "2.0.0", "0.9"])
def test_versions_that_have_not_been_tried_are_refused(monkeypatch, version):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(ConfigError, match=f"from 1.16 to below 2.0, and {version} is installed"):
        require_trl()


def test_options_of_trl_are_passed_through(tmp_path):
    options = {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": "http://localhost:8000"}
    args = grpo_config(arm_run(tmp_path, engine_options=options, kl_weight=0.1), ALONE)
    assert (args.use_vllm, args.vllm_mode, args.vllm_server_base_url) == tuple(options.values())
    assert args.beta == pytest.approx(0.1 * 16)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (8, 2)
