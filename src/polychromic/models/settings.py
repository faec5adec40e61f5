"""The `model` section of an experiment file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from polychromic.settings import Settings

_RESERVED_TEMPLATE_OPTIONS = {
    "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "return_dict", "return_tensors",
    "tokenize",
}  # fmt: skip


class AdapterSettings(Settings):
    """A LoRA adapter (Hu et al., 2021, arXiv:2106.09685)."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Applied to cross-entropy only: under dropout the sampled and the trained policy would differ."""
    target_modules: str | list[str] = "all-linear"
    """`all-linear` (every linear layer but the output head) or a list of module names."""
    exclude_modules: list[str] = Field(default_factory=list)
    """Module names that `target_modules` leaves out."""
    use_rslora: bool = False
    """Scale the update by alpha / √rank (Kalajdzievski, 2023, arXiv:2312.03732)."""
    use_dora: bool = False
    """Train magnitude and direction apart (Liu et al., 2024, arXiv:2402.09353)."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases of the base that are trained too."""
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    """Module name or pattern → rank, where it differs."""
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    """Module name or pattern → alpha, where it differs."""
    modules_to_save: list[str] = Field(default_factory=list)
    """Modules trained whole, such as `lm_head`; float32 only."""
    trainable_token_indices: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    """Token ids whose embeddings are trained."""
    start_from: str | None = None
    """Folder of a trained adapter to continue from, which the other keys have to describe; it is the KL reference
    too."""


class ModelSettings(Settings):
    """Source of the base model, its precision and its adapter."""

    source: str
    """`polychromic:arithmetic-tiny`, `smollm2-135m-instruct`, a folder, or any hub id of a causal language model."""
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["none", "nf4"] = "none"
    """`nf4` is QLoRA (Dettmers et al., 2023, arXiv:2305.14314) and needs a CUDA device and bitsandbytes."""
    trust_remote_code: bool = False
    chat_template_options: dict[str, Any] = Field(default_factory=dict)
    """Passed to the tokenizer's chat template, such as `enable_thinking: false`."""
    gradient_checkpointing: bool = False
    adapter: AdapterSettings = Field(default_factory=AdapterSettings)

    @field_validator("chat_template_options")
    @classmethod
    def _leaves_the_form_alone(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Refuses keys that training and sampling set themselves: where an answer begins, and that they get ids."""
        reserved = sorted(set(options) & _RESERVED_TEMPLATE_OPTIONS)
        if reserved:
            raise ValueError(
                f"{reserved[0]!r} is set by training and sampling themselves; expected options that the model's own "
                "template reads, such as enable_thinking"
            )
        return options

    @model_validator(mode="after")
    def _whole_modules_are_precise(self) -> Self:
        if self.adapter.modules_to_save and self.dtype != "float32":
            raise ValueError(
                f"adapter.modules_to_save: modules trained whole would be kept in {self.dtype}, where small updates "
                "are rounded away; set dtype to float32, or train these layers by LoRA (adapter.target_modules)"
            )
        return self
