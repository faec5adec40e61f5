"""Counts what a decoder is made of: parameters, adapters and the widths of its layers, without loading a weight.

Planned are dense decoders with gated feed-forward layers and grouped attention (Llama, Mistral, Qwen2, Qwen3): what
people fine-tune from 0.1 to 70 billion parameters. Another architecture is refused by name, for a formula that nobody
checked on it would be a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from polychromic.errors import ConfigError
from polychromic.experiment.resuming.inputs import cached_snapshot
from polychromic.models.settings import AdapterSettings, ModelSettings

KINDS = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` whose layers the formulas describe."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Widths of a decoder, in the words of its config.json."""

    kind: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    """True where the output head is the embedding matrix."""

    @property
    def query_width(self) -> int:
        """Returns the width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Returns the width of all key heads together; values have as much."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> Mapping[str, tuple[int, int]]:
        """Returns the linear layers of one decoder layer by name: (inputs, outputs)."""
        h, q, k, m = self.hidden, self.query_width, self.kv_width, self.intermediate
        return {
            "q_proj": (h, q), "k_proj": (h, k), "v_proj": (h, k), "o_proj": (q, h),
            "gate_proj": (h, m), "up_proj": (h, m), "down_proj": (m, h),
        }  # fmt: skip

    @property
    def linear_parameters(self) -> int:
        """Counts the weights of all decoder layers' matrices: what is quantized, and what a token is multiplied by."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def embedding_parameters(self) -> int:
        """Counts the embedding matrix, and the output head where it is another."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def small_parameters(self) -> int:
        """Counts norms and biases."""
        biases = sum(map(self._bias, self.linears))
        head_norms = 2 * self.head_dim if self.kind == "qwen3" else 0
        return self.layers * (2 * self.hidden + biases + head_norms) + self.hidden

    @property
    def parameters(self) -> int:
        """Counts all parameters of the base."""
        return self.linear_parameters + self.embedding_parameters + self.small_parameters

    def adapted(self, adapter: AdapterSettings) -> list[str]:
        """Lists the linear layers that have an adapter. Raises ConfigError where none has."""
        found = [name for name in self.linears if _targets(adapter, name)]
        if not found:
            raise ConfigError(
                f"model.adapter.target_modules {adapter.target_modules!r} names none of {', '.join(self.linears)}"
            )
        return found

    def adapter_parameters(self, adapter: AdapterSettings) -> int:
        """Counts the parameters of LoRA: r · (inputs + outputs) for each adapted matrix (Hu et al., 2021), and the
        magnitudes of DoRA."""
        count = 0
        for layer, name in product(range(self.layers), self.adapted(adapter)):
            inputs, outputs = self.linears[name]
            rank = _pattern_value(adapter.rank_pattern, _place(name, layer), adapter.rank)
            count += rank * (inputs + outputs) + (outputs if adapter.use_dora else 0)
        return count

    def trained_parameters(self, adapter: AdapterSettings) -> int:
        """Counts all that is trained: LoRA, biases of the base, modules that are trained whole, and embeddings of
        tokens and of whole vocabularies."""
        biased = self.adapted(adapter) if adapter.bias == "lora_only" else list(self.linears)
        biases = sum(self._bias(name) for name in biased) if adapter.bias != "none" else 0
        tokens = len(adapter.trainable_token_indices) * self.hidden
        ends = adapter.target_modules if isinstance(adapter.target_modules, list) else []
        of_ends = sum(
            _pattern_value(adapter.rank_pattern, name, adapter.rank) * (self.vocabulary + self.hidden)
            for name in ("embed_tokens", "lm_head")
            if name in ends and name not in adapter.exclude_modules
        )
        whole = sum(
            size
            for place, size in self._modules().items()
            if any(_is_below(place, name) for name in adapter.modules_to_save)
        )
        return self.adapter_parameters(adapter) + self.layers * biases + tokens + of_ends + whole

    def _bias(self, name: str) -> int:
        return self.linears[name][1] if self.kind == "qwen2" and name in ("q_proj", "k_proj", "v_proj") else 0

    def _modules(self) -> dict[str, int]:
        """Returns the parameters of every module that holds any, by its place."""
        table = self.vocabulary * self.hidden
        modules = {"model.embed_tokens": table, "lm_head": table, "model.norm": self.hidden}
        for layer in range(self.layers):
            for name, (inputs, outputs) in self.linears.items():
                modules[_place(name, layer)] = inputs * outputs + self._bias(name)
            for name in ("input_layernorm", "post_attention_layernorm"):
                modules[f"model.layers.{layer}.{name}"] = self.hidden
            for name in ("q_norm", "k_norm") if self.kind == "qwen3" else ():
                modules[f"model.layers.{layer}.self_attn.{name}"] = self.head_dim
        return modules


def _place(name: str, layer: int) -> str:
    return f"model.layers.{layer}.{'mlp' if name in ('gate_proj', 'up_proj', 'down_proj') else 'self_attn'}.{name}"


def _pattern_value(patterns: Mapping[str, int], place: str, otherwise: int) -> int:
    """Returns the value of the first pattern that names the module, as peft finds it."""
    fitting = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", place))
    return next(fitting, otherwise)


def _is_below(place: str, name: str) -> bool:
    """Tells whether a module, or one that it is a part of, ends as peft asks of those that it trains whole."""
    parts = place.split(".")
    return any(".".join(parts[: end + 1]).endswith(name) for end in range(len(parts)))


def _targets(adapter: AdapterSettings, name: str) -> bool:
    if name in adapter.exclude_modules:
        return False
    if isinstance(adapter.target_modules, list):
        return name in adapter.target_modules
    return adapter.target_modules == "all-linear" or re.fullmatch(adapter.target_modules, _place(name, 0)) is not None


def _qwen3(hidden: int, layers: int, heads: int, intermediate: int, *, tied: bool) -> ModelShape:
    return ModelShape("qwen3", hidden, layers, heads, 8, 128, intermediate, 151_936, tied)


PUBLISHED: Mapping[str, ModelShape] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": ModelShape("llama", 576, 30, 9, 3, 64, 1536, 49_152, True),
    "HuggingFaceTB/SmolLM2-360M-Instruct": ModelShape("llama", 960, 32, 15, 5, 64, 2560, 49_152, True),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": ModelShape("llama", 2048, 24, 32, 32, 64, 8192, 49_152, True),
    "Qwen/Qwen2.5-0.5B-Instruct": ModelShape("qwen2", 896, 24, 14, 2, 64, 4864, 151_936, True),
    "Qwen/Qwen2.5-7B-Instruct": ModelShape("qwen2", 3584, 28, 28, 4, 128, 18_944, 152_064, False),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 28, 16, 3072, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 28, 16, 6144, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 36, 32, 9728, tied=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 36, 32, 12_288, tied=False),
    "Qwen/Qwen3-14B": _qwen3(5120, 40, 40, 17_408, tied=False),
    "Qwen/Qwen3-32B": _qwen3(5120, 64, 64, 25_600, tied=False),
    "meta-llama/Llama-3.1-8B-Instruct": ModelShape("llama", 4096, 32, 32, 8, 128, 14_336, 128_256, False),
    "meta-llama/Llama-3.1-70B-Instruct": ModelShape("llama", 8192, 80, 64, 8, 128, 28_672, 128_256, False),
}
"""Shapes from the published config.json of models that are planned for where the hub cannot be asked."""


def shape_of(settings: ModelSettings) -> ModelShape:
    """Returns the shape of the model that `model.source` names: from its configuration where that is on this machine,
    else from `PUBLISHED`; no weights are read and nothing is downloaded.

    Raises ConfigError where neither has it, or its architecture has other layers than the formulas.
    """
    from polychromic.models.sources import resolve_source

    place = resolve_source(settings.source)
    folder = place if isinstance(place, Path) else cached_snapshot(place, settings.revision or "main")
    if folder is not None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
        return shape_from_config(config, settings.source)
    if settings.source in PUBLISHED:
        return PUBLISHED[settings.source]
    raise ConfigError(
        f"model.source: the configuration of {settings.source} is not on this machine, and memory cannot be planned "
        f"without it; download it (`hf download {settings.source} config.json`), or name one of {', '.join(PUBLISHED)}"
    )


def shape_from_config(config: Any, source: str) -> ModelShape:
    """Reads a transformers configuration; raises ConfigError where its kind is not one of `KINDS`."""
    if config.model_type not in KINDS:
        raise ConfigError(
            f"model.source: {source} is a {config.model_type} model; memory and time are planned for "
            f"{', '.join(KINDS)}. Leave the plan out: preflight measures any model on the machine itself"
        )
    heads = config.num_attention_heads
    return ModelShape(
        config.model_type,
        config.hidden_size,
        config.num_hidden_layers,
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
        config.intermediate_size,
        config.vocab_size,
        bool(config.tie_word_embeddings),
    )
