"""The self-check: what it chooses, what it refuses, and that it leaves the model as it was."""

import dataclasses
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from polychromic.cli import app
from polychromic.errors import ModelError
from polychromic.models import decoding, selfcheck
from polychromic.models.adapters import attach_fresh, merged_adapter
from polychromic.models.loading import ForwardPath, load_base, load_language_model
from polychromic.models.selfcheck import check_prompts, self_check
from polychromic.tasks.arithmetic import ArithmeticTask

PROMPTS = [[3, 4, 5, 6], [5, 6, 7, 8, 9, 10], [4] * 20]


def trained(language_model):
    return {name: p.detach().clone() for name, p in language_model.model.named_parameters() if p.requires_grad}


def test_the_fast_way_is_taken_where_it_agrees_and_the_adapter_is_as_before(tiny_settings):
    language_model = load_language_model(tiny_settings, seed=1)
    before = trained(language_model)
    check = self_check(language_model, PROMPTS, 40, trains=True)
    assert check.path == language_model.path == ForwardPath("packed", "product", "merged")
    assert check.largest < 1e-4
    assert check.gradient < 1e-3
    assert not check.refused
    assert all(torch.equal(before[name], weight) for name, weight in trained(language_model).items())


def test_a_way_that_is_off_is_refused_with_the_difference_and_the_next_is_taken(tiny_model, monkeypatch):
    from polychromic.models import logprobs

    right = logprobs._decoder_output

    def off(language_model, rows):
        output = right(language_model, rows)
        if language_model.path.layout == "packed":
            output.last_hidden_state = output.last_hidden_state * 1.01
        return output

    monkeypatch.setattr(logprobs, "_decoder_output", off)
    check = self_check(tiny_model, PROMPTS, 40, trains=False)
    assert check.path.layout == "padded"
    assert "packed answers with product head: off by up to" in check.refused[0]


def test_a_loss_that_ignores_the_adapter_of_the_head_was_once_silent(tiny_settings):
    adapter = tiny_settings.adapter.model_copy(update={"target_modules": ["lm_head", "q_proj"]})
    language_model = load_language_model(tiny_settings.model_copy(update={"adapter": adapter}), seed=1)
    check = self_check(language_model, PROMPTS, 40, trains=True)
    assert check.path.head == "own"
    assert "not a plain matrix" in check.refused[0]


def test_weights_that_hold_nan_are_named(tiny_model):
    name, weight = next((n, p) for n, p in tiny_model.model.named_parameters() if "mlp" in n)
    with torch.no_grad():
        weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=f"1 of its weights hold nan or inf, such as {name}"):
        self_check(tiny_model, PROMPTS, 40, trains=False)


def test_prompts_reach_the_lengths_of_the_experiment_and_both_sides_of_a_window(tiny_model):
    assert [len(one) for one in check_prompts(tiny_model, PROMPTS, 40)] == [4, 6, 28]
    tiny_model.model.config.sliding_window = 16
    assert [len(one) for one in check_prompts(tiny_model, PROMPTS, 40)] == [4, 6, 10, 28]


def test_folding_is_left_where_it_would_not_be_exact(tiny_settings):
    language_model = load_language_model(tiny_settings.model_copy(update={"dtype": "bfloat16"}), seed=1)
    layer = next(m for m in language_model.model.modules() if hasattr(m, "lora_A"))
    with merged_adapter(language_model.model):
        assert not layer.merged_adapters


def test_only_the_adapter_drops_out_and_only_where_asked(tiny_settings):
    adapter = tiny_settings.adapter.model_copy(update={"dropout": 0.5})
    language_model = load_language_model(tiny_settings.model_copy(update={"adapter": adapter}), seed=1)

    def training():
        return {name for name, m in language_model.model.named_modules() if m.training}

    assert not training()
    with language_model.training_pass():
        assert not training()
    with language_model.training_pass(dropout=True):
        assert training()
        assert all(".lora_dropout." in name for name in training())
    assert not training()


