"""vLLM itself, on a CPU: `make vllm` sets up its environment and runs these."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_setup import IN_PROCESS, OPTIONS, TINY, fresh_model, move, vllm_sampler

pytest.importorskip("vllm")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("default"),  # vLLM's and its dependencies' own
]

from polychromic.errors import EngineError  # noqa: E402
from polychromic.models.chat import encode_prompt  # noqa: E402
from polychromic.models.loading import load_language_model  # noqa: E402
from polychromic.models.logprobs import TokenSequence, plain_logprobs  # noqa: E402
from polychromic.models.settings import AdapterSettings, ModelSettings  # noqa: E402
from polychromic.records import SamplingParameters  # noqa: E402
from polychromic.sampling.base import SamplerSettings, close_engines, taken_metrics  # noqa: E402
from polychromic.sampling.local import LocalSampler  # noqa: E402
from polychromic.tasks.arithmetic import ArithmeticTask  # noqa: E402
from polychromic.training.base import ArmRun  # noqa: E402
from polychromic.training.settings import DiversitySettings, TrainingSettings  # noqa: E402
from polychromic.training.trainer import ArmTrainer, train_arm  # noqa: E402

PARAMETERS = SamplingParameters(0.8, max_new_tokens=16)
TASK = ArithmeticTask(train_problems=64)
PROMPTS = TASK.prompts("train")[:8]
SEEDS = list(range(8))


def sample(sampler, n=4, parameters=PARAMETERS, seeds=SEEDS):
    return sampler.sample(PROMPTS, n, parameters, seeds)


def tokens(groups):
    return [one.token_ids for one in chain(*groups)]


def worst_difference(language_model, groups, temperature=PARAMETERS.temperature):
    """Largest difference per token between the sampler's log-probabilities and a plain forward pass of PEFT's model."""
    worst = 0.0
    for prompt, group in zip(PROMPTS, groups, strict=True):
        ids = tuple(encode_prompt(language_model.tokenizer, prompt))
        for one in group:
            with torch.inference_mode():
                trained = plain_logprobs(
                    language_model, TokenSequence(ids + one.token_ids, len(ids)), temperature=temperature
                )
            worst = max(worst, float((trained - torch.tensor(one.token_logprobs)).abs().max()))
    return worst


def test_log_probabilities_are_the_trainers_before_and_after_an_update():
    model = fresh_model()
    sampler = vllm_sampler(model)
    first = sample(sampler)
    assert worst_difference(model, first) < 1e-3
    metrics = taken_metrics(sampler)
    assert metrics["engine/probe_mismatch"] < 1e-4
    assert metrics["engine/probe_share"] == pytest.approx(1.0, abs=0.01)
    move(model, seed=1)
    second = sample(sampler)
    assert worst_difference(model, second) < 1e-3
    # The prompts are in the prefix cache, under the adapter before.
    move(model, -0.05, seed=1)
    assert tokens(sample(sampler)) == tokens(first)
    assert tokens(second) != tokens(first)


def test_a_seed_decides_a_prompts_draws_whatever_else_is_sampled():
    model = fresh_model()
    sampler = vllm_sampler(model)
    together = sample(sampler)
    assert tokens(sample(sampler)) == tokens(together)
    [alone] = sampler.sample(PROMPTS[3:4], 4, PARAMETERS, SEEDS[3:4])
    assert [one.token_ids for one in alone] == [one.token_ids for one in together[3]]
    assert tokens(sample(sampler, seeds=[seed + 100 for seed in SEEDS])) != tokens(together)


@pytest.mark.parametrize(
    "parameters",
    [
        SamplingParameters(1.0, max_new_tokens=1),
        SamplingParameters(0.6, max_new_tokens=1),
        SamplingParameters(1.3, top_p=0.8, max_new_tokens=1),
        SamplingParameters(1.5, min_p=0.2, max_new_tokens=1),
    ],
    ids=lambda parameters: parameters.label,
)
def test_first_tokens_are_drawn_as_the_local_sampler_draws_them(parameters):
    """χ² of 2,000 first tokens against the exact probabilities, which the local sampler's rule gives on a grid."""
    from polychromic.models.decoding import draw_tokens

    model = fresh_model()
    [prompt] = PROMPTS[:1]
    ids = torch.tensor([encode_prompt(model.tokenizer, prompt)])
    with torch.inference_mode():
        logits = model.model(input_ids=ids).logits[:, -1].float()
    grid = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    expected = (
        torch.bincount(draw_tokens(logits.expand(200_000, -1), parameters, grid), minlength=22) / 200_000
    )
    groups = vllm_sampler(model).sample([prompt] * 8, 250, parameters, [1000 * seed for seed in range(8)])
    found = np.bincount([ids[0] for ids in tokens(groups)], minlength=22)
    assert not found[expected.numpy() == 0].any()  # what top_p and min_p cut away is never drawn
    kept = expected.numpy() * 2000 >= 5
    chi2 = float(((found[kept] - 2000 * expected.numpy()[kept]) ** 2 / (2000 * expected.numpy()[kept])).sum())
    degrees = int(kept.sum()) - 1
    assert degrees >= 1
    assert chi2 < degrees + 4 * math.sqrt(2 * degrees) + 4


