"""Adapters on a base model: fresh or saved, folded into the weights for decoding, switched back to the reference."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from polychromic.errors import ModelError
from polychromic.files import read_json, write_json
from polychromic.models.settings import AdapterSettings
from polychromic.weights import loading_weights, require_lora_adapter, require_whole_adapter

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

_MODELING_CODE = ("transformers.models.", "transformers_modules.")


def attach_fresh(base: PreTrainedModel, settings: AdapterSettings, *, quantized: bool) -> PeftModel:
    """Puts a new LoRA adapter on the base, trained in float32. Raises ModelError where its settings do not fit it."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    _require_known_parts(base, settings)
    if quantized:
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)  # `load_base` does as asked
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft computes alpha / r; a float is fine
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        exclude_modules=settings.exclude_modules or _special_linear_layers(base, settings) or None,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        bias=settings.bias,
        rank_pattern=dict(settings.rank_pattern),
        alpha_pattern=dict(settings.alpha_pattern),
        modules_to_save=settings.modules_to_save or None,
        trainable_token_indices=settings.trainable_token_indices or None,
        task_type="CAUSAL_LM",
    )
    try:
        with known_peft_warnings():
            model: Any = get_peft_model(base, config)
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        if "not found in the base model" in str(error):
            _require_known_targets(base, config)
        raise ModelError(f"model.adapter does not fit {base.config.name_or_path}: {error}") from error
    _require_known_targets(base, config)
    _require_float32(model)
    return model


def attach_saved(base: PreTrainedModel, folder: Path, *, trainable: bool) -> PeftModel:
    """Puts a saved PEFT adapter on the base.

    Raises ModelError where the folder holds none, it is damaged or of another model, or its kind has no place here.
    """
    from peft import PeftModel

    require_lora_adapter(folder)
    with loading_weights(f"{folder}: the adapter"), known_peft_warnings():
        model = PeftModel.from_pretrained(base, str(folder), is_trainable=trainable)
        require_whole_adapter(model, folder)
    if trainable:
        _require_float32(model)
    return model


def require_as_stated(folder: Path, settings: AdapterSettings) -> None:
    """Raises ModelError where an adapter that training continues from is another one than the settings describe: its
    own rank, scale, dropout and modules are kept, and what the settings say of them would be false."""
    config = read_json(folder / "adapter_config.json")
    stated = {
        "rank": (settings.rank, config.get("r")),
        "alpha": (settings.alpha, config.get("lora_alpha")),
        "dropout": (settings.dropout, config.get("lora_dropout", 0.0)),
        "use_rslora": (settings.use_rslora, bool(config.get("use_rslora"))),
        "use_dora": (settings.use_dora, bool(config.get("use_dora"))),
        "bias": (settings.bias, config.get("bias", "none")),
        "rank_pattern": (settings.rank_pattern, _patterns(config, "rank_pattern", settings.rank_pattern)),
        "alpha_pattern": (settings.alpha_pattern, _patterns(config, "alpha_pattern", settings.alpha_pattern)),
    }
    others = [f"{key} {there!r}, not {here!r}" for key, (here, there) in stated.items() if here != there]
    ours, saved = settings.target_modules, config.get("target_modules")
    is_as_asked = not config.get("target_parameters")  # which peft makes of layers that a mixture of experts has fused
    if is_as_asked and isinstance(ours, list) and isinstance(saved, list) and set(ours) != set(saved):
        others.append(f"target_modules {sorted(saved)}, not {sorted(ours)}")
    if others:
        raise ModelError(
            f"model.adapter.start_from: {folder} has {'; '.join(others)}: training continues with what it has, so "
            "state the same under model.adapter"
        )


def _patterns(config: Mapping[str, Any], key: str, stated: Mapping[str, float]) -> dict[str, float]:
    """Returns the saved patterns without those that nobody stated: peft adds its own for fused experts, whose rank is
    that of all layers that they hold."""
    made = {rf".*\.{parameter}" for parameter in config.get("target_parameters") or ()} - set(stated)
    return {pattern: value for pattern, value in (config.get(key) or {}).items() if pattern not in made}


