"""A base model with its LoRA adapter, tokenizer and stop tokens, ready to train and to sample from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from polychromic.errors import DataError, ModelError
from polychromic.files import read_json, write_json
from polychromic.foreign_weights import (
    loading_weights,
    require_lora_adapter,
    require_safe_folder,
    require_whole_adapter,
)
from polychromic.models.chat import stop_token_ids
from polychromic.models.limits import UNLIMITED, ModelLimits, model_limits
from polychromic.models.settings import AdapterSettings, ModelSettings
from polychromic.models.sources import resolve_source
from polychromic.models.templates import require_template_ends
from polychromic.records import Prompt

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class LanguageModel:
    """A model and what is needed to talk to it. `model` is a PeftModel, or the bare base for evaluation of it."""

    model: PeftModel | PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    chat_options: dict[str, Any]
    start_weights: dict[str, torch.Tensor] | None = None
    """Copy of the adapter that training continued from: the reference policy of the KL."""

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return next(self.model.parameters()).device

    @property
    def pad_id(self) -> int:
        """The token that fills masked positions; any token will do, so a missing pad token is no fault."""
        pad: Any = self.tokenizer.pad_token_id
        rows = model_limits(self.model.config).rows or UNLIMITED
        # Tokenizers often name a token for padding that their model has no embedding for.
        return next((one for one in (pad, *sorted(self.stop_ids)) if one is not None and one < rows), 0)

    @property
    def context_length(self) -> int:
        """Most tokens that prompt and answer may have together."""
        return model_limits(self.model.config).context

    def require_room(
        self, prompts: Sequence[Prompt], encoded: Sequence[Sequence[int]], new_tokens: int
    ) -> None:
        """Raise DataError that names every prompt which leaves no room for `new_tokens` in the context."""
        room = self.context_length - new_tokens
        long = [
            (prompt.id, len(ids)) for prompt, ids in zip(prompts, encoded, strict=True) if len(ids) > room
        ]
        if long:
            named = ", ".join(f"{prompt_id} ({length} tokens)" for prompt_id, length in long[:10])
            raise DataError(
                f"{len(long)} prompts leave no room for {new_tokens} new tokens in the model's context of "
                f"{self.context_length}: {named}. Shorten them, or lower max_new_tokens."
            )


def load_language_model(
    settings: ModelSettings, *, seed: int | None = None, adapter: Path | None = None, trainable: bool = True
) -> LanguageModel:
    """Load the base and put an adapter on it.

    With `adapter` that saved adapter is loaded; else a fresh one is made, seeded by `seed` (LoRA is created after
    seeding, so that an arm and seed always start alike), or no adapter at all where `seed` is None.
    Raises ModelError when the source is missing or is not a causal language model.
    """
    base, tokenizer = load_base(settings)
    model: PeftModel | PreTrainedModel = base
    start = Path(settings.adapter.start_from) if settings.adapter.start_from else None
    if adapter is not None or (seed is not None and start is not None):
        model = _attach_saved(base, adapter or start, trainable)  # type: ignore[arg-type]
    elif seed is not None:
        torch.manual_seed(seed)
        model = _attach_fresh(base, settings.adapter, quantized=settings.quantization != "none")
    stop_ids = frozenset(stop_token_ids(tokenizer, base.generation_config))
    start_weights = None
    if trainable and start is not None:
        start_weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    return LanguageModel(model, tokenizer, stop_ids, dict(settings.chat_template_options), start_weights)


def load_base(settings: ModelSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model in evaluation mode with frozen weights, and its tokenizer."""
    from transformers import AutoModelForCausalLM

    require_quantization_support(settings)
    tokenizer = load_tokenizer(settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options: dict[str, Any] = {}
    if settings.quantization == "nf4":
        options = {"quantization_config": _nf4_config(settings), "device_map": {"": 0}}
    with _loading(settings) as source:
        model = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=getattr(torch, settings.dtype),
            use_safetensors=True,
            **options,
            **_hub_options(settings),
        )
    if settings.quantization == "none":
        model.to(torch.device(device))  # pyright: ignore[reportArgumentType]  # a wrapper hides Module.to
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model.requires_grad_(requires_grad=False)
    return model.eval(), tokenizer


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """The tokenizer alone; raises ModelError where the source is missing or has none."""
    from transformers import AutoTokenizer

    with _loading(settings) as source:
        tokenizer = AutoTokenizer.from_pretrained(source, **_hub_options(settings))
    require_template_ends(f"model.source: {settings.source}", tokenizer, settings.chat_template_options)
    return tokenizer