def test_stop_tokens_and_limits_are_the_local_samplers():
    model = fresh_model()
    sampler = vllm_sampler(model)
    for limit in (3, 24):
        for one in chain(*sample(sampler, 8, SamplingParameters(max_new_tokens=limit))):
            stops = [token in model.stop_ids for token in one.token_ids]
            assert not any(stops[:-1])
            assert one.finish == ("stop" if stops[-1] else "length")
            assert len(one.token_ids) == limit or one.finish == "stop"
    cold = SamplingParameters(0.01, max_new_tokens=20)
    local = LocalSampler(model).sample(PROMPTS, 1, cold, SEEDS)
    assert [one.text for one in chain(*sample(sampler, 1, cold))] == [one.text for one in chain(*local)]


def test_an_adapter_that_is_not_applied_is_caught(monkeypatch):
    """The adapter's request is dropped on its way to vLLM, which then answers without a word for the base."""
    model = fresh_model()
    sampler = vllm_sampler(model)
    sample(sampler)
    served = sampler.served
    generate = served.engine._llm.generate

    def without_adapter(*arguments, lora_request, **keys):
        return generate(*arguments, **keys)

    monkeypatch.setattr(served.engine._llm, "generate", without_adapter)
    move(model, seed=2)
    with pytest.raises(EngineError, match="answers for the base model, not for the trained policy"):
        sample(sampler)
    served.forget()
    with pytest.raises(EngineError, match="of a trial adapter's effect is seen"):
        sample(sampler)
    monkeypatch.undo()
    served.forget()
    sample(sampler)


def test_an_adapter_under_a_number_that_vllm_has_seen_is_caught(monkeypatch):
    """vLLM keeps the weights it has for a number; so would a hand-over that did not count."""
    model = fresh_model()
    sampler = vllm_sampler(model)
    sample(sampler)
    served = sampler.served
    number, load = served._number, served.engine.load_adapter
    monkeypatch.setattr(
        served.engine, "load_adapter", lambda name, _, folder: load(served._name, number, folder)
    )
    monkeypatch.setattr(
        served, "_hand_over", lambda model: [type(served)._hand_over(served, model), served._name][1]
    )
    move(model, seed=3)
    with pytest.raises(EngineError, match="answers for the adapter before, not for the trained policy"):
        sample(sampler)
    served.forget()


def test_a_context_that_vllm_has_no_room_in_is_one_sentence():
    model = load_language_model(TINY)
    settings = SamplerSettings(engine="vllm", options=OPTIONS | {"max_model_len": 16})
    with pytest.raises(EngineError, match="max_model_len"):
        vllm_sampler(model, settings).sample(PROMPTS, 1, SamplingParameters(max_new_tokens=20), SEEDS)
    close_engines()


def run_of(folder, sampling, seed=0, **training):
    settings = {
        "loss": "rl", "steps": 10, "prompts_per_step": 8, "num_samples": 8, "max_new_tokens": 16,
        "learning_rate": 3e-3, "checkpoint_every": 5,
    }  # fmt: skip
    return ArmRun(
        experiment="engines",
        arm="diverse",
        seed=seed,
        folder=folder,
        task=TASK,
        model=TINY,
        training=TrainingSettings(**{**settings, **training}),
        diversity=DiversitySettings(weight=0.3, objective="coverage", set_size=3),
        sampling=sampling,
    )


def rewards_of(run):
    found = []
    train_arm(run, lambda done, total, metrics: found.append((metrics["train/reward"], metrics)))
    return np.array([reward for reward, _ in found]), [metrics for _, metrics in found]


