"""Plans are what torch, transformers and peft make of the same shape: parameters, kept tensors, operations."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment
from polychromic.experiment.planning.memory import (
    LOGITS_AT_ONCE,
    SamplingLoad,
    TrainingLoad,
    adapter_bytes,
    cache_bytes,
    kept_activation_bytes,
    plan_memory,
    weight_bytes,
)
from polychromic.experiment.planning.run_plan import (
    Lengths,
    overview_lines,
    plan_lines,
    plan_notes,
    plan_run,
    read_lengths,
)
from polychromic.experiment.planning.shapes import KINDS, PUBLISHED, shape_from_config, shape_of
from polychromic.experiment.planning.time import HARDWARE, decoding_flops, training_flops
from polychromic.ledger import priced_duration
from polychromic.models.adapters import attach_fresh
from polychromic.models.loading import LanguageModel
from polychromic.models.logprobs import TokenSequence, answer_logprobs
from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.objective import losses

PROMPT, ANSWER, PROMPTS, SAMPLES = 40, 20, 2, 4
LOAD = TrainingLoad(PROMPTS, PROMPT + SAMPLES * ANSWER, PROMPTS * SAMPLES * ANSWER)
SEQUENCES = [
    TokenSequence((5 + prompt,) * PROMPT + (7,) * ANSWER, PROMPT) for prompt in range(PROMPTS) for _ in range(SAMPLES)
]


class Tokenizer:
    pad_token_id = 0


def config_of(kind, **changes):
    keys = {
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "intermediate_size": 384, "vocab_size": 512, "tie_word_embeddings": True, "sliding_window": None,
    }  # fmt: skip
    return AutoConfig.for_model(kind, **{**keys, **changes})


def build(settings, kind="llama", attention="sdpa"):
    config = config_of(kind)
    dtype = getattr(torch, settings.dtype)
    base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    if settings.gradient_checkpointing:
        enable = getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
        base.enable_input_require_grads()
    base.requires_grad_(requires_grad=False)
    model = attach_fresh(base, settings.adapter, quantized=False).eval()
    return LanguageModel(model, Tokenizer(), frozenset({1}), {}), shape_from_config(config, kind)


@pytest.mark.parametrize(
    ("source", "parameters"),
    [  # of the published checkpoints
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.1-70B-Instruct", 70_553_706_496),
    ],
)
def test_published_models_have_their_published_size(source, parameters):
    assert PUBLISHED[source].parameters == parameters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_that_transformers_makes(kind, tied):
    config = config_of(kind, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape_from_config(config, kind).parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "adapter",
    [
        AdapterSettings(rank=8),
        AdapterSettings(rank=4, target_modules=["q_proj", "v_proj"]),
        AdapterSettings(rank=4, target_modules=r".*mlp\.(gate|up)_proj"),
        AdapterSettings(rank=4, exclude_modules=["down_proj"]),
        AdapterSettings(rank=4, use_dora=True),
        AdapterSettings(rank=4, rank_pattern={"q_proj": 2, r"layers\.0\..*\.up_proj": 8}),
        AdapterSettings(rank=4, modules_to_save=["lm_head"]),
        AdapterSettings(rank=4, target_modules=["q_proj"], modules_to_save=["norm", "k_proj"], use_dora=True),
        AdapterSettings(rank=4, target_modules=["q_proj", "embed_tokens"], trainable_token_indices=[]),
        AdapterSettings(rank=4, trainable_token_indices=[3, 5]),
        AdapterSettings(rank=4, target_modules=["q_proj"], bias="lora_only"),
        AdapterSettings(rank=4, target_modules=["q_proj"], bias="all"),
    ],
)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_an_adapter_has_the_parameters_that_peft_makes(adapter, kind):
    """Past bug: what an adapter trains beside LoRA's matrices was planned with no memory."""
    language_model, shape = build(ModelSettings(source="a/b", adapter=adapter), kind)
    trained = sum(p.numel() for p in language_model.model.parameters() if p.requires_grad)
    assert shape.trained_parameters(adapter) == trained


