"""A real `vllm serve` by its address: what is sampled, what is refused, and a server that is killed."""

import dataclasses
import threading
import time
from itertools import chain

import pytest
import torch
from engine_setup import (
    HOSTILE,
    LONG_PROMPTS,
    PROMPTS,
    SEEDS,
    TINY,
    fresh_model,
    move,
    rewards_of,
    run_of,
    running_server,
    sample,
    tokens,
    trained,
    vllm_sampler,
    worst_difference,
)

pytest.importorskip("vllm")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("default"),  # vLLM's and its dependencies' own
]

from polychromic.errors import EngineError  # noqa: E402
from polychromic.files import read_jsonl  # noqa: E402
from polychromic.models.settings import AdapterSettings, ModelSettings  # noqa: E402
from polychromic.records import SamplingParameters  # noqa: E402
from polychromic.sampling.base import SamplerSettings, close_engines, taken_metrics  # noqa: E402
from polychromic.training.trainer import ArmTrainer  # noqa: E402


@pytest.fixture
def by_url(server):
    """Settings of the shared server; what a test has opened is closed after it."""
    yield SamplerSettings(engine="vllm", url=server.url, retry_seconds=600)
    close_engines()


def test_log_probabilities_are_the_trainers_before_and_after_an_update(by_url, server):
    model = fresh_model()
    sampler = vllm_sampler(model, by_url)
    first = sample(sampler, prompts=LONG_PROMPTS)
    assert worst_difference(model, first, prompts=LONG_PROMPTS) < 1e-3
    metrics = taken_metrics(sampler)
    assert metrics["engine/probe_mismatch"] < 1e-4
    assert metrics["engine/probe_share"] == pytest.approx(1.0, abs=0.01)
    cached = server.cached()
    assert tokens(sample(sampler, prompts=LONG_PROMPTS)) == tokens(first)
    assert server.cached() >= cached + 32 * len(LONG_PROMPTS)
    move(model, seed=1)
    second = sample(sampler, prompts=LONG_PROMPTS)  # those prompts are in the cache, under the adapter before
    assert worst_difference(model, second, prompts=LONG_PROMPTS) < 1e-3
    assert tokens(second) != tokens(first)
    move(model, -0.05, seed=1)
    assert tokens(sample(sampler, prompts=LONG_PROMPTS)) == tokens(first)


def test_a_seed_decides_a_prompts_draws_whatever_else_is_sampled(by_url):
    sampler = vllm_sampler(fresh_model(), by_url)
    together = sample(sampler)
    [alone] = sampler.sample(PROMPTS[3:4], 4, SamplingParameters(0.8, max_new_tokens=16), SEEDS[3:4])
    assert tokens([alone]) == tokens(together[3:4])
    assert tokens(sample(sampler, seeds=[seed + 100 for seed in SEEDS])) != tokens(together)


def test_nothing_is_taken_from_the_models_own_sampling_settings(by_url, server):
    """The server's generation_config.json asks for top_k = 1 and a penalty: one answer only, were it heeded."""
    assert HOSTILE["top_k"] == 1
    assert (server.model / "generation_config.json").is_file()
    model = fresh_model()
    groups = sample(vllm_sampler(model, by_url), 16, SamplingParameters(1.0, max_new_tokens=16))
    assert worst_difference(model, groups, temperature=1.0) < 1e-3
    assert min(len(set(tokens([group]))) for group in groups) > 4
    for one in chain(*groups):
        assert not any(token in model.stop_ids for token in one.token_ids[:-1])
        assert (one.token_ids[-1] in model.stop_ids) == (one.finish == "stop")
        assert len(one.token_ids) == 16 or one.finish == "stop"


def test_the_adapter_before_is_caught(by_url, monkeypatch):
    """The server is told to load the folder of the update before under the new name, and answers without a word."""
    model = fresh_model()
    sampler = vllm_sampler(model, by_url)
    sample(sampler)
    served = sampler.served
    load, before = served.engine.load_adapter, served.store.root / served._name
    monkeypatch.setattr(served.engine, "load_adapter", lambda name, number, _: load(name, number, before))
    move(model, seed=3)
    with pytest.raises(EngineError, match="answers for the adapter before, not for the trained policy"):
        sample(sampler)
    monkeypatch.undo()
    sample(sampler)
    assert worst_difference(model, sample(sampler)) < 1e-3


