"""Gradients of the quality and the diversity term, kept apart on the steps that measure their shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from polychromic.objective import gradient_cosine

Term = Literal["quality", "diversity"]


@dataclass(frozen=True, slots=True)
class GradientMeasurement:
    """Norms of both terms' gradients over all trainable parameters, and the cosine between them (nan if one is 0)."""

    quality_norm: float
    diversity_norm: float
    cosine: float


class GradientAccumulator:
    """Adds the gradients of micro-batches to `parameter.grad`; with `separate` it also remembers them by term."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], *, separate: bool) -> None:
        self.parameters = list(parameters)
        self.separate = separate
        self._by_term: dict[Term, list[torch.Tensor]] = {
            term: [torch.zeros_like(parameter) for parameter in self.parameters] if separate else []
            for term in ("quality", "diversity")
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
        quality, diversity = self._by_term["quality"], self._by_term["diversity"]
        for parameter, one, other in zip(self.parameters, quality, diversity, strict=True):
            parameter.grad = one + other
        quality_norm, diversity_norm = _norm(quality), _norm(diversity)
        product = sum(
            float((one * other).sum(dtype=torch.float64))
            for one, other in zip(quality, diversity, strict=True)
        )
        return GradientMeasurement(
            quality_norm, diversity_norm, gradient_cosine(product, quality_norm, diversity_norm)
        )


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return sum(float(tensor.square().sum(dtype=torch.float64)) for tensor in tensors) ** 0.5