def test_an_adapter_on_no_layer_is_refused():
    with pytest.raises(ConfigError, match="names none of q_proj"):
        PUBLISHED["Qwen/Qwen3-8B"].adapted(AdapterSettings(target_modules=["query"]))


def kept_bytes(language_model, *, dropout):
    """Bytes of the tensors that autograd keeps for the backward pass, weights left out."""
    parts = itertools.chain(language_model.model.parameters(), language_model.model.buffers())
    weights = {part.untyped_storage().data_ptr() for part in parts}
    kept, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # its address must not be given to another
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, language_model.training_pass(dropout=dropout):
        answer_logprobs(language_model, SEQUENCES)
    return sum(kept.values())


@pytest.mark.parametrize(
    ("kind", "dtype", "checkpointing", "dropout", "target_modules"),
    [
        ("llama", "float32", False, 0.0, "all-linear"),
        ("qwen3", "float32", False, 0.0, "all-linear"),
        ("qwen2", "float32", False, 0.0, ["q_proj", "v_proj", "down_proj"]),
        ("llama", "bfloat16", False, 0.0, "all-linear"),
        ("llama", "float32", False, 0.1, "all-linear"),
        ("llama", "float32", True, 0.0, "all-linear"),
        ("qwen3", "bfloat16", True, 0.0, "all-linear"),
    ],
)
def test_activations_are_what_autograd_keeps(kind, dtype, checkpointing, dropout, target_modules):
    adapter = AdapterSettings(rank=8, dropout=dropout, target_modules=target_modules)
    settings = ModelSettings(source="a/b", dtype=dtype, gradient_checkpointing=checkpointing, adapter=adapter)
    language_model, shape = build(settings, kind)
    planned = kept_activation_bytes(shape, settings, LOAD, on_gpu=False)
    assert planned == pytest.approx(kept_bytes(language_model, dropout=dropout > 0), rel=0.03)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_of_training_are_those_that_torch_counts(checkpointing):
    settings = ModelSettings(source="a/b", gradient_checkpointing=checkpointing, adapter=AdapterSettings(rank=8))
    language_model, shape = build(settings, attention="eager")  # torch does not count its own kernel on a CPU
    with FlopCounterMode(display=False) as counter, language_model.training_pass():
        answer_logprobs(language_model, SEQUENCES).logprobs_BT.sum().backward()
    assert training_flops(shape, settings, LOAD) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_operations_of_decoding_are_those_that_torch_counts():
    from polychromic.models.decoding import decode_samples, decoding
    from polychromic.records import SamplingParameters

    settings = ModelSettings(source="a/b", adapter=AdapterSettings(rank=8))
    language_model, shape = build(settings, attention="eager")
    language_model.stop_ids = frozenset({-1})
    uniforms = torch.rand(PROMPTS * SAMPLES, ANSWER, dtype=torch.float64)
    with decoding(language_model), FlopCounterMode(display=False) as counter:
        decode_samples(
            language_model,
            [[3] * PROMPT] * PROMPTS,
            SAMPLES,
            SamplingParameters(max_new_tokens=ANSWER),
            uniforms,
        )
    planned = decoding_flops(shape, SamplingLoad(PROMPTS * SAMPLES, PROMPT + ANSWER), PROMPT, PROMPTS)
    # No adapter is multiplied: it is folded into the weights.
    assert planned == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_cache_is_what_the_model_keeps():
    settings = ModelSettings(source="a/b", adapter=AdapterSettings(rank=8))
    language_model, shape = build(settings)
    ids = torch.full((8, PROMPT), 3)
    cache = language_model.model(input_ids=ids, use_cache=True).past_key_values
    held = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    planned = cache_bytes(shape, settings, SamplingLoad(8, PROMPT))
    assert planned == held * (shape.layers + 1) / shape.layers  # one layer is copied to a longer one


