"""Gradients of the quality and the diversity term, kept apart on the steps that measure their shares.

The diversity term is measured in two halves of the step's prompts: where they agree is signal, where not is noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from polychromic.objective import gradient_cosine

Term = Literal["quality", "diversity_even", "diversity_odd"]
TERMS: tuple[Term, ...] = ("quality", "diversity_even", "diversity_odd")


@dataclass(frozen=True, slots=True)
class GradientMeasurement:
    """Norms of both terms' gradients over all trainable parameters, and the cosine between them (nan if one is 0).

    `diversity_signal_to_noise` estimates ‖E g‖² / tr Cov(g) of the step's diversity gradient g over the choice of
    prompts and generations; one step's value may be negative. nan where g is 0.
    """

    quality_norm: float
    diversity_norm: float
    cosine: float
    diversity_signal_to_noise: float


class GradientAccumulator:
    """Adds the gradients of micro-batches to `parameter.grad`; with `separate` it also remembers them by term."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], *, separate: bool) -> None:
        self.parameters = list(parameters)
        self.separate = separate
        self._by_term: dict[Term, list[torch.Tensor]] = {
            term: [torch.zeros_like(parameter) for parameter in self.parameters] if separate else []
            for term in TERMS
        }
        for parameter in self.parameters:
            parameter.grad = None

    def add(self, losses: Mapping[Term, torch.Tensor]) -> None:
        """Backpropagate the terms of one micro-batch. A term without a gradient path adds nothing."""
        connected: dict[Term, torch.Tensor] = {
            term: loss for term, loss in losses.items() if loss.requires_grad
        }
        if not connected:
            return
        if not self.separate:
            torch.stack(list(connected.values())).sum().backward()
            return
        for number, (term, loss) in enumerate(connected.items(), start=1):
            gradients = torch.autograd.grad(
                loss, self.parameters, retain_graph=number < len(connected), allow_unused=True
            )
            for total, gradient in zip(self._by_term[term], gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient)

    def finish(self) -> GradientMeasurement | None:
        """Leave the sum in `parameter.grad`; return the measurement if the terms were kept apart."""
        if not self.separate:
            return None
        quality, even, odd = (self._by_term[term] for term in TERMS)
        diversity = [one + other for one, other in zip(even, odd, strict=True)]
        for parameter, one, other in zip(self.parameters, quality, diversity, strict=True):
            parameter.grad = one + other
        quality_norm, diversity_norm = _norm(quality), _norm(diversity)
        return GradientMeasurement(
            quality_norm,
            diversity_norm,
            gradient_cosine(_product(quality, diversity), quality_norm, diversity_norm),
            _signal_to_noise(even, odd),
        )


def _signal_to_noise(even: Sequence[torch.Tensor], odd: Sequence[torch.Tensor]) -> float:
    """Of g = even + odd, two independent halves: E⟨even, odd⟩ = ‖E g‖² / 4 and E‖even − odd‖² = tr Cov(g)."""
    noise = _norm([one - other for one, other in zip(even, odd, strict=True)]) ** 2
    return 4.0 * _product(even, odd) / noise if noise > 0 else math.nan


def _product(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    return sum(float((one * other).sum(dtype=torch.float64)) for one, other in zip(ones, others, strict=True))


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return _product(tensors, tensors) ** 0.5