def load_limits(settings: ModelSettings) -> ModelLimits:
    """Limits of context and token ids, read without loading the weights."""
    from transformers import AutoConfig

    with _loading(settings) as source:
        return model_limits(AutoConfig.from_pretrained(source, **_hub_options(settings)))


def _hub_options(settings: ModelSettings) -> dict[str, Any]:
    return {"revision": settings.revision or "main", "trust_remote_code": settings.trust_remote_code}


@contextmanager
def _loading(settings: ModelSettings) -> Iterator[Path | str]:
    """What `from_pretrained` is to be given, in a block that reads no pickle and fails in one sentence."""
    place, source = f"model.source: {settings.source}", resolve_source(settings.source)
    with loading_weights(place):
        require_safe_folder(place, source, settings.revision)
        yield source


def require_quantization_support(settings: ModelSettings) -> None:
    """Raise ModelError where the settings ask for quantization and this machine cannot do it; nothing is fetched."""
    from importlib.util import find_spec

    if settings.quantization == "nf4" and not (torch.cuda.is_available() and find_spec("bitsandbytes")):
        raise ModelError(
            "model.quantization: nf4 (QLoRA) needs a CUDA device and the bitsandbytes package; "
            "run on a GPU machine after `pip install 'polychromic[qlora]'`, or set model.quantization=none"
        )


def _nf4_config(settings: ModelSettings) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
    )


def _attach_fresh(base: PreTrainedModel, settings: AdapterSettings, *, quantized: bool) -> PeftModel:
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if quantized:
        base = prepare_model_for_kbit_training(base)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft computes alpha / r; a float is fine
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        with _known_peft_warnings():
            return get_peft_model(base, config)  # type: ignore[return-value]
    except ValueError as error:
        raise ModelError(f"model.adapter.target_modules: {error}") from error


def _attach_saved(base: PreTrainedModel, folder: Path, trainable: bool) -> PeftModel:
    from peft import PeftModel

    require_lora_adapter(folder)
    with loading_weights(f"{folder}: the adapter"), _known_peft_warnings():
        model = PeftModel.from_pretrained(base, str(folder), is_trainable=trainable)
        require_whole_adapter(model, folder)
    return model


@contextmanager
def _known_peft_warnings() -> Iterator[None]:
    """Silence warnings that no user can act on: a name that transformers renamed under peft, and peft's look-up
    of the base vocabulary on the hub (the output head is never trained here)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", message="Could not find a config file")
        # An error of ours, which names them.
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        yield


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter as PEFT does, in safetensors, so that plain `PeftModel.from_pretrained` reads it."""
    with _known_peft_warnings():
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    # peft keeps the module names in a set, whose order changes from process to process.
    config = read_json(folder / "adapter_config.json")
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    write_json(folder / "adapter_config.json", config)


@contextmanager
def merged_adapter(model: PeftModel | PreTrainedModel) -> Iterator[None]:
    """Fold plain LoRA updates into the base weights while the block runs: decoding then costs what the base costs.

    The original weight tensors are put back, not recomputed by subtraction, so nothing drifts. Quantized and
    exotic layers keep their adapters as they are.
    """
    from peft.tuners.lora.layer import Linear as LoraLinear

    layers = [
        module
        for module in model.modules()
        if type(module) is LoraLinear and not module.disable_adapters and not module.merged_adapters
    ]
    weights: list[Any] = [layer.base_layer.weight for layer in layers]
    kept = [weight.data for weight in weights]
    for layer, weight in zip(layers, weights, strict=True):
        for name in layer.active_adapters:
            weight.data = weight.data + layer.get_delta_weight(name)  # a new tensor: the original stays whole
        layer.merged_adapters = list(layer.active_adapters)
    try:
        yield
    finally:
        for layer, weight, original in zip(layers, weights, kept, strict=True):
            weight.data = original
            layer.merged_adapters = []


@contextmanager
def reference_policy(language_model: LanguageModel) -> Iterator[None]:
    """The policy that training started from: the adapter off, or the adapter that training continued from."""
    model: Any = language_model.model
    if language_model.start_weights is None:
        with model.disable_adapter():
            yield
        return
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    current = {name: parameter.data for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.data = language_model.start_weights[name]
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = current[name]
