"""Hand-over and probe with an engine that can be made to fail as vLLM does; `make vllm` runs the same with vLLM."""

import dataclasses
import math
import os
import subprocess
import sys
from itertools import chain

import pytest
import torch
from fake_engines import ModelEngine

from polychromic.errors import ConfigError, EngineError
from polychromic.models.loading import load_language_model
from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.records import SamplingParameters
from polychromic.sampling.base import SamplerSettings, build_sampler, taken_metrics
from polychromic.sampling.local import LocalSampler
from polychromic.sampling.vllm import pool
from polychromic.sampling.vllm.engine import largest_rank, require_servable, require_version, sampling_keys
from polychromic.sampling.vllm.handover import AdapterStore, ServedPolicy
from polychromic.sampling.vllm.process import served_rank
from polychromic.sampling.vllm.sampler import VllmSampler
from polychromic.tasks.arithmetic import ArithmeticTask

PARAMETERS = SamplingParameters(0.8, max_new_tokens=16)
PROMPTS = ArithmeticTask(train_problems=6).prompts("train")
SEEDS = list(range(6))


@pytest.fixture
def sampler_of(tiny_model, tiny_settings, tmp_path):
    """Makes a sampler of the tiny model on an engine with the given faults."""
    opened = []

    def make(**faults):
        engine = ModelEngine(tiny_settings, **faults)
        store = AdapterStore(str(tmp_path), shared=False)
        opened.append(store)
        return VllmSampler(tiny_model, ServedPolicy(engine, store, 0.002))

    yield make
    for store in opened:
        store.close()


