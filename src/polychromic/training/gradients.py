"""Gradients of the quality and the diversity term, kept apart on the steps that measure their shares.

The diversity term is measured in two halves of the step's prompts: where they agree is signal, where not is noise.
Where its score is gated, the gate's part of it is measured as well; the distance's part is the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from polychromic.objective import gradient_cosine

Term = Literal["quality", "diversity_even", "diversity_odd", "diversity_gate"]
TERMS: tuple[Term, ...] = ("quality", "diversity_even", "diversity_odd")
"""What the gradient is the sum of; `diversity_gate`, a part of the diversity terms, is measured and never added."""


@dataclass(frozen=True, slots=True)
class GradientMeasurement:
    """Norms of both terms' gradients over all trainable parameters, and the cosine between them (nan if one is 0).

    `diversity_signal_to_noise` estimates ‖E g‖² / tr Cov(g) of the step's diversity gradient g over the choice of
    prompts and generations; one step's value may be negative. nan where g is 0, or from one prompt alone.
    `gate_norm` and `distance_norm` are those of the two parts of g (`training.credit`); nan where it is not gated.
    """

    quality_norm: float
    diversity_norm: float
    cosine: float
    diversity_signal_to_noise: float
    gate_norm: float = math.nan
    distance_norm: float = math.nan


class GradientAccumulator:
    """Adds the gradients of micro-batches to `parameter.grad`; with `separate` it also remembers them by term.

    loss_scale: what losses are multiplied by before the backward pass, and gradients divided by after it. In float16
    small gradients of activations would be rounded to zero (Micikevicius et al., 2018, arXiv:1710.03740).
    """

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], *, separate: bool, loss_scale: float = 1.0
    ) -> None:
        self.parameters = list(parameters)
        self.loss_scale = loss_scale
        self.separate = separate
        self._by_term: dict[Term, list[torch.Tensor]] = {
            term: [torch.zeros_like(parameter) for parameter in self.parameters] if separate else []
            for term in TERMS
        }
        self._gate: list[torch.Tensor] | None = None
        for parameter in self.parameters:
            parameter.grad = None

    def add(self, losses: Mapping[Term, torch.Tensor]) -> None:
        """Backpropagate the terms of one micro-batch. A term without a gradient path adds nothing.

        `diversity_gate` may only be among them where the terms are kept apart.
        """
        connected: dict[Term, torch.Tensor] = {
            term: loss * self.loss_scale for term, loss in losses.items() if loss.requires_grad
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
            for total, gradient in zip(self._totals(term), gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient, alpha=1.0 / self.loss_scale)

    def _totals(self, term: Term) -> list[torch.Tensor]:
        if term != "diversity_gate":
            return self._by_term[term]
        if self._gate is None:
            self._gate = [torch.zeros_like(parameter) for parameter in self.parameters]
        return self._gate

    def finish(self, n_prompts: int) -> GradientMeasurement | None:
        """Leave the sum in `parameter.grad`; return the measurement if the terms were kept apart.

        n_prompts: prompts of the diversity term, the even ones of which made up one half.
        """
        if not self.separate:
            for parameter in self.parameters:
                if parameter.grad is not None and self.loss_scale != 1.0:
                    parameter.grad.div_(self.loss_scale)
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
            _signal_to_noise(even, odd, n_prompts),
            gate_norm=math.nan if self._gate is None else _norm(self._gate),
            distance_norm=math.nan
            if self._gate is None
            else _norm([whole - part for whole, part in zip(diversity, self._gate, strict=True)]),
        )


def _signal_to_noise(even: Sequence[torch.Tensor], odd: Sequence[torch.Tensor], n_prompts: int) -> float:
    """Of g = even + odd, the sums over the shares e and o = 1 − e of a step's independent prompts.

    E⟨even, odd⟩ = e o ‖E g‖² and E‖even / e − odd / o‖² = tr Cov(g) / (e o).
    """
    share = (n_prompts + 1) // 2 / n_prompts
    both = share * (1.0 - share)
    if both == 0.0:
        return math.nan
    noise = _norm([one / share - two / (1.0 - share) for one, two in zip(even, odd, strict=True)]) ** 2 * both
    return _product(even, odd) / both / noise if noise > 0 else math.nan


def _product(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    return sum(float((one * other).sum(dtype=torch.float64)) for one, other in zip(ones, others, strict=True))


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return _product(tensors, tensors) ** 0.5
