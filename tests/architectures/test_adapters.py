"""Every kind of LoRA adapter, and half precision: what is sampled is trained is saved, or a sentence says why not."""

import pytest
import torch
from tests.architectures.rows import examine

KINDS = {
    "rank-stabilised": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "all biases": {"bias": "all"},
    "biases of adapted layers": {"bias": "lora_only"},
    "rank and alpha patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32.0}},
    "whole output head": {"modules_to_save": ["lm_head"]},
    "whole embedding": {"modules_to_save": ["embed_tokens"]},
    "adapter on the output head": {"target_modules": ["q_proj", "lm_head"]},
    "adapter on the head alone": {"target_modules": ["lm_head"]},
    "adapter on the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "some tokens": {"trainable_token_indices": [5, 40, 41]},
    "without some layers": {"exclude_modules": ["q_proj"]},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["qwen2", pytest.param("gemma2", marks=pytest.mark.slow)])
def test_every_kind_of_adapter(name, kind, tmp_path):
    row = examine(name, tmp_path, **KINDS[kind])
    assert row.is_right, row


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "qwen2", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_half_precision_trains_and_samples_with_a_float32_adapter(name, dtype, tmp_path):
    row = examine(name, tmp_path, dtype=dtype)
    assert not row.refused
    assert row.saved_difference <= {"bfloat16": 0.02, "float16": 0.003}[dtype]
    assert 0 < row.mismatch <= 0.02


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_trains_and_samples_on_cuda(dtype, tmp_path):
    assert torch.cuda.is_available()
    row = examine("qwen2", tmp_path, dtype=dtype)
    assert not row.refused
    assert row.mismatch <= 0.02


def test_weights_trained_whole_in_half_precision_are_refused(tmp_path):
    row = examine("gpt2", tmp_path, dtype="bfloat16", bias="all")
    assert "half precision" in row.refused
    assert "model.dtype to float32" in row.refused


def test_a_module_that_is_not_there_is_named(tmp_path):
    row = examine("llama", tmp_path, target_modules=["query_key_value"])
    assert "model.adapter.target_modules: 'query_key_value': " in row.refused
