"""Adds up the parts of a gradient, and measures shares, cosines and the sampler's mismatch."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from polychromic.objective import find_objective, gradient_cosine, gradient_share
from polychromic.records import Group
from polychromic.training.advantages import SampledGroups
from polychromic.training.parallel import ALONE, Processes
from polychromic.training.rollouts import GroupSignals, distance_metrics
from polychromic.training.settings import DiversitySettings

Term = Literal["quality", "diversity_even", "diversity_odd", "diversity_gate"]
TERMS: tuple[Term, ...] = ("quality", "diversity_even", "diversity_odd")
"""Parts that add up to the gradient; `diversity_gate`, a part of the diversity terms, is measured and never added."""


@dataclass(frozen=True, slots=True)
class GradientMeasurement:
    """Norms of both terms' gradients over all trainable parameters, and the cosine between them (nan if one is 0).

    `diversity_signal_to_noise` estimates ‖E g‖² / tr Cov(g) of the step's diversity gradient g over the choice of
    prompts and generations; one step's value may be negative. nan where g is 0, or from one prompt alone.
    `gate_norm` and `distance_norm` are those of the two parts of g (`rollouts.gate_part`); nan where it is not gated.
    """

    quality_norm: float
    diversity_norm: float
    cosine: float
    diversity_signal_to_noise: float
    gate_norm: float = math.nan
    distance_norm: float = math.nan


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Records what a step did: its metrics, the weight in effect, and what is known of the diversity gradient."""

    metrics: dict[str, float]
    diversity_weight: float
    diversity_sampled: bool
    diversity_has_signal: bool
    measurement: GradientMeasurement | None
    quality: float
    """Quality that a floor compares: mean reward, or minus the cross-entropy of validation references per token (nan
    on steps that do not measure it)."""
    signals: GroupSignals | None
    truncated: float


class GradientAccumulator:
    """Adds the gradients of micro-batches to `parameter.grad`; with `separate` it also remembers them by term.

    processes: those that share a step; `finish` sums over them.
    loss_scale: what losses are multiplied by before the backward pass, and gradients divided by after it. In float16
    small gradients of activations would be rounded to zero (Micikevicius et al., 2018, arXiv:1710.03740).
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        *,
        separate: bool,
        loss_scale: float = 1.0,
        processes: Processes = ALONE,
    ) -> None:
        self.parameters = list(parameters)
        self.processes = processes
        self.loss_scale = loss_scale
        self.separate = separate
        self._by_term: dict[Term, list[torch.Tensor]] = {
            term: [torch.zeros_like(parameter) for parameter in self.parameters] if separate else [] for term in TERMS
        }
        self._reached = torch.zeros(len(self.parameters))
        """1 of parameters that some term has a gradient of, where the terms are kept apart."""
        for parameter in self.parameters:
            parameter.grad = None

    def add(self, losses: Mapping[Term, torch.Tensor]) -> None:
        """Backpropagates the terms of one micro-batch. A term without a gradient path adds nothing.

        `diversity_gate` may only be among them where the terms are kept apart, after `open_gate`.
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
            for place, (total, gradient) in enumerate(zip(self._by_term[term], gradients, strict=True)):
                if gradient is not None:
                    total.add_(gradient, alpha=1.0 / self.loss_scale)
                    self._reached[place] = 1.0

    def open_gate(self) -> None:
        """Makes room for `diversity_gate`: on every process, also one that has none of the step's generations."""
        self._by_term["diversity_gate"] = [torch.zeros_like(parameter) for parameter in self.parameters]

    def finish(self, n_prompts: int) -> GradientMeasurement | None:
        """Leaves the sum in `parameter.grad`; returns the measurement if the terms were kept apart.

        A parameter that no term reaches has none either way: the optimizer passes it over, measured or not.

        n_prompts: prompts of the diversity term, the even ones of which made up one half.
        """
        if not self.separate:
            if self.processes.size > 1:
                self._sum_over_processes()
            for parameter in self.parameters:
                if parameter.grad is not None and self.loss_scale != 1.0:
                    parameter.grad.div_(self.loss_scale)
            return None
        measurement = self.measurement(n_prompts)
        reached = self._over_processes(self._reached)
        for parameter, owners, *parts in zip(
            self.parameters, reached, *(self._by_term[term] for term in TERMS), strict=True
        ):
            parameter.grad = parts[0] + (parts[1] + parts[2]) if owners else None
        return measurement

    def measurement(self, n_prompts: int) -> GradientMeasurement:
        """Sums the terms, which were kept apart, over the processes and compares them; `parameter.grad` stays."""
        self.processes.add_up([tensor for tensors in self._by_term.values() for tensor in tensors])
        quality, even, odd = (self._by_term[term] for term in TERMS)
        diversity = [first + second for first, second in zip(even, odd, strict=True)]
        quality_norm, diversity_norm = _norm(quality), _norm(diversity)
        cosine = gradient_cosine(_product(quality, diversity), quality_norm, diversity_norm)
        measurement = GradientMeasurement(quality_norm, diversity_norm, cosine, _signal_to_noise(even, odd, n_prompts))
        gate = self._by_term.get("diversity_gate")
        if gate is None:
            return measurement
        distance = [whole - part for whole, part in zip(diversity, gate, strict=True)]
        return replace(measurement, gate_norm=_norm(gate), distance_norm=_norm(distance))

    def _sum_over_processes(self) -> None:
        """Sums `parameter.grad`; one that no process has stays None, so that the optimizer passes it over."""
        had = self._over_processes(torch.tensor([float(parameter.grad is not None) for parameter in self.parameters]))
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self.parameters
        ]
        self.processes.add_up(gradients)
        for parameter, gradient, owners in zip(self.parameters, gradients, had, strict=True):
            parameter.grad = gradient if owners else None

    def _over_processes(self, had: torch.Tensor) -> list[float]:
        """Returns on how many processes each parameter has a gradient."""
        had = had.to(self.parameters[0].device)
        self.processes.add_up([had])
        return had.tolist()


