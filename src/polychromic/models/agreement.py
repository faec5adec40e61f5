"""Compares two ways of computing a model: how far apart they may lie, and how far they do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from polychromic.errors import is_out_of_memory
from polychromic.models.loading import ForwardPath

FAILURES = (
    AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""Errors that a model's code raises where it does not support a way of calling it."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """States how far two computations of one log-probability may lie apart, in nats per token, and their gradients,
    relative to the gradient's norm."""

    largest: float
    mean: float
    gradient: float
    head: float
    """Of logits, relative to the largest."""


TOLERANCES = {
    torch.float32: Tolerance(1e-4, 2e-5, 1e-3, 1e-5),
    torch.bfloat16: Tolerance(2.0, 0.05, 0.3, 5e-3),
    torch.float16: Tolerance(0.5, 0.02, 0.2, 5e-3),
}
"""At the least: where a plain forward of a batch lies further from one of each sequence alone, rounding is that large
on this model and machine. Half precision rounds logits to a hundredth and more."""


def tolerance_of(dtype: torch.dtype) -> Tolerance:
    """Returns how far two computations in that dtype may lie apart."""
    return TOLERANCES.get(dtype, TOLERANCES[torch.float32])


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """The way that was chosen and the largest differences to a plain forward pass, in nats per token.

    `gradient` is relative to the gradient's norm; nan where nothing was trained. `refused` names the faster ways that
    do not agree on this model, with the reason.
    """

    path: ForwardPath
    sampling: float
    training: float
    gradient: float
    causality: float
    lengths: tuple[int, ...]
    dtype: str
    seconds: float
    refused: tuple[str, ...] = ()

    @property
    def largest(self) -> float:
        """Returns the larger of the differences of sampling and training."""
        return max(self.sampling, self.training)

    def to_json(self) -> dict[str, Any]:
        """Returns a plain mapping for model_check.json and provenance.json; an undefined gradient is null, and the
        time, which differs from start to start, is left out."""
        gradient = None if math.isnan(self.gradient) else self.gradient
        content = {**asdict(self), "gradient": gradient}
        del content["seconds"]
        return content

    def describe(self) -> str:
        """Says in one line the way taken and the largest difference."""
        path = self.path
        ways = f"answers {path.layout}, {path.head} head, {path.decoding.replace('_', ' ')} decoding"
        return (
            f"{ways}; at most {self.largest:.1e} nats per token from a plain forward pass ({self.dtype}, sequences "
            f"of up to {max(self.lengths)} tokens)"
        )


def largest_difference(computed: Sequence[torch.Tensor], plain: Sequence[torch.Tensor], tolerance: Tolerance) -> float:
    """Returns the largest difference per token; raises ValueError where it, or the mean, is beyond the tolerance."""
    difference = (torch.cat(list(computed)) - torch.cat(list(plain))).abs()
    largest, mean = float(difference.max()), float(difference.mean())
    if not (largest <= tolerance.largest and mean <= tolerance.mean):
        raise ValueError(f"off by up to {largest:.2g} nats per token, {mean:.2g} on average")
    return largest


def gradient_difference(computed: Sequence[torch.Tensor], plain: Sequence[torch.Tensor], tolerance: Tolerance) -> float:
    """Returns the norm of the difference relative to that of the plain gradient, nan where there is none; raises
    ValueError where it is beyond the tolerance."""
    norm = gradient_norm(plain)
    if norm == 0.0:
        return math.nan
    relative = gradient_norm([ours - theirs for ours, theirs in zip(computed, plain, strict=True)]) / norm
    if not relative <= tolerance.gradient:
        raise ValueError(f"its gradient is off by {relative:.1%}")
    return relative


def gradient_norm(gradient: Sequence[torch.Tensor]) -> float:
    """Returns the Euclidean norm over all tensors, 0 where there are none."""
    return math.sqrt(sum(float(part.double().square().sum()) for part in gradient))


def reraise_out_of_memory(error: BaseException) -> None:
    """Raises the error again where memory ran out: that is no fault of the way a model is computed."""
    if is_out_of_memory(error):
        raise error


def reason(error: BaseException) -> str:
    """Returns the first line of an error of a model's code, with its kind where the text alone says little."""
    first = (str(error).strip() or "no reason given").splitlines()[0][:200]
    return first if isinstance(error, ValueError | RuntimeError) else f"{type(error).__name__}: {first}"
