"""Limits that a model's configuration sets: tokens of context, and token ids that it has an embedding for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

UNLIMITED = 1 << 30
"""The context of a model that states none: one without positions, or with ones that go on."""

_POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_seq_length",
    "max_sequence_length",
    "seq_length",
    "max_target_positions",
)
_BLOCKED_POSITIONS = {
    "roberta",
    "xlm-roberta",
    "camembert",
    "data2vec-text",
    "roberta-prelayernorm",
    "xlm-roberta-xl",
}
_BLOCKED_POSITIONS |= {"xmod", "kosmos-2", "kosmos-2.5"}
"""Model types whose table of positions begins behind the padding token's: fewer tokens fit than it has rows."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Most tokens of prompt and answer together (UNLIMITED where nothing bounds them), and rows of the embedding
    matrix: token ids from there on do not exist (None where the configuration does not say)."""

    context: int
    rows: int | None


def model_limits(config: PretrainedConfig) -> ModelLimits:
    """Limits from wherever a configuration keeps them: its own keys, or those of its text part or decoder."""
    text = config.get_text_config(decoder=True)
    rows = _count(getattr(text, "vocab_size", None))
    return ModelLimits(UNLIMITED if _has_alibi(text) else _context(text), rows or None)


def _context(config: Any) -> int:
    stated = next((number for name in _POSITIONS if (number := _count(getattr(config, name, None)))), 0)
    if not stated:
        return UNLIMITED
    if config.model_type in _BLOCKED_POSITIONS:
        return stated - int(config.pad_token_id or 0) - 1
    return max(stated, _stretched(config, stated))


def _stretched(config: Any, stated: int) -> int:
    """Tokens that rotary positions are stretched to, where the stated number is that before stretching."""
    rope: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    factor = rope.get("factor")
    if rope.get("rope_type", rope.get("type")) not in ("linear", "dynamic", "yarn") or not factor:
        return stated  # of other kinds (llama3, longrope) the stated number is already that after stretching
    return int(float(factor) * (_count(rope.get("original_max_position_embeddings")) or stated))


def _has_alibi(config: Any) -> bool:
    """Whether attention is biased by distance in place of positions, as in BLOOM, and by choice in Falcon and MPT."""
    attention: Any = getattr(config, "attn_config", None) or {}
    chosen = attention.get("alibi") if isinstance(attention, dict) else getattr(attention, "alibi", False)
    return config.model_type == "bloom" or bool(getattr(config, "alibi", False) or chosen)


def _count(value: Any) -> int:
    """The value where it is a positive number, else 0."""
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0
