"""Measures how far LoRA adapters moved, and how far apart two are, module by module, without building any product.

For ΔW = s · B A the Frobenius inner product of two updates is s₁ s₂ · tr((B₁ᵀ B₂)(A₂ A₁ᵀ)): only [r, r] matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import regex

from polychromic.errors import DataError
from polychromic.files import read_json

if TYPE_CHECKING:  # a report of external generations has a diagnosis too, and must not wait for torch
    import torch


_PARTS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))
"""Endings of the names of A and B: of layers that multiply, and of embeddings, whose ΔW is the transposed product."""
_PREFIX = "base_model.model."
_OF_MODEL = regex.compile(r"\.default(?=\.weight$|$)")
"""The adapter's name, where tensors are named as in a model."""
_PATTERN_SECONDS = 1.0  # a folder that somebody sent may hold a pattern that never ends


@dataclass(frozen=True, slots=True)
class Update:
    """ΔW of one module: scaling · B [out, r] @ A [r, in], of an embedding its transpose. DoRA's magnitudes and
    layers trained whole are left out."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


@dataclass(frozen=True, slots=True)
class Adapted:
    """An arm's updates by module name: of its finished adapter, or (`step`) of a checkpoint while it trains."""

    updates: Mapping[str, Update]
    step: int | None = None


@dataclass(frozen=True, slots=True)
class ModuleDistance:
    """The movement of one module in an arm, in the baseline, and their distance (Frobenius norms).

    nan where there is no baseline of the same progress to compare with.
    """

    module: str
    norm: float
    baseline_norm: float
    distance: float


@dataclass(frozen=True, slots=True)
class AdapterDistance:
    """The same over all modules together, and each module, of one seed; `step` where it is of checkpoints."""

    norm: float
    baseline_norm: float
    distance: float
    modules: tuple[ModuleDistance, ...]
    seed: int = 0
    step: int | None = None

    @property
    def relative(self) -> float:
        """Returns the distance in units of how far the baseline moved; nan where it did not."""
        return self.distance / self.baseline_norm if self.baseline_norm > 0 else math.nan


def read_updates(adapter: Path) -> dict[str, Update]:
    """Reads the updates of a saved adapter by module name. Raises DataError where the folder is no LoRA adapter."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config_file, weights_file = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    if not config_file.is_file() or not weights_file.is_file():
        raise DataError(
            f"{adapter}: expected a LoRA adapter (adapter_config.json and adapter_model.safetensors); put a "
            "copy back, or run again: training makes it from its last checkpoint"
        )
    try:
        weights = load_file(weights_file)
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{weights_file}: damaged ({error}); put a copy back, or run again: training makes it from its last "
            "checkpoint"
        ) from error
    try:
        return updates_by_module(weights, Scaling.of_adapter(adapter))
    except KeyError as error:
        raise DataError(f"{weights_file}: damaged (the tensor {error} is missing); put a copy back") from error
    except (regex.error, TimeoutError) as error:
        raise DataError(f"{config_file}: damaged (alpha_pattern: {error}); put a copy back") from error


@dataclass(frozen=True, slots=True)
class Scaling:
    """The factors of B A in the modules of an adapter, as PEFT sets them: alpha / rank, or alpha / √rank."""

    alpha: float
    alpha_pattern: Mapping[str, float]
    """Pattern of the end of a module's name → its own alpha; the first that fits counts."""
    use_rslora: bool

    @classmethod
    def of_adapter(cls, adapter: Path) -> Scaling:
        """Reads those of a saved adapter."""
        config = read_json(adapter / "adapter_config.json")
        return cls(config["lora_alpha"], config.get("alpha_pattern") or {}, bool(config.get("use_rslora")))

    def of(self, module: str, rank: int) -> float:
        """Returns the factor of a module."""
        own = (
            alpha
            for pattern, alpha in self.alpha_pattern.items()
            if regex.match(rf"(.*\.)?({pattern})$", module, timeout=_PATTERN_SECONDS)
        )
        return next(own, self.alpha) / (math.sqrt(rank) if self.use_rslora else rank)


def updates_by_module(weights: Mapping[str, torch.Tensor], scaling: Scaling) -> dict[str, Update]:
    """Groups tensors into updates, named as PEFT saves them, or as it names them in a model (with the adapter's
    name)."""
    plain = {_OF_MODEL.sub("", name): tensor for name, tensor in weights.items()}
    found = sorted((name.removesuffix(end), end, b) for end, b in _PARTS for name in plain if name.endswith(end))
    updates = {}
    for module, name_a, name_b in found:
        a, b = plain[module + name_a], plain[module + name_b]
        updates[module] = Update(a, b, scaling.of(module.removeprefix(_PREFIX), len(a)))
    return updates


def adapter_distance(
    arm: Mapping[str, Update], baseline: Mapping[str, Update] | None, start: Mapping[str, Update] | None = None
) -> AdapterDistance:
    """Measures how far two adapters of one base moved, and apart from each other; without `baseline`, how far one
    moved.

    start: the adapter that training continued from, where it did not begin with an update of zero.
    Raises ValueError where modules differ.
    """
    for other in (baseline, start):
        if other is not None and arm.keys() != other.keys():
            odd = sorted(arm.keys() ^ other.keys())[0]
            raise ValueError(f"the adapters have different modules, such as {odd!r} in one only")
    modules = tuple(
        _module_distance(name, arm[name], baseline[name] if baseline else None, start[name] if start else None)
        for name in arm
    )
    return AdapterDistance(
        norm=_together(module.norm for module in modules),
        baseline_norm=_together(module.baseline_norm for module in modules),
        distance=_together(module.distance for module in modules),
        modules=modules,
    )


def _together(norms: Iterable[float]) -> float:
    return math.sqrt(sum(norm**2 for norm in norms))


def _module_distance(name: str, arm: Update, baseline: Update | None, start: Update | None) -> ModuleDistance:
    def apart(left: Update, right: Update | None) -> float:
        square = inner_product(left, left)
        if right is not None:
            square += inner_product(right, right) - 2.0 * inner_product(left, right)
        # Rounding may leave a tiny negative square where the updates are equal.
        return math.sqrt(max(square, 0.0))

    return ModuleDistance(
        name.removeprefix(_PREFIX),
        apart(arm, start),
        apart(baseline, start) if baseline else math.nan,
        apart(arm, baseline) if baseline else math.nan,
    )


def inner_product(left: Update, right: Update) -> float:
    """Frobenius inner product ⟨ΔW₁, ΔW₂⟩ in float64."""
    b_RR = left.b.double().T @ right.b.double()
    a_RR = left.a.double() @ right.a.double().T
    return left.scaling * right.scaling * float((b_RR * a_RR).sum())