def test_layers_are_checkpointed_in_policy_gradients_too(tiny_settings):
    from polychromic.models.logprobs import TokenSequence, answer_logprobs

    sequences = [TokenSequence((3, 4, 5, 6, 7), 3), TokenSequence((3, 4, 5, 8), 3)]
    gradients, calls = [], []
    for checkpointing in (False, True):
        settings = tiny_settings.model_copy(update={"gradient_checkpointing": checkpointing})
        language_model = load_language_model(settings, seed=1)
        layer = language_model.decoder.layers[0]
        layer.mlp.register_forward_pre_hook(lambda *_: calls.append(checkpointing))  # noqa: B023
        with language_model.training_pass():
            answer_logprobs(language_model, sequences).logprobs_BT.sum().backward()
        gradients.append([p.grad for p in language_model.model.parameters() if p.requires_grad])
    assert calls == [False, True, True]  # computed again in the backward pass
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("decoding", ["unmerged", "by_prompt", "uncached"])
def test_every_way_of_decoding_draws_the_same_tokens(tiny_model, decoding):
    from polychromic.records import SamplingParameters
    from polychromic.sampling.local import LocalSampler

    prompts = ArithmeticTask(test_problems=4).prompts("test")
    plain = dataclasses.replace(tiny_model, path=ForwardPath(decoding=decoding))
    fast, slow = (
        LocalSampler(one).sample(prompts, 3, SamplingParameters(max_new_tokens=12), [0, 1, 2, 3])
        for one in (tiny_model, plain)
    )
    for group, other in zip(fast, slow, strict=True):
        assert [one.token_ids for one in group] == [one.token_ids for one in other]
        assert [one.logprob for one in group] == pytest.approx([one.logprob for one in other], abs=1e-4)


def test_the_verb_prints_a_table_and_fails_where_something_is_wrong():
    runner = CliRunner()
    right = runner.invoke(app, ["check", "polychromic:arithmetic-tiny", "--length", "48"])
    assert right.exit_code == 0
    assert "nats per token from a plain forward pass" in right.output
    assert "the same tokens as `generate`" in right.output
    wrong = runner.invoke(app, ["check", "polychromic:arithmetic-tiny", "--length", "500"])
    assert wrong.exit_code == 1
    assert "--length 500 is longer" in wrong.output


def quantized(language_model, compute_dtype):
    """Makes a model say of itself what transformers has one say whose weights are 4-bit numbers."""
    facts = {"load_in_4bit": True, "bnb_4bit_compute_dtype": compute_dtype}
    language_model.causal_model.config.quantization_config = SimpleNamespace(**facts, to_dict=dict)
    return language_model


def test_quantized_weights_are_held_to_the_rounding_of_the_dtype_that_they_are_computed_in(tiny_model, monkeypatch):
    # What is not quantized is kept in float32, and no product of 4-bit weights agreed to a ten-thousandth: with
    # bfloat16 or float16, `quantization: nf4` was refused on every model.
    assert tiny_model.dtype == torch.float32
    right = decoding.decode_samples

    def off(*arguments):
        rows = right(*arguments)
        return [replace(row, logprobs=[logprob - 0.002 for logprob in row.logprobs]) for row in rows]

    monkeypatch.setattr(selfcheck, "decode_samples", off)
    with pytest.raises(ModelError, match="sampling does not agree"):
        self_check(tiny_model, PROMPTS, 40, trains=True)
    quantized(tiny_model, torch.bfloat16)
    check = self_check(tiny_model, PROMPTS, 40, trains=True)
    assert check.dtype == "bfloat16"
    assert not check.refused


def test_quantized_weights_are_checkpointed_only_where_asked(tiny_settings):
    # peft checkpoints them unless it is told otherwise, in a way under which no gradient agreed with the plain one.
    base, _ = load_base(tiny_settings)
    base.is_loaded_in_4bit = True
    model = attach_fresh(base, tiny_settings.adapter, quantized=True)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_losses_of_weights_computed_in_float16_are_scaled(tiny_model):
    assert quantized(tiny_model, torch.float16).dtype == torch.float16  # what `Step.make` asks
