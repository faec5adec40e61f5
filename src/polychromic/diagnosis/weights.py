"""How far LoRA adapters moved, and how far apart two of them are, module by module, without building any product.

For ΔW = s · B A the Frobenius inner product of two updates is s₁ s₂ · tr((B₁ᵀ B₂)(A₂ A₁ᵀ)): only [r, r] matrices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polychromic.errors import DataError
from polychromic.files import read_json

if TYPE_CHECKING:  # a report of given texts has a diagnosis too, and must not wait for torch
    import torch


@dataclass(frozen=True, slots=True)
class Update:
    """ΔW of one module: scaling · B [out, r] @ A [r, in]."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


@dataclass(frozen=True, slots=True)
class ModuleDistance:
    """‖ΔW‖ of one module in an arm, in the baseline, and of their difference (Frobenius norms)."""

    module: str
    norm: float
    baseline_norm: float
    distance: float


@dataclass(frozen=True, slots=True)
class AdapterDistance:
    """The same over all modules together, and each module."""

    norm: float
    baseline_norm: float
    distance: float
    modules: tuple[ModuleDistance, ...]

    @property
    def relative(self) -> float:
        """Distance in units of how far the baseline moved; nan where it did not."""
        return self.distance / self.baseline_norm if self.baseline_norm > 0 else math.nan


def read_updates(adapter: Path) -> dict[str, Update]:
    """The updates of a saved adapter by module name. Raises DataError where the folder is no LoRA adapter."""
    from safetensors.torch import load_file

    config_file, weights_file = adapter / "adapter_config.json", adapter / "adapter_model.safetensors"
    if not config_file.is_file() or not weights_file.is_file():
        raise DataError(
            f"{adapter}: expected a LoRA adapter (adapter_config.json and adapter_model.safetensors)"
        )
    config = read_json(config_file)
    scaling = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    weights = load_file(weights_file)
    modules = sorted(
        name.removesuffix(".lora_A.weight") for name in weights if name.endswith(".lora_A.weight")
    )
    return {
        module: Update(weights[f"{module}.lora_A.weight"], weights[f"{module}.lora_B.weight"], scaling)
        for module in modules
    }


def adapter_distance(arm: Mapping[str, Update], baseline: Mapping[str, Update]) -> AdapterDistance:
    """How far two adapters of one base moved, and apart from each other. Raises ValueError where modules differ."""
    if arm.keys() != baseline.keys():
        odd = sorted(arm.keys() ^ baseline.keys())[0]
        raise ValueError(f"the adapters have different modules, such as {odd!r} in one only")
    modules = tuple(_module_distance(name, arm[name], baseline[name]) for name in arm)
    return AdapterDistance(
        norm=_together(one.norm for one in modules),
        baseline_norm=_together(one.baseline_norm for one in modules),
        distance=_together(one.distance for one in modules),
        modules=modules,
    )


def _together(norms: Iterable[float]) -> float:
    return math.sqrt(sum(norm**2 for norm in norms))


def _module_distance(name: str, one: Update, other: Update) -> ModuleDistance:
    first, second, both = inner_product(one, one), inner_product(other, other), inner_product(one, other)
    # Rounding may leave a tiny negative square where the updates are equal.
    return ModuleDistance(
        name.removeprefix("base_model.model."),
        math.sqrt(max(first, 0.0)),
        math.sqrt(max(second, 0.0)),
        math.sqrt(max(first + second - 2.0 * both, 0.0)),
    )


def inner_product(one: Update, other: Update) -> float:
    """Frobenius inner product ⟨ΔW₁, ΔW₂⟩ in float64."""
    b_RR = one.b.double().T @ other.b.double()
    a_RR = one.a.double() @ other.a.double().T
    return one.scaling * other.scaling * float((b_RR * a_RR).sum())