def save_adapter(model: PeftModel, folder: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Writes the adapter as PEFT does, in safetensors, so that plain `PeftModel.from_pretrained` reads it.

    weights: those of the whole model by name, where it holds pieces of its own only.
    """
    with known_peft_warnings():
        model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False, state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)
    # peft keeps some names in sets, whose order changes from process to process.
    config = read_json(folder / "adapter_config.json")
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key].sort()
    write_json(folder / "adapter_config.json", config)


@contextmanager
def merged_adapter(model: PeftModel | PreTrainedModel) -> Iterator[None]:
    """Folds plain LoRA updates into the base weights while the block runs: decoding then costs what the base costs.

    The original weight tensors are put back, not recomputed by subtraction, so nothing drifts. Layers where folding
    would not be exact keep their adapters: quantized ones, weights in half precision (an update is often smaller than
    their rounding), weights that another layer shares, and kinds of LoRA that are more than an added product.
    """
    from peft.tuners.lora.layer import Linear as LoraLinear

    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))

    def is_exact(layer: LoraLinear) -> bool:
        weight: Any = layer.base_layer.weight
        special = any(name in layer.lora_variant or layer.lora_bias[name] for name in layer.active_adapters)
        return not special and weight.dtype == torch.float32 and uses[id(weight)] == 1

    layers = [
        module
        for module in model.modules()
        if type(module) is LoraLinear
        and not module.disable_adapters
        and not module.merged_adapters
        and is_exact(module)
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
def replaced_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> Iterator[None]:
    """Puts `weights`, by name, into the trained parameters within the block."""
    parameters = {name: p for name, p in model.named_parameters() if name in weights}
    current = {name: parameter.data for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.data = weights[name]
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = current[name]


def weights_to_start_from(model: PeftModel | PreTrainedModel, *, continued: bool) -> dict[str, torch.Tensor] | None:
    """Returns a copy of the trained weights where switching the adapter off does not give the policy of the start:
    training that continues from an adapter, and trained biases, which peft does not switch off. None otherwise."""
    config = getattr(model, "peft_config", {}).get("default")
    if not continued and getattr(config, "bias", "none") == "none":
        return None
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def known_peft_warnings() -> Iterator[None]:
    """Silences warnings that no user can act on."""
    with warnings.catch_warnings():
        # A name that transformers renamed under peft, and its look-up of the base vocabulary on the hub.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", message="Could not find a config file")
        # An error of ours, which names them.
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        # Said of what peft itself adds for fused experts, and followed there; other patterns are checked by us.
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        # GPT-2's transposed layers, which peft recognises by itself.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
        # An adapter on one of two tied layers changes that layer alone, in sampling, training and the saved file alike.
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
        warnings.filterwarnings("ignore", message=".*tied")
        yield


def _require_known_parts(base: PreTrainedModel, settings: AdapterSettings) -> None:
    """Raises ModelError where the settings name parts that the model does not have: peft passes over a name as long as
    another one fits, as over q_proj where queries, keys and values are one matrix."""
    names = [name for name, _ in (*base.named_modules(), *base.named_parameters())]
    unknown = [f"exclude_modules: {part!r}" for part in settings.exclude_modules if not _is_part(part, base)]
    unknown += [
        f"modules_to_save: {part!r}"
        for part in settings.modules_to_save
        if not any(name.endswith(part) for name, _ in base.named_modules())
    ]
    unknown += [
        f"{key}: {pattern!r}"
        for key in ("rank_pattern", "alpha_pattern")
        for pattern in getattr(settings, key)
        if not _fits_any(pattern, names)
    ]
    embeddings: Any = base.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    unknown += [f"trainable_token_indices: {token}" for token in settings.trainable_token_indices if token >= rows]
    _require_all_there(base, unknown)


def _require_known_targets(base: PreTrainedModel, config: LoraConfig) -> None:
    """Does the same for `target_modules` once peft has put some in other words: Mixtral's w1 is a part of fused experts
    today."""
    if not isinstance(config.target_modules, str):
        targets = sorted(config.target_modules or ())
        _require_all_there(base, [f"target_modules: {part!r}" for part in targets if not _is_part(part, base)])


def _require_all_there(base: PreTrainedModel, unknown: Sequence[str]) -> None:
    """Raises ModelError that names the keys and parts in `unknown`, and what the model has."""
    if not unknown:
        return
    names = [name for name, part in base.named_modules() if hasattr(part, "weight") and ".lora_" not in name]
    kinds = sorted({name.removesuffix(".base_layer").rpartition(".")[2] for name in names})
    embeddings: Any = base.get_input_embeddings()
    raise ModelError(
        f"model.adapter.{'; model.adapter.'.join(unknown)}: {base.config.name_or_path} has no such part; it has "
        f"{', '.join(kind for kind in kinds if not kind.isdigit())} and {embeddings.weight.shape[0]} tokens"
    )


def _is_part(part: str, base: PreTrainedModel) -> bool:
    """Tells whether a module's name, or the end of it, is `part`."""
    return any(f".{name}".endswith(f".{part}") for name, _ in base.named_modules())


def _fits_any(pattern: str, names: Sequence[str]) -> bool:
    """Tells whether a pattern fits the end of a name, as peft reads it; one that is no pattern fits none."""
    try:
        return any(re.match(rf"(.*\.)?({pattern})$", name) for name in names)
    except re.error:
        return False


def _special_linear_layers(base: PreTrainedModel, settings: AdapterSettings) -> list[str]:
    """Lists layers that are linear by class but cannot have an adapter, which `all-linear` leaves out: those that do
    something else with their product, as Llama 4's routers do, and output projections of state-space mixers, whose
    fused kernels read the weights past the adapter."""
    if settings.target_modules != "all-linear":
        return []
    modules = dict(base.named_modules())

    def is_special(name: str, module: torch.nn.Linear) -> bool:
        parent, _, own_name = name.rpartition(".")
        return not _multiplies(module) or (own_name == "out_proj" and hasattr(modules[parent], "conv1d"))

    return [
        name for name, module in modules.items() if isinstance(module, torch.nn.Linear) and is_special(name, module)
    ]


def _multiplies(module: torch.nn.Linear) -> bool:
    """Tries whether a layer of a class of the model's own gives the product that its base class gives."""
    own_class = type(module).__module__.startswith(_MODELING_CODE)
    if not own_class or type(module).forward is torch.nn.Linear.forward:
        return True
    inputs = torch.ones(1, module.in_features, dtype=module.weight.dtype, device=module.weight.device)
    with torch.inference_mode():
        product = torch.nn.functional.linear(inputs, module.weight, module.bias)
        try:
            output = module(inputs)
        except (RuntimeError, TypeError, ValueError):  # it takes something else than rows of numbers
            return False
    return isinstance(output, torch.Tensor) and torch.allclose(output, product, rtol=1e-2, atol=1e-4)


def _require_float32(model: torch.nn.Module) -> None:
    """Raises ModelError where something would be trained in half precision: small updates would be rounded away."""
    half = [
        name for name, p in model.named_parameters() if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16)
    ]
    if half:
        raise ModelError(
            f"model.adapter: {len(half)} trained tensors would be kept in half precision, such as {half[0]}, where "
            "small updates are rounded away; set model.dtype to float32, or train these layers by LoRA (target_modules)"
        )
