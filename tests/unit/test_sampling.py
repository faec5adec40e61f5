"""The local sampler: exact inverse transform, batching that changes nothing, stopping."""

import math

import pytest
import torch

from polychromic.errors import DataError, ModelError
from polychromic.models import decoding
from polychromic.models.adapters import merged_adapter
from polychromic.models.chat import encode_prompt
from polychromic.models.decoding import draw_tokens
from polychromic.records import Prompt, SamplingParameters, as_messages
from polychromic.sampling.local import LocalSampler
from polychromic.tasks.arithmetic import ArithmeticTask


def tokens_over_a_grid(logits, parameters, points=10_000):
    uniforms = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    tokens = draw_tokens(logits.expand(points, -1), parameters, uniforms)
    return torch.bincount(tokens, minlength=logits.shape[-1]) / points


def test_a_uniform_grid_draws_each_token_in_proportion():
    logits = torch.tensor([[0.0, 1.0, -1.0, 3.0]])
    shares = tokens_over_a_grid(logits, SamplingParameters(temperature=0.8))
    torch.testing.assert_close(shares, torch.softmax(logits[0] / 0.8, -1), atol=2e-4, rtol=0)


def test_nucleus_and_min_p_keep_the_tokens_that_transformers_keeps():
    from transformers import MinPLogitsWarper, TopPLogitsWarper

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randn(1, 30, generator=generator) * 2
        for parameters, warper in (
            (SamplingParameters(top_p=0.7), TopPLogitsWarper(0.7)),
            (SamplingParameters(min_p=0.1), MinPLogitsWarper(0.1)),
        ):
            expected = torch.softmax(warper(None, logits.clone()), -1)[0]
            torch.testing.assert_close(tokens_over_a_grid(logits, parameters), expected, atol=2e-3, rtol=0)


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]])
    for uniform in (0.0, 0.5, 1 - 1e-12):
        assert draw_tokens(logits, SamplingParameters(), torch.tensor([uniform], dtype=torch.float64)) == 1


def test_generations_do_not_depend_on_the_batch(tiny_model):
    prompts = ArithmeticTask(test_problems=12).prompts("test")
    parameters = SamplingParameters(max_new_tokens=20)
    seeds = list(range(len(prompts)))
    together = LocalSampler(tiny_model, max_decode_batch=1000).sample(prompts, 6, parameters, seeds)
    apart = LocalSampler(tiny_model, max_decode_batch=6).sample(prompts, 6, parameters, seeds)
    assert [[one.text for one in group] for group in together] == [[one.text for one in group] for group in apart]


def test_cold_sampling_is_greedy_decoding(tiny_model):
    prompts = ArithmeticTask(test_problems=8).prompts("test")
    groups = LocalSampler(tiny_model).sample(prompts, 1, SamplingParameters(1e-4, max_new_tokens=20), [0] * 8)
    for prompt, [generation] in zip(prompts, groups, strict=True):
        input_ids = torch.tensor([encode_prompt(tiny_model.tokenizer, prompt)])
        with torch.inference_mode():
            output = tiny_model.model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                do_sample=False,
                max_new_tokens=20,
                eos_token_id=sorted(tiny_model.stop_ids),
            )
        assert tuple(output[0, input_ids.shape[1] :].tolist()) == generation.token_ids


def test_generations_end_at_the_stop_token_or_say_that_they_were_cut(tiny_model):
    prompts = ArithmeticTask(test_problems=20).prompts("test")
    for limit in (3, 24):
        groups = LocalSampler(tiny_model).sample(prompts, 8, SamplingParameters(max_new_tokens=limit), range(20))
        for generation in (one for group in groups for one in group):
            stops = [token in tiny_model.stop_ids for token in generation.token_ids]
            assert not any(stops[:-1])
            assert generation.finish == ("stop" if stops[-1] else "length")
            assert len(generation.token_ids) <= limit
            assert generation.finish == "stop" or len(generation.token_ids) == limit


def test_folding_the_adapter_in_changes_neither_output_nor_weights(tiny_model):
    input_ids = torch.tensor([encode_prompt(tiny_model.tokenizer, ArithmeticTask().prompts("test")[0])])
    before = {name: tensor.clone() for name, tensor in tiny_model.model.state_dict().items()}
    with torch.inference_mode():
        apart = tiny_model.model(input_ids=input_ids).logits
        with merged_adapter(tiny_model.model):
            folded = tiny_model.model(input_ids=input_ids).logits
        again = tiny_model.model(input_ids=input_ids).logits
    torch.testing.assert_close(folded, apart, atol=1e-4, rtol=1e-4)
    assert torch.equal(apart, again)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny_model.model.state_dict().items())


def test_a_prompt_longer_than_the_context_is_named(tiny_model):
    long = Prompt("too-long", as_messages("1+" * 40))
    with pytest.raises(DataError, match=r"too-long \(80 tokens\)"):
        LocalSampler(tiny_model).sample([long], 1, SamplingParameters(max_new_tokens=8), [0])


def test_a_generation_carries_the_log_probability_that_training_computes(tiny_model):
    from polychromic.models.logprobs import TokenSequence, answer_logprobs

    prompts = ArithmeticTask(test_problems=6).prompts("test")
    parameters = SamplingParameters(0.7, top_p=0.9, max_new_tokens=20)
    groups = LocalSampler(tiny_model).sample(prompts, 4, parameters, range(6))
    for prompt, group in zip(prompts, groups, strict=True):
        prompt_ids = tuple(encode_prompt(tiny_model.tokenizer, prompt))
        sequences = [TokenSequence(prompt_ids + one.token_ids, len(prompt_ids)) for one in group]
        with torch.inference_mode():
            expected = answer_logprobs(tiny_model, sequences, temperature=0.7).logprobs_BT.sum(dim=1)
        torch.testing.assert_close(torch.tensor([one.logprob for one in group]), expected, atol=1e-3, rtol=1e-4)


def test_logits_that_are_nan_are_an_error_and_never_the_last_token(tiny_model, monkeypatch):
    """Past bug: the draw from nan was clamped to the last token of the vocabulary."""

    def broken(logits_BV, parameters, uniforms_B):
        return draw_tokens(logits_BV.fill_(math.nan), parameters, uniforms_B)

    monkeypatch.setattr(decoding, "draw_tokens", broken)
    with pytest.raises(ModelError, match="logits are not numbers for 2 of 2 generations: its weights hold nan"):
        LocalSampler(tiny_model).sample(
            ArithmeticTask().prompts("test")[:1], 2, SamplingParameters(max_new_tokens=3), [0]
        )
