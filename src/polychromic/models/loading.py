"""Loads a causal language model with its tokenizer, template and adapter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from polychromic.errors import DataError, ModelError
from polychromic.models.adapters import (
    attach_fresh,
    attach_saved,
    replaced_weights,
    require_as_stated,
    weights_to_start_from,
)
from polychromic.models.chat import stop_token_ids
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import UNLIMITED, ModelLimits, model_limits, require_hub_or_copy, resolve_source
from polychromic.records import Prompt
from polychromic.weights import loading_weights, require_safe_folder

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CPU_SECONDS = 10
_PATIENCE = 300.0  # seconds until even a busy machine has started Python and imported the renderer
_MEMORY_BYTES = 4 << 30

# What the template says of the conversation is no fault here: it is said where it is used.
_CHILD = """
import json, resource, sys
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template
request = json.load(sys.stdin)
used = resource.getrusage(resource.RUSAGE_SELF)
limit = 1 + int(used.ru_utime + used.ru_stime) + request["seconds"]
resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
resource.setrlimit(resource.RLIMIT_AS, (request["bytes"], request["bytes"]))
try:
    render_jinja_template([request["conversation"]], chat_template=request["template"], **request["variables"])
except TemplateError:
    pass
"""
_CONVERSATION = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"})


def require_template_ends(
    place: str, tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any], *, seconds: int = _CPU_SECONDS
) -> None:
    """Raises ModelError where a tokenizer's chat template does not end within `seconds` of computing, takes up 4 GB, or
    fails, on two short turns. place: what the message begins with."""
    if not tokenizer.chat_template:
        return
    variables = {**tokenizer.special_tokens_map, **options}
    failure = _failure(tokenizer.get_chat_template(), json.dumps(variables, default=str), seconds)
    if failure:
        raise ModelError(
            f"{place}: the tokenizer's chat template {failure} on a conversation of two short turns; take the "
            "template that the model was published with (chat_template.jinja or tokenizer_config.json)"
        )


@cache
def _failure(template: str, variables: str, seconds: int) -> str:
    """Says how the template fails; empty where it ends. Asked once per process."""
    request = {"template": template, "variables": json.loads(variables), "conversation": _CONVERSATION}
    request |= {"seconds": seconds, "bytes": _MEMORY_BYTES}
    try:
        child = subprocess.run(
            [sys.executable, "-c", _CHILD], input=json.dumps(request), capture_output=True, text=True,
            errors="replace", timeout=_PATIENCE, check=False, env=os.environ | {"USE_TORCH": "0"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "did not end"
    if child.returncode < 0:
        return f"did not end within {seconds} s"
    last_words = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
    return f"failed ({last_words[0][:200]})" if child.returncode else ""


@dataclass(frozen=True, slots=True)
class ForwardPath:
    """The way in which a model is computed, fastest first; every one gives the same log-probabilities where it agrees
    with a plain forward pass at all (`models.selfcheck` finds out on the model itself)."""

    layout: Literal["packed", "padded", "single"] = "packed"
    """In training: answers share their prompt's row, have a row each, or are computed one by one."""
    head: Literal["product", "own", "whole"] = "product"
    """In training: logits of answer tokens only, by the output matrix or by whatever the model applies after its
    decoder; or all logits of the model's own forward."""
    decoding: Literal["merged", "unmerged", "by_prompt", "uncached"] = "merged"
    """In sampling: the adapter folded into the weights, or not, the prompts of a batch padded on the left; copies of
    one prompt at a time; or everything computed again for every token."""