def _signal_to_noise(even: Sequence[torch.Tensor], odd: Sequence[torch.Tensor], n_prompts: int) -> float:
    """Estimates signal to noise of g = even + odd, the sums over the shares e and o = 1 − e of a step's prompts.

    E⟨even, odd⟩ = e o ‖E g‖² and E‖even / e − odd / o‖² = tr Cov(g) / (e o).
    """
    share = (n_prompts + 1) // 2 / n_prompts
    both = share * (1.0 - share)
    if both == 0.0:
        return math.nan
    noise = _norm([first / share - second / (1.0 - share) for first, second in zip(even, odd, strict=True)]) ** 2 * both
    return _product(even, odd) / both / noise if noise > 0 else math.nan


def _product(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    return sum(float((first * second).sum(dtype=torch.float64)) for first, second in zip(ones, others, strict=True))


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return _product(tensors, tensors) ** 0.5


logger = logging.getLogger(__name__)

LARGE_SAMPLER_MISMATCH = 0.05
"""Nats per token between the sampled and the trained policy above which training warns."""


class SamplerMismatch:
    """Compares the log-probabilities that training computes with those that the sampler drew its tokens from.

    They are of one policy. In half precision rounding sets them apart, and the gradient is off by as much.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._sampled = [generation.logprob for group in groups for generation in group.generations]
        self.nats, self.tokens = 0.0, 0
        """Sums over the compared generations."""

    def add(self, rows: Sequence[int], logprobs_BT: torch.Tensor, mask_BT: torch.Tensor) -> None:
        """Compares some generations, by their place among all."""
        trained_B = logprobs_BT.masked_fill(mask_BT == 0, 0.0).double().sum(dim=1).cpu()
        sampled_B = torch.tensor([self._sampled[row] for row in rows], dtype=torch.float64)
        known_B = ~sampled_B.isnan()  # samplers that tell no log-probabilities
        self.nats += float((trained_B - sampled_B).abs()[known_B].sum())
        self.tokens += int(mask_BT.cpu()[known_B].sum())


def mismatch_metrics(nats: float, tokens: float) -> dict[str, float]:
    """Returns the mean absolute difference per token in nats, of whole answers; empty where nothing was compared."""
    if tokens == 0:
        return {}
    mismatch = nats / tokens
    if mismatch > LARGE_SAMPLER_MISMATCH:
        logger.warning(
            "sampled and trained log-probabilities differ by %.3f nats per token (up to %.2f is usual in half "
            "precision): the gradient is of another policy than the sampled; use model.dtype: float32, or "
            "sampling.importance_correction: truncated",
            mismatch,
            LARGE_SAMPLER_MISMATCH,
        )
    return {"train/sampler_mismatch": mismatch}


def step_outcome(
    settings: DiversitySettings,
    measurement: GradientMeasurement | None,
    weight: float,
    *,
    quality: float,
    quality_loss: float,
    sampled: SampledGroups | None,
) -> StepOutcome:
    """Collects what a step did with its metrics; `sampled` is None where it had no groups."""
    metrics = {"train/quality_loss": quality_loss, "train/diversity_weight": weight}
    if sampled is not None:
        metrics |= group_metrics(sampled)
    if sampled is not None and settings.is_active:
        given = sampled.advantages
        # The loss as this project's origin logged it. Its share says nothing about training: see the gradient's.
        part = abs(weight * given.score)
        metrics["train/diversity_score"] = given.score
        metrics["train/combined_loss"] = quality_loss - weight * given.score
        metrics["train/diversity_loss_share"] = part / max(part + abs(quality_loss), 1e-12)
        if find_objective(settings.objective).pairwise:
            metrics |= distance_metrics(sampled.signals, given.diversity_PN, given.gate_PN)
        metrics["groups/diversity_signal"] = float(given.signal_P.mean())
    if measurement is not None:
        metrics |= measurement_metrics(measurement)
    return StepOutcome(
        metrics=metrics,
        diversity_weight=weight,
        diversity_sampled=sampled is not None and settings.is_active,
        diversity_has_signal=sampled is not None and bool(sampled.advantages.signal_P.any()),
        measurement=measurement if sampled is not None else None,
        quality=quality,
        signals=sampled.signals if sampled is not None else None,
        truncated=metrics.get("generation/truncated", 0.0),
    )


def reward_outcome(
    settings: DiversitySettings, measurement: GradientMeasurement | None, weight: float, sampled: SampledGroups
) -> StepOutcome:
    """Collects what a step did whose quality is the mean reward of its groups."""
    reward = float(np.nanmean(sampled.signals.rewards_PN))
    return step_outcome(settings, measurement, weight, quality=reward, quality_loss=-reward, sampled=sampled)


def measurement_metrics(measurement: GradientMeasurement) -> dict[str, float]:
    """Returns norms, shares, cosine and signal-to-noise under their names; the gate's only where there is a gate."""
    metrics = {
        "train/diversity_gradient_share": gradient_share(measurement.quality_norm, measurement.diversity_norm),
        "train/gradient_cosine": measurement.cosine,
        "train/quality_gradient_norm": measurement.quality_norm,
        "train/diversity_gradient_norm": measurement.diversity_norm,
        "train/diversity_signal_to_noise": measurement.diversity_signal_to_noise,
    }
    if not math.isnan(measurement.gate_norm):
        metrics |= {
            "train/diversity_gate_gradient_norm": measurement.gate_norm,
            "train/diversity_distance_gradient_norm": measurement.distance_norm,
            "train/diversity_gate_gradient_share": gradient_share(measurement.distance_norm, measurement.gate_norm),
        }
    return metrics


def group_metrics(sampled: SampledGroups) -> dict[str, float]:
    """Describes the sampled groups: reward, clusters, length, truncation, lack of signal, the partition's cost."""
    signals, metrics = sampled.signals, dict[str, float]()
    if not np.isnan(signals.rewards_PN).all():
        metrics["train/reward"] = float(np.nanmean(signals.rewards_PN))
        metrics["train/passing"] = float(np.nanmean(signals.passing_PN))
    silent_P = ~(np.any(sampled.advantages.quality_PN, axis=1) | sampled.advantages.signal_P)
    metrics["groups/no_signal"] = float(silent_P.mean())
    if signals.is_divided:
        metrics["groups/clusters"] = signals.mean_clusters
    generations = [generation for group in sampled.groups for generation in group.generations]
    lengths = [len(generation.token_ids) for generation in generations]
    return metrics | {
        "generation/total_tokens": float(sum(lengths)),
        "generation/tokens": float(np.mean(lengths)),
        # Nats per token of the policy that sampled: minus the mean log-probability of what it drew.
        "generation/entropy": -sum(generation.logprob for generation in generations) / sum(lengths),
        "generation/truncated": float(np.mean([generation.finish == "length" for generation in generations])),
        "generation/checker_failures": float(np.isnan(signals.rewards_PN).mean()),
        **sampled.division_metrics,
    }