def test_an_adapter_that_is_not_asked_for_is_caught(by_url, monkeypatch):
    """Every request goes to the base model, as where a proxy rewrites the name."""
    model = fresh_model()
    sampler = vllm_sampler(model, by_url)
    sample(sampler)
    served = sampler.served
    draw = served.engine.draw
    monkeypatch.setattr(served.engine, "draw", lambda requests, keys, _: draw(requests, keys, None))
    move(model, seed=2)
    with pytest.raises(EngineError, match="answers for the base model, not for the trained policy"):
        sample(sampler)
    served.forget()
    with pytest.raises(EngineError, match="of a trial adapter's effect is seen"):
        sample(sampler)


def test_another_model_behind_the_address_is_caught_by_name_and_by_weights(by_url):
    other = dataclasses.replace(fresh_model(), settings=ModelSettings(source="smollm2-135m-instruct"))
    with pytest.raises(EngineError, match=r"serves .*, and model\.source is smollm2-135m-instruct"):
        vllm_sampler(other, by_url)
    model = fresh_model()
    with torch.no_grad():
        model.model.get_input_embeddings().weight.mul_(1.1)
    with pytest.raises(EngineError, match=r"answers for another base model than model\.source"):
        sample(vllm_sampler(model, by_url))


def test_a_rank_above_the_servers_is_one_sentence_and_keeps_a_checkpoint(by_url, tmp_path):
    large = TINY.model_copy(update={"adapter": AdapterSettings(rank=16)})
    run = dataclasses.replace(run_of(tmp_path, by_url), model=large)
    with pytest.raises(EngineError, match=r"rank 16 is greater than .* larger --max-lora-rank"):
        ArmTrainer(run).step()
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step-000000"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"updating": False}, "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
        ({"loras": False}, "start it with --enable-lora$"),
    ],
)
def test_a_server_that_takes_no_adapters_says_how_to_start_it(keys, message, tmp_path):
    with running_server(tmp_path, **keys) as server:
        settings = SamplerSettings(engine="vllm", url=server.url, retry_seconds=0)
        with pytest.raises(EngineError, match=message):
            sample(vllm_sampler(fresh_model(), settings))
        close_engines()


def test_a_killed_server_is_survived_with_the_same_answers(by_url, server, tmp_path, caplog):
    """SIGKILL while it samples; started again on the same port; the numbers are those of an undisturbed run."""
    rows = trained(run_of(tmp_path / "quiet", by_url, steps=3))
    assert all(row["train/sampler_mismatch"] < 1e-4 for row in rows)

    def kill_and_start_again():
        before = server.answered()
        while server.answered() < before + 5:  # four of the probe, and the first of the step's eight
            time.sleep(0.005)
        server.kill()
        server.start()

    killer = threading.Thread(target=kill_and_start_again)
    trainer = ArmTrainer(run_of(tmp_path / "killed", by_url, steps=3))
    trainer.step()
    killer.start()
    trainer.step()
    killer.join()
    trainer.step()
    assert "is back; the adapter is handed over again" in caplog.text
    again = read_jsonl(tmp_path / "killed" / "metrics.jsonl")
    for name in ("train/reward", "train/diversity_score", "train/gradient_norm"):
        assert [row[name] for row in again] == pytest.approx([row[name] for row in rows], rel=1e-4), name


def test_a_server_that_stays_away_stops_the_run_and_the_same_command_continues(by_url, server, tmp_path):
    rows = trained(run_of(tmp_path / "quiet", by_url, steps=4))
    impatient = SamplerSettings(engine="vllm", url=server.url, retry_seconds=3)
    run = run_of(tmp_path / "run", impatient, steps=4, checkpoint_every=100)
    trainer = ArmTrainer(run)
    trainer.step()
    trainer.step()
    server.kill()
    with pytest.raises(EngineError, match=r"does not answer .*tried for \d s; start the server"):
        trainer.step()
    close_engines()
    assert [folder.name for folder in (run.folder / "checkpoints").iterdir()] == ["step-000002"]
    server.start()
    server.wait()
    assert len(trained(run)) == 2
    again = read_jsonl(run.folder / "metrics.jsonl")
    assert rewards_of(again) == pytest.approx(rewards_of(rows), rel=1e-4)
    assert run.adapter.is_dir()