def move(language_model, size=0.05, seed=0):
    """One update of the adapter's weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in language_model.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def sample(sampler, n=4):
    return sampler.sample(PROMPTS, n, PARAMETERS, SEEDS)


def test_what_is_sampled_is_the_policy_as_it_stands_at_every_call(sampler_of, tiny_model):
    sampler = sampler_of()
    for step in range(3):
        expected = LocalSampler(tiny_model).sample(PROMPTS, 4, PARAMETERS, SEEDS)
        for ours, theirs in zip(chain(*sample(sampler)), chain(*expected), strict=True):
            assert (ours.text, ours.token_ids, ours.finish) == (theirs.text, theirs.token_ids, theirs.finish)
            assert ours.token_logprobs == pytest.approx(theirs.token_logprobs, abs=1e-4)
        move(tiny_model, seed=step)


def test_an_adapter_is_handed_over_when_it_has_changed_and_only_then(sampler_of, tiny_model, tmp_path):
    sampler = sampler_of()
    engine = sampler.served.engine
    sample(sampler)
    assert engine.numbers == [1, 2]  # the trial, then the policy
    sample(sampler)
    assert engine.numbers == [1, 2]
    move(tiny_model)
    sample(sampler)
    assert engine.numbers == [1, 2, 3]
    names = [adapter for _, _, adapter in engine.asked if adapter is not None]
    assert len(set(names)) == 3
    assert set(engine.adapters) == {names[-1]}
    assert [folder.name for folder in sampler.served.store.root.iterdir() if folder.is_dir()] == [names[-1]]


def test_metrics_tell_of_the_hand_over_once(sampler_of, tiny_model):
    sampler = sampler_of()
    sample(sampler)
    metrics = taken_metrics(sampler)
    assert metrics["engine/probe_mismatch"] < 1e-4
    assert metrics["engine/probe_share"] == pytest.approx(1.0, abs=0.01)
    assert metrics["engine/handover_seconds"] > 0
    assert metrics["engine/tokens_per_second"] > 0
    sample(sampler)
    assert set(taken_metrics(sampler)) == {"engine/tokens_per_second"}


def test_an_engine_that_ignores_adapters_is_stopped_before_anything_is_sampled(sampler_of):
    sampler = sampler_of(ignores=True)
    with pytest.raises(EngineError, match=r"0% of a trial adapter's effect .* it answers for the base model"):
        sample(sampler)
    assert {keys["n"] for _, keys, _ in sampler.served.engine.asked} == {2}  # probes alone


def test_an_untrained_adapter_does_not_hide_an_engine_that_ignores_adapters(tiny_settings, tmp_path):
    """A fresh LoRA is the base model, so that only the trial can tell."""
    model = load_language_model(tiny_settings, seed=1)
    store = AdapterStore(str(tmp_path), shared=False)
    sampler = VllmSampler(model, ServedPolicy(ModelEngine(tiny_settings, ignores=True), store, 0.002))
    with pytest.raises(EngineError, match="trial adapter"):
        sample(sampler)
    good = VllmSampler(model, ServedPolicy(ModelEngine(tiny_settings), store, 0.002))
    sample(good)
    assert "engine/probe_share" not in taken_metrics(good)  # nothing to tell it from the base by
    store.close()


def test_an_adapter_applied_at_another_scale_is_caught(sampler_of):
    with pytest.raises(EngineError, match="at another scale"):
        sample(sampler_of(scale=0.5))


def test_an_engine_that_keeps_the_adapter_before_is_caught(sampler_of, tiny_model):
    sampler = sampler_of(keeps=True)
    sample(sampler)
    sampler.served.engine.keep()
    sample(sampler)
    move(tiny_model)
    with pytest.raises(EngineError, match="it answers for the adapter before, not for the trained policy"):
        sample(sampler)


def engine_of_another_base(settings):
    engine = ModelEngine(settings)
    with torch.no_grad():
        engine.base.model.get_input_embeddings().weight.mul_(1.1)
    return engine


def test_another_base_model_is_caught(tiny_model, tiny_settings, tmp_path):
    engine = engine_of_another_base(tiny_settings)
    store = AdapterStore(str(tmp_path), shared=False)
    with pytest.raises(
        EngineError, match=r"answers for another base model than model\.source .*; start it with the same"
    ):
        sample(VllmSampler(tiny_model, ServedPolicy(engine, store, 0.002)))
    store.close()


def test_a_quantized_base_is_named_where_the_engine_has_it_whole(tiny_model, tiny_settings, tmp_path):
    """Past bug: whoever had `quantization: nf4` was told to start vLLM with the same weights, as it was."""
    rounded = dataclasses.replace(tiny_model, settings=tiny_settings.model_copy(update={"quantization": "nf4"}))
    engine = engine_of_another_base(tiny_settings)
    store = AdapterStore(str(tmp_path), shared=False)
    with pytest.raises(
        EngineError, match=r"another base model .*model\.quantization is nf4, .* use sampling\.engine: local"
    ):
        sample(VllmSampler(rounded, ServedPolicy(engine, store, 0.002)))
    store.close()


def test_an_engine_that_came_back_is_given_the_adapter_again(sampler_of):
    expected = sample(sampler_of())
    sampler = sampler_of(restarts={5})  # base probe, trial's base, trial, adapter: the fifth is the batch
    assert sample(sampler) == expected
    assert sampler.served.engine.numbers == [1, 2, 3, 4]
    with pytest.raises(EngineError, match="came back 5 times without sampling one batch"):
        sample(sampler_of(restarts=range(1, 30)))


def test_generations_that_the_engine_cuts_are_no_generations(sampler_of, monkeypatch):
    sampler = sampler_of()
    sample(sampler)
    draw = sampler.served.engine.draw
    monkeypatch.setattr(
        sampler.served.engine,
        "draw",
        lambda requests, keys, adapter: draw(requests, {**keys, "max_tokens": 3}, adapter),
    )
    with pytest.raises(EngineError, match="cut a generation at 3 of 16 tokens; start vLLM with a max_model_len"):
        sample(sampler)


def test_log_probabilities_of_a_cut_tail_are_not_those_of_the_policy(sampler_of):
    groups = sampler_of().sample(PROMPTS, 2, SamplingParameters(top_p=0.9, max_new_tokens=16), SEEDS)
    assert all(math.isnan(one.logprob) and one.token_logprobs is None for group in groups for one in group)


def test_two_arms_of_one_base_share_an_engine_and_a_larger_adapter_starts_another(monkeypatch, tiny_settings):
    started = []

    def start(model, settings, rank):
        started.append(rank)
        return ModelEngine(tiny_settings)

    monkeypatch.setattr(pool, "_engine", start)
    settings = SamplerSettings(engine="vllm")
    larger = tiny_settings.model_copy(update={"adapter": AdapterSettings(rank=16)})
    for model in (tiny_settings, tiny_settings, larger, tiny_settings):
        build_sampler(settings, load_language_model(model, seed=0), max_decode_batch=8, thinking="auto")
    build_sampler(settings, load_language_model(tiny_settings), max_decode_batch=8, thinking="auto")
    assert started == [4, 16]
    pool.close_served()


def test_an_abandoned_store_is_removed_and_one_in_use_is_not(tmp_path):
    code = (
        "import os, signal, sys\n"
        "from polychromic.sampling.vllm.handover import AdapterStore\n"
        "store = AdapterStore(sys.argv[1], shared=False)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, env=dict(os.environ))
    [abandoned] = tmp_path.iterdir()
    first = AdapterStore(str(tmp_path), shared=False)
    assert not abandoned.exists()
    second = AdapterStore(str(tmp_path), shared=False)
    assert first.root.is_dir()
    assert second.root.is_dir()
    first.close()
    second.close()
    assert not list(tmp_path.iterdir())


def test_every_key_that_decides_what_is_drawn_is_stated():
    """A server fills in what is not from generation_config.json."""
    keys = sampling_keys(SamplingParameters(0.7, 0.9, 0.1, 20), 5, frozenset({7, 2}))
    assert keys == {
        "n": 5, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_p": 0.1, "max_tokens": 20, "min_tokens": 0,
        "ignore_eos": True, "stop_token_ids": [2, 7], "repetition_penalty": 1.0, "presence_penalty": 0.0,
        "frequency_penalty": 0.0, "watermarking": False, "logprobs": 0,
    }  # fmt: skip


def test_every_sampling_parameter_of_ours_changes_what_vllm_is_asked_for_or_is_refused():
    """A field that is added to SamplingParameters fails here until it is one or the other."""
    changes = {"temperature": 0.7, "top_p": 0.9, "min_p": 0.1, "max_new_tokens": 5}
    refused = {"others": (("top_k", "40"),)}
    assert {field.name for field in dataclasses.fields(SamplingParameters)} == changes.keys() | refused.keys()
    plain = sampling_keys(SamplingParameters(), 2, frozenset({7}))
    for name, value in changes.items():
        changed = sampling_keys(SamplingParameters(**{name: value}), 2, frozenset({7}))
        key = "max_tokens" if name == "max_new_tokens" else name
        assert changed == {**plain, key: value}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (SamplingParameters(0.005), "a temperature of 0.005 would be sampled at 0.01"),
        (SamplingParameters(others=(("top_k", "40"),)), "top_k=40 is of another tool"),
    ],
)
def test_parameters_that_vllm_would_not_follow_are_refused(parameters, message):
    with pytest.raises(EngineError, match=message):
        sampling_keys(parameters, 1, frozenset({0}))


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"bias": "all"}, "model.adapter.bias"),
        ({"use_dora": True}, "model.adapter.use_dora"),
        ({"modules_to_save": ["lm_head"]}, "model.adapter.modules_to_save"),
        ({"trainable_token_indices": [1]}, "model.adapter.trainable_token_indices"),
    ],
)
def test_adapters_that_vllm_cannot_serve_are_refused(keys, named):
    from peft import LoraConfig

    with pytest.raises(EngineError, match=f"plain LoRA, without {named}"):
        require_servable(LoraConfig(**keys))
    require_servable(LoraConfig(use_rslora=True, rank_pattern={"q_proj": 32}))
    assert largest_rank(LoraConfig(r=8, rank_pattern={"q_proj": 32})) == 32


def test_ranks_and_versions_out_of_range_are_refused():
    assert [served_rank(rank) for rank in (1, 2, 8, 9, 512)] == [1, 8, 8, 16, 512]
    with pytest.raises(EngineError, match="rank is 513, above the 512 that vLLM serves"):
        served_rank(513)
    for version in ("0.32.0", "0.99.1+cpu"):
        require_version(version, "here")
    for version in ("0.31.9", "1.0.0", "unknown"):
        with pytest.raises(EngineError, match=f"vLLM {version}, expected at least 0.32 and below 1.0"):
            require_version(version, "here")


def test_vllm_that_is_not_installed_is_one_sentence(tiny_model, monkeypatch):
    monkeypatch.setattr("polychromic.sampling.vllm.process._PACKAGES", ("no-such-package",))
    with pytest.raises(EngineError, match=r"not installed here; pip install 'vllm>=0.32,<1.0' .*sampling.url"):
        build_sampler(SamplerSettings(engine="vllm"), tiny_model, max_decode_batch=8, thinking="auto")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"url": "localhost:8000"}, "url: expected an address such as http://localhost:8000"),
        ({"adapter_folder": "adapters"}, "adapter_folder: expected an absolute path"),
        ({"options": {"dtype": "half"}}, "options: dtype follows from model.dtype; state it there"),
        ({"url": "http://a", "options": {"seed2": 1}}, "options are of vLLM in this process"),
        ({"served_model": "m"}, "served_model is of a server; it needs url"),
        ({"adress": "http://a"}, "adress: unknown key; engine vllm takes url, served_model"),
        ({"importance_cap": 0.5}, "greater than or equal to 1"),
        ({"probe_tolerance": 0}, "probe_tolerance: Input should be greater than 0"),
    ],
)
def test_keys_that_do_not_fit_are_named(keys, message):
    with pytest.raises(ValueError, match=message):
        SamplerSettings(engine="vllm", **keys)


def test_a_resolved_section_states_every_key():
    stated = SamplerSettings(engine="vllm", url="http://localhost:8000/v1/").model_dump()
    assert stated["url"] == "http://localhost:8000"
    assert stated["retry_seconds"] == 300.0
    assert SamplerSettings(**stated).model_dump() == stated
    assert SamplerSettings().model_dump() == {
        "engine": "local", "importance_correction": "none", "importance_level": "generation", "importance_cap": 2.0,
    }  # fmt: skip


def test_a_model_of_unknown_settings_is_refused(tiny_model):
    tiny_model.settings = None
    with pytest.raises(ConfigError, match="not loaded by its settings"):
        build_sampler(SamplerSettings(engine="vllm"), tiny_model, max_decode_batch=8, thinking="auto")


def test_a_base_is_probed_and_sampled_without_an_adapter(tiny_settings, tmp_path):
    model = load_language_model(tiny_settings)
    store = AdapterStore(str(tmp_path), shared=False)
    sampler = VllmSampler(model, ServedPolicy(ModelEngine(tiny_settings), store, 0.002))
    expected = LocalSampler(model).sample(PROMPTS, 4, PARAMETERS, SEEDS)
    assert [one.token_ids for one in chain(*sample(sampler))] == [one.token_ids for one in chain(*expected)]
    assert sampler.served.engine.numbers == []
    store.close()


def test_settings_of_the_base_are_compared_without_the_adapters():
    one, other = (ModelSettings(source="a", adapter=AdapterSettings(rank=rank)) for rank in (4, 8))
    assert one.model_dump_json(exclude={"adapter"}) == other.model_dump_json(exclude={"adapter"})