@dataclass
class LanguageModel:
    """A model and what is needed to talk to it. `model` is a PeftModel, or the bare base for evaluation of it."""

    model: PeftModel | PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    chat_options: dict[str, Any]
    start_weights: dict[str, torch.Tensor] | None = None
    """Copy of what training started from where switching the adapter off does not give it: the reference of the KL."""
    path: ForwardPath = ForwardPath()
    source: str = "the model"
    """Its name in messages."""
    settings: ModelSettings | None = None
    """Settings that it was loaded by, for an engine that loads the base once more; None where it was made otherwise."""

    @property
    def device(self) -> torch.device:
        """Returns the device of the model's inputs."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Returns the dtype that its products are rounded to: quantized weights are computed in another one than what
        lies between them."""
        config = getattr(self.causal_model.config, "quantization_config", None)
        if self.model.dtype == torch.float32 and getattr(config, "load_in_4bit", False):
            return config.bnb_4bit_compute_dtype  # type: ignore[union-attr]
        return self.model.dtype

    @property
    def causal_model(self) -> Any:
        """Returns the causal language model inside the adapter's wrapping, with the layers that the adapter changed."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model  # type: ignore[operator]

    @property
    def decoder(self) -> Any:
        """Returns the part of the causal model that ends in hidden states; what follows makes logits of them."""
        causal = self.causal_model
        decoder = causal.get_decoder()
        return causal.model if decoder is causal and hasattr(causal, "model") else decoder

    @property
    def pad_id(self) -> int:
        """Returns the token that fills masked positions; any token will do, so a missing pad token is no fault."""
        pad: Any = self.tokenizer.pad_token_id
        rows = model_limits(self.model.config).rows or UNLIMITED
        # Tokenizers often name a token for padding that their model has no embedding for.
        return next((token for token in (pad, *sorted(self.stop_ids)) if token is not None and token < rows), 0)

    @property
    def context_length(self) -> int:
        """Returns the most tokens that prompt and answer may have together."""
        return model_limits(self.model.config).context

    @contextmanager
    def reference_policy(self) -> Iterator[None]:
        """Makes the model the policy that training started from, within the block: the adapter off, or as it was."""
        model: Any = self.model
        reference = (
            model.disable_adapter() if self.start_weights is None else replaced_weights(model, self.start_weights)
        )
        with reference:
            yield

    @contextmanager
    def training_pass(self, *, dropout: bool = False) -> Iterator[None]:
        """Runs forward and backward passes with gradient checkpointing where it is on, and with the adapter's dropout.

        Everything else stays in evaluation mode: the base is frozen, and what it does only while training (dropout,
        noise in routers) would make the trained policy another one than the sampled.
        """
        from transformers.modeling_layers import GradientCheckpointingLayer

        switched = [
            module
            for name, module in self.model.named_modules()
            if (isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing)
            or (dropout and isinstance(module, torch.nn.Dropout) and ".lora_dropout." in name)
        ]
        for module in switched:
            module.training = True
        try:
            yield
        finally:
            for module in switched:
                module.training = False

    def require_room(self, prompts: Sequence[Prompt], encoded: Sequence[Sequence[int]], new_tokens: int) -> None:
        """Raises DataError that names every prompt which leaves no room for `new_tokens` in the context."""
        room = self.context_length - new_tokens
        long = [(prompt.id, len(ids)) for prompt, ids in zip(prompts, encoded, strict=True) if len(ids) > room]
        if long:
            named = ", ".join(f"{prompt_id} ({length} tokens)" for prompt_id, length in long[:10])
            raise DataError(
                f"{len(long)} prompts leave no room for {new_tokens} new tokens in the model's context of "
                f"{self.context_length}: {named}. Shorten them, or lower max_new_tokens."
            )


def load_language_model(
    settings: ModelSettings, *, seed: int | None = None, adapter: Path | None = None, trainable: bool = True
) -> LanguageModel:
    """Loads the base and puts an adapter on it.

    With `adapter` that saved adapter is loaded; else a fresh one is made, seeded by `seed` (LoRA is created after
    seeding, so that an arm and seed always start alike), or no adapter at all where `seed` is None.
    Raises ModelError when the source is missing or is not a causal language model.
    """
    base, tokenizer = load_base(settings)
    model: PeftModel | PreTrainedModel = base
    start = Path(settings.adapter.start_from) if settings.adapter.start_from else None
    if adapter is not None or (seed is not None and start is not None):
        model = attach_saved(base, adapter or start, trainable=trainable)  # type: ignore[arg-type]
        if adapter is None and start is not None:
            require_as_stated(start, settings.adapter)
    elif seed is not None:
        torch.manual_seed(seed)
        model = attach_fresh(base, settings.adapter, quantized=settings.quantization != "none")
    model.eval()  # whatever is trained: `training_pass` switches what has to be
    stop_ids = frozenset(stop_token_ids(tokenizer, base.generation_config, **settings.chat_template_options))
    start_weights = weights_to_start_from(model, continued=start is not None) if trainable else None
    return LanguageModel(
        model,
        tokenizer,
        stop_ids,
        dict(settings.chat_template_options),
        start_weights,
        source=settings.source,
        settings=settings,
    )


def load_base(settings: ModelSettings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads the base model in evaluation mode with frozen weights, and its tokenizer."""
    from transformers import AutoModelForCausalLM

    require_quantization_support(settings)
    tokenizer = load_tokenizer(settings)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options: dict[str, Any] = {}
    if settings.quantization == "nf4":
        options = {"quantization_config": _nf4_config(settings), "device_map": {"": torch.cuda.current_device()}}
    with _loading(settings) as source:
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, settings.dtype), use_safetensors=True, **options, **_hub_options(settings)
        )
        if settings.quantization == "none":
            model.to(torch.device(device))  # pyright: ignore[reportArgumentType]  # a wrapper hides Module.to
    if settings.gradient_checkpointing:
        # The newer name where transformers has it: the older one is deprecated there.
        enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
        model.enable_input_require_grads()
        _remove_dropout(model)
    model.requires_grad_(requires_grad=False)
    return model.eval(), tokenizer


def _remove_dropout(model: torch.nn.Module) -> None:
    """Sets dropout of the base to 0: checkpointed layers run in training mode and would apply it."""
    for module in model.modules():
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """Loads the tokenizer alone; raises ModelError where the source is missing or has none."""
    from transformers import AutoTokenizer

    with _loading(settings) as source:
        tokenizer = AutoTokenizer.from_pretrained(source, **_hub_options(settings))
    require_template_ends(f"model.source: {settings.source}", tokenizer, settings.chat_template_options)
    return tokenizer


def load_limits(settings: ModelSettings) -> ModelLimits:
    """Reads the limits of context and token ids without loading the weights."""
    from transformers import AutoConfig

    with _loading(settings) as source:
        return model_limits(AutoConfig.from_pretrained(source, **_hub_options(settings)))


def _hub_options(settings: ModelSettings) -> dict[str, Any]:
    return {"revision": settings.revision or "main", "trust_remote_code": settings.trust_remote_code}


@contextmanager
def _loading(settings: ModelSettings) -> Iterator[Path | str]:
    """Yields the source for `from_pretrained`, in a block that reads no pickle and fails in one sentence."""
    place, source = f"model.source: {settings.source}", resolve_source(settings.source)
    require_hub_or_copy(source, settings.revision)
    with loading_weights(place):
        require_safe_folder(place, source, settings.revision)
        yield source


def require_quantization_support(settings: ModelSettings) -> None:
    """Raises ModelError where the settings ask for quantization and this machine cannot do it; nothing is fetched."""
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