def test_quantized_weights_leave_embeddings_in_float32():
    shape = PUBLISHED["Qwen/Qwen3-8B"]
    settings = ModelSettings(source="Qwen/Qwen3-8B", dtype="bfloat16", quantization="nf4")
    linear, rest = 6_945_767_424, 2 * 151_936 * 4096 + 308_224
    assert (shape.linear_parameters, shape.parameters - shape.linear_parameters) == (linear, rest)
    assert weight_bytes(shape, settings) == pytest.approx(linear * (0.5 + 1 / 64 + 1 / 4096) + 4 * rest)


def test_an_adapter_is_held_with_gradients_and_moments():
    shape, settings = PUBLISHED["Qwen/Qwen3-0.6B"], ModelSettings(source="a/b")
    n = shape.adapter_parameters(settings.adapter)
    assert adapter_bytes(shape, settings, separate_terms=False) == 16 * n
    assert adapter_bytes(shape, settings, trained=False) == 4 * n


def test_the_part_of_logits_is_the_one_that_training_makes():
    assert LOGITS_AT_ONCE == losses.LOGITS_AT_ONCE


def test_more_is_never_planned_with_less():
    shape = PUBLISHED["Qwen/Qwen3-4B"]
    settings = ModelSettings(source="a/b", dtype="bfloat16")
    checkpointed = settings.model_copy(update={"gradient_checkpointing": True})
    sampling = SamplingLoad(64, 512)
    whole, less = (plan_memory(shape, one, LOAD, sampling) for one in (settings, checkpointed))
    assert less.activations < whole.activations
    assert training_flops(shape, checkpointed, LOAD) > training_flops(shape, settings, LOAD)
    assert plan_memory(shape, settings, LOAD, SamplingLoad(128, 512)).decoding > whole.decoding
    assert whole.peak == max(whole.training, whole.decoding)


def test_the_first_experiment_is_planned_for_one_gpu():
    experiment = Experiment.from_file(
        "experiments/qwen3-8b-replies.yaml", ["budget.dollars_per_hour=2", "budget.max_dollars=60"]
    )
    lengths = read_lengths(experiment)
    assert lengths.prompts == 6000
    plan = plan_run(experiment, HARDWARE["H100"], lengths)
    assert plan.fits
    assert plan.dollars == pytest.approx(plan.seconds / 3600 * 2)
    by_arm = {arm.arm: arm for arm in plan.arms}
    # λ = 0 samples nothing while training, and the untrained model is only sampled.
    assert by_arm["baseline"].training_seconds < by_arm["moderate"].training_seconds
    assert by_arm["untrained"].training_seconds == 0.0
    jobs = sum(by_arm[arm].training_seconds + by_arm[arm].evaluation_seconds for arm, _ in experiment.jobs)
    assert 0 < plan.seconds - jobs < 3600  # the machine's own start
    lines = plan_lines(plan)
    assert lines[0].startswith("H100: at most ")
    assert f"${plan.dollars:.2f}" in lines[-1]
    small = replace(plan, hardware=HARDWARE["L4"], seconds=2 * plan.seconds, dollars=None)
    rows = overview_lines([plan, small])
    assert [row.split()[0] for row in rows[:3]] == ["GPU", "H100", "L4"]
    assert f"fits  {priced_duration(plan.seconds, plan.dollars)}" in rows[1]
    assert len({row.index("fits") for row in rows[1:3]}) == 1  # one column
    assert "--on H100" in rows[-1]
    in_half = plan_run(
        Experiment.from_file("experiments/qwen3-8b-replies.yaml", ["model.quantization=none"]),
        HARDWARE["L4"],
        lengths,
    )
    assert not in_half.fits
    assert "too small" in overview_lines([in_half])[1]
    assert in_half.dollars is None