def test_ten_steps_have_the_reward_curve_of_the_local_sampler(tmp_path):
    """Every step and the mean of all, within the noise of 2 × 64 answers a step."""
    curves = {}
    corrected = IN_PROCESS.model_copy(update={"importance_correction": "truncated"})
    for name, sampling in (("local", SamplerSettings()), ("vllm", corrected)):
        runs = [rewards_of(run_of(tmp_path / name / str(seed), sampling, seed)) for seed in range(2)]
        curves[name] = np.array([rewards for rewards, _ in runs])
        if name == "vllm":
            steps = [metrics for _, rows in runs for metrics in rows]
            assert len(steps) == 20
            assert max(one["train/sampler_mismatch"] for one in steps) < 1e-4
            assert max(abs(one["train/importance_weight"] - 1) for one in steps) < 1e-3
            assert max(one["train/importance_truncated"] for one in steps) == 0.0
            assert max(one["engine/probe_mismatch"] for one in steps) < 1e-4
    by_step = {name: curve.mean(axis=0) for name, curve in curves.items()}
    print(
        "".join(
            f"\n{name}: {curve.round(3).tolist()}, mean {curve.mean():.3f}" for name, curve in by_step.items()
        )
    )
    # An answer passes or not, and answers to one prompt go together: at most 8 × 8 of 16 prompts count as 16 to 128.
    difference = by_step["vllm"] - by_step["local"]
    assert np.abs(difference).max() < 4 * math.sqrt(2 * 0.25 / 16)
    assert abs(difference.mean()) < 4 * math.sqrt(2 * 0.25 / (16 * 10))
    assert all((tmp_path / name / "0" / "adapter" / "adapter_model.safetensors").exists() for name in curves)


def test_a_server_samples_the_policy_and_a_killed_one_is_survived(server, tmp_path):
    """Killed with SIGKILL while it samples; started again on the same port; the run's tokens are the same."""
    settings = SamplerSettings(engine="vllm", url=server.url, retry_seconds=600)
    quiet = run_of(tmp_path / "quiet", settings, steps=3)
    rewards, metrics = rewards_of(quiet)
    assert all(one["train/sampler_mismatch"] < 1e-4 for one in metrics)

    def kill_and_start_again():
        time.sleep(0.2)
        server.kill()
        server.start()

    killer = threading.Thread(target=kill_and_start_again)
    trainer = ArmTrainer(run_of(tmp_path / "killed", settings, steps=3))
    trainer.step()
    killer.start()
    trainer.step()
    killer.join()
    trainer.step()
    close_engines()
    again = [row["train/reward"] for row in read_metrics(tmp_path / "killed")]
    assert again == pytest.approx(rewards.tolist())


def read_metrics(folder):
    from polychromic.files import read_jsonl

    return read_jsonl(folder / "metrics.jsonl")


def test_a_server_that_stays_away_stops_the_run_with_a_checkpoint(server, tmp_path):
    settings = SamplerSettings(engine="vllm", url=server.url, retry_seconds=3)
    run = run_of(tmp_path / "run", settings, steps=4, checkpoint_every=100)
    trainer = ArmTrainer(run)
    trainer.step()
    trainer.step()
    server.kill()
    with pytest.raises(EngineError, match=r"does not answer .*tried for \d s; start the server"):
        trainer.step()
    close_engines()
    server.start()
    server.wait()
    assert [folder.name for folder in (run.folder / "checkpoints").iterdir()] == ["step-000002"]
    resumed = ArmTrainer(run)
    assert resumed.steps_done == 2
    resumed.step()
    close_engines()


def test_a_rank_above_the_servers_and_another_model_are_one_sentence(server):
    large = TINY.model_copy(update={"adapter": AdapterSettings(rank=16)})
    settings = SamplerSettings(engine="vllm", url=server.url)
    with pytest.raises(EngineError, match=r"larger --max-lora-rank"):
        sample(vllm_sampler(fresh_model(large), settings))
    close_engines()
    other = dataclasses.replace(fresh_model(), settings=ModelSettings(source="smollm2-135m-instruct"))
    with pytest.raises(EngineError, match=r"and model\.source is smollm2-135m-instruct"):
        vllm_sampler(other, settings)
    close_engines()


def test_a_killed_run_leaves_no_engine_behind(tmp_path):
    code = (
        "import sys, time\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from engine_setup import fresh_model, vllm_sampler\n"
        "if __name__ == '__main__':\n"
        "    sampler = vllm_sampler(fresh_model())\n"
        "    print('open', flush=True)\n"
        "    time.sleep(600)\n"
    )
    (tmp_path / "hold.py").write_text(code)
    holder = subprocess.Popen(
        [sys.executable, str(tmp_path / "hold.py")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert holder.stdout is not None
        for line in holder.stdout:
            if line.strip() == "open":
                break
        members = group_members(holder.pid)
        assert len(members) >= 2
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        deadline = time.monotonic() + 60
        while group_members(holder.pid) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert group_members(holder.pid) == []
    finally:
        for pid in group_members(holder.pid):
            os.kill(pid, signal.SIGKILL)


def group_members(group):
    """Processes of a group that are not zombies."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.name))
    return found
