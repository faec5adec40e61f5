"""Tiny models with random weights of every architecture that transformers can build: two layers, hidden size 32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

VOCABULARY = 320
WINDOW = 8
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "d_ff", "ffn_hidden_size"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 256),
    "head_dim": 8,
    "rotary_dim": 4,
    "sliding_window": WINDOW,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    "num_experts_per_tok": 2,
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"), 1),
    "q_lora_rank": 16,
    **dict.fromkeys(("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
    "mamba_n_groups": 1,
    "state_size": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""Every key that a configuration knows of these is set."""

_LATENT: dict[str, Any] = {"num_key_value_heads": 4}
_LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_WINDOWED: dict[str, Any] = {
    "use_sliding_window": True,
    "layer_types": ["sliding_attention", "full_attention"],
}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, {})
        for name in (
            "afmoe", "apertus", "arcee", "aria_text", "bart", "bert", "bigbird_pegasus", "biogpt", "bitnet",
            "blenderbot", "bloom", "codegen", "cohere", "cohere2", "cohere2_moe", "ctrl", "cwm", "deepseek_v4",
            "diffllama", "doge", "dots1", "electra", "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe",
            "falcon_mamba", "flex_olmo", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "glm4_moe", "gpt2",
            "gpt_bigcode", "gpt_neox", "gpt_neox_japanese", "gpt_oss", "gptj", "granite", "granite_swa",
            "granitemoe", "granitemoeshared", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "hyperclovax",
            "jais2", "jetmoe", "lfm2", "llama", "llama4_text", "mamba", "marian", "mbart", "mimo_v2_flash",
            "minimax_m2", "ministral", "ministral3", "mistral", "mixtral", "modernbert-decoder", "mpt", "nanochat",
            "nemotron", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe", "openai-gpt", "opt", "pegasus",
            "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "roberta",
            "rwkv", "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "vaultgemma", "xglm",
        )
    },
    "bamba": ("bamba", {"attn_layer_indices": [1]}),
    "deepseek_v2": ("deepseek_v2", _LATENT),
    "deepseek_v3": ("deepseek_v3", _LATENT),
    "deepseek_v32": ("deepseek_v32", _LATENT),
    "falcon": ("falcon", {"head_dim": None}),
    "falcon, ALiBi": ("falcon", {"head_dim": None, "alibi": True}),
    "falcon_h1": ("falcon_h1", {"mamba_d_ssm": 64}),
    "glm4_moe_lite": ("glm4_moe_lite", _LATENT),
    "gpt_neo": ("gpt_neo", {"attention_types": [[["global", "local"], 1]], "window_size": WINDOW}),
    "granite, scaled": ("granite", {"logits_scaling": 8.0, "embedding_multiplier": 4.0, "residual_multiplier": 0.5}),
    "granitemoehybrid": ("granitemoehybrid", {"layer_types": ["mamba", "attention"]}),
    "jamba": ("jamba", {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4}),
    "lfm2, convolutions": ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    "lfm2_moe": ("lfm2_moe", {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1}),
    "mamba2": ("mamba2", {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}),
    "minicpm3": ("minicpm3", {**_LATENT, "dim_model_base": 32}),
    "minimax": ("minimax", {"layer_types": ["linear_attention", "full_attention"]}),
    "qwen2, windows": ("qwen2", _WINDOWED),
    "qwen3, windows": ("qwen3", _WINDOWED),
    "qwen3_5_moe_text": ("qwen3_5_moe_text", _LINEAR),
    "qwen3_5_text": ("qwen3_5_text", _LINEAR),
    "qwen3_next": ("qwen3_next", _LINEAR),
    "recurrent_gemma": ("recurrent_gemma", {"num_hidden_layers": 3, "lru_width": 32}),
}  # fmt: skip
"""Name in the table → model type of transformers, and what its configuration needs besides `SMALL`."""

TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)
_TEXT = "What is a good use for an old brick? One is a door stop, another a book end; some say an anvil. 0123456789"


def build(name: str, folder: Path) -> Path:
    """Write a model of the architecture and a tokenizer into `folder`, as `save_pretrained` does."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type, special = ARCHITECTURES[name]
    kind = CONFIG_MAPPING[model_type]
    known = kind()
    keys = {key: value for key, value in SMALL.items() if key not in special and hasattr(known, key)}
    config = kind(**keys, **{key: value for key, value in special.items() if value is not None})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # as they are made, tiny models say the same of every token
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> Any:
    """A byte-level BPE of at most `VOCABULARY` tokens with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([_TEXT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