def test_a_divergence_and_early_stopping_take_time_too():
    """Past bug: neither the pass of the reference nor the validation prompts that are sampled were counted."""
    file, lengths = "experiments/quickstart.yaml", Lengths(1000, 100.0, 200, 0.0, 0, 0.0)

    def seconds(**training):
        experiment = Experiment.from_file(file, {f"training.{key}": value for key, value in training.items()})
        plan = plan_run(experiment, HARDWARE["H100"], lengths, PUBLISHED["Qwen/Qwen3-8B"])
        return plan.arms[0].training_seconds

    size = {"steps": 100, "prompts_per_step": 8, "num_samples": 8, "max_new_tokens": 200, "max_decode_batch": 64}
    alone = seconds(**size)
    assert 1.02 < seconds(**size, kl_weight=0.1) / alone < 1.5
    watched = seconds(**size, early_stopping={"check_every": 10, "num_prompts": 80, "num_samples": 8})
    sampling = seconds(**size, early_stopping={"check_every": 1, "num_prompts": 8, "num_samples": 8}) - alone
    assert watched - alone == pytest.approx(sampling)  # ten times the prompts of a step, every tenth step


def test_engines_that_are_not_planned_are_named():
    """Past bug: a file that samples with vLLM was planned as if it sampled with the local sampler, without a word."""
    file = "experiments/quickstart.yaml"
    assert plan_notes(Experiment.from_file(file)) == []
    [said] = plan_notes(Experiment.from_file(file, ["sampling.engine=vllm"]))
    assert said.startswith("not planned: sampling.engine vllm; memory and time are those of the local sampler; vLLM in")
    [said] = plan_notes(Experiment.from_file(file, ["sampling={engine: vllm, url: 'http://gpu:8000'}"]))
    assert said.endswith("those of the local sampler")
    [said] = plan_notes(Experiment.from_file(file, ["training.engine=trl"]))
    assert said == "not planned: training.engine trl; memory and time are those of the local trainer"


def test_a_shape_that_nobody_checked_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="gpt2 model"):
        shape_from_config(AutoConfig.for_model("gpt2"), "mine")
    with pytest.raises(ConfigError, match="not on this machine"):
        shape_of(ModelSettings(source="nobody/unheard-of"))
    AutoConfig.for_model("qwen2", hidden_size=64, num_attention_heads=4, num_key_value_heads=2).save_pretrained(
        tmp_path
    )
    assert shape_of(ModelSettings(source=str(tmp_path))).kv_width == 32


def table_of_models():
    """The rows of the page's table of models, as lists of cells."""
    page = Path("docs/scaling.md").read_text(encoding="utf-8")
    rows = [line.strip("| \n").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [row for row in rows if any(name.split("/")[-1].startswith(row[0]) for name in PUBLISHED)]


@pytest.mark.parametrize("row", table_of_models(), ids=lambda row: row[0])
def test_the_page_says_what_is_computed(row):
    shape = next(shape for name, shape in PUBLISHED.items() if name.split("/")[-1].startswith(row[0]))
    load, sampling = TrainingLoad(2, 256 + 8 * 256, 16 * 256), SamplingLoad(64, 512)
    half = ModelSettings(source="a/b", dtype="bfloat16")
    checkpointed = half.model_copy(update={"gradient_checkpointing": True})
    quantized = checkpointed.model_copy(update={"quantization": "nf4"})
    whole, less, small = (plan_memory(shape, one, load, sampling) for one in (half, checkpointed, quantized))
    expected = [
        [less.weights, small.weights], [less.adapter], [whole.activations, less.activations],
        [less.cache + less.sampling, small.cache + small.sampling], [less.peak, small.peak],
    ]  # fmt: skip
    for cell, values in zip(row[1:6], expected, strict=True):
        for stated, value in zip(map(float, cell.split(" / ")), values, strict=True):
            assert stated == pytest.approx(value / 1e9, rel=0.05, abs=0.06)


def test_the_page_has_models_of_all_sizes():
    assert len(table_of_models()) == 8
