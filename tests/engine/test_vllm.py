"""vLLM itself, on a CPU: `make vllm` sets up its environment and runs these."""

import math
from itertools import chain

import numpy as np
import pytest
import torch
from engine_setup import (
    HOSTILE,
    LONG_PROMPTS,
    OPTIONS,
    PARAMETERS,
    PROMPTS,
    SEEDS,
    TINY,
    fresh_model,
    move,
    sample,
    tokens,
    vllm_sampler,
    worst_difference,
)

pytest.importorskip("vllm")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("default"),  # vLLM's and its dependencies' own
]

from polychromic.errors import EngineError  # noqa: E402
from polychromic.models.chat import encode_prompt  # noqa: E402
from polychromic.models.loading import load_language_model  # noqa: E402
from polychromic.records import SamplingParameters  # noqa: E402
from polychromic.sampling.base import SamplerSettings, close_engines, taken_metrics  # noqa: E402
from polychromic.sampling.local import LocalSampler  # noqa: E402
from polychromic.sampling.vllm.engine import sampling_keys  # noqa: E402


def test_log_probabilities_are_the_trainers_before_and_after_an_update():
    model = fresh_model()
    sampler = vllm_sampler(model)
    first = sample(sampler)
    assert worst_difference(model, first) < 1e-3
    metrics = taken_metrics(sampler)
    assert metrics["engine/probe_mismatch"] < 1e-4
    assert metrics["engine/probe_share"] == pytest.approx(1.0, abs=0.01)
    move(model, seed=1)
    assert worst_difference(model, sample(sampler)) < 1e-3


def test_prompts_are_cached_and_an_adapter_never_takes_anothers(monkeypatch):
    model = fresh_model()
    sampler = vllm_sampler(model)
    generate = sampler.served.engine._llm.generate
    cached = []  # of each batch, the tokens of prompts whose keys and values vLLM had

    def watched(*arguments, **keys):
        outputs = generate(*arguments, **keys)
        cached.append(sum(output.num_cached_tokens for output in outputs))
        return outputs

    monkeypatch.setattr(sampler.served.engine._llm, "generate", watched)
    first = sample(sampler, prompts=LONG_PROMPTS)
    assert worst_difference(model, first, prompts=LONG_PROMPTS) < 1e-3
    assert tokens(sample(sampler, prompts=LONG_PROMPTS)) == tokens(first)
    assert cached[-1] == 32 * len(LONG_PROMPTS)
    move(model, seed=1)
    second = sample(sampler, prompts=LONG_PROMPTS)
    assert worst_difference(model, second, prompts=LONG_PROMPTS) < 1e-3
    assert tokens(second) != tokens(first)
    move(model, -0.05, seed=1)
    assert tokens(sample(sampler, prompts=LONG_PROMPTS)) == tokens(first)


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
    expected = torch.bincount(draw_tokens(logits.expand(200_000, -1), parameters, grid), minlength=22) / 200_000
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


def test_every_key_of_vllm_that_decides_what_is_drawn_is_stated():
    """Keys left at their default are listed here, so that a key of a later version is looked at before it is used."""
    from vllm import SamplingParams
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    neutral = {
        "allowed_token_ids": None, "bad_words": [], "extra_args": None, "logit_bias": None,
        "repetition_detection": None, "stop": [], "structured_outputs": None, "thinking_token_budget": None,
    }  # fmt: skip
    shows = {  # of the answer's form, the cache and the prompt, not of what is drawn
        "detokenize", "flat_logprobs", "include_stop_str_in_output", "logprob_token_ids", "output_kind",
        "output_text_buffer_length", "prompt_logprob_start", "prompt_logprob_token_ids", "prompt_logprobs",
        "routed_experts_prompt_start", "skip_clone", "skip_reading_prefix_cache", "skip_special_tokens",
        "spaces_between_special_tokens", "stream_interval", "trace_decode_token_ids",
    }  # fmt: skip
    keys = sampling_keys(PARAMETERS, 4, frozenset({1}))
    fields = {name for name in SamplingParams.__struct_fields__ if not name.startswith("_")}
    assert fields == keys.keys() | {"seed"} | neutral.keys() | shows
    asked = SamplingParams(**keys, seed=1)
    assert {name: getattr(asked, name) for name in neutral} == neutral
    # A server takes its own defaults for nothing that is stated.
    request = CompletionRequest(**keys, model="m", prompt=[1], seed=1)
    hostile = HOSTILE | {"presence_penalty": 1.0, "frequency_penalty": 1.0}
    served = request.to_sampling_params(keys["max_tokens"], hostile)
    assert {name: getattr(served, name) for name in keys} == {name: getattr(asked, name) for name in keys}
    assert {name: getattr(served, name) for name in neutral} == neutral


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
    monkeypatch.setattr(served.engine, "load_adapter", lambda name, _, folder: load(served._name, number, folder))
    monkeypatch.setattr(served, "_hand_over", lambda model: [type(served)._hand_over(served, model), served._name][1])
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
