"""The metrics of a training step under their names: gradients, loss, sampled groups, and sampling beside training."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
import torch

from polychromic.objective import gradient_share
from polychromic.records import Generation, Group
from polychromic.training.gradients import GradientMeasurement
from polychromic.training.groups import SampledGroups

logger = logging.getLogger(__name__)

LARGE_SAMPLER_MISMATCH = 0.05
"""Nats per token between the sampled and the trained policy above which training warns."""


class SamplerMismatch:
    """Compares the log-probabilities that training computes with those that the sampler drew its tokens from.

    They are of one policy. In half precision rounding sets them apart, and the gradient is off by as much.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._sampled = [one.logprob for group in groups for one in group.generations]
        self._nats, self._tokens = 0.0, 0

    def add(self, rows: Sequence[int], logprobs_BT: torch.Tensor, mask_BT: torch.Tensor) -> None:
        """Compare some generations, by their place among all."""
        trained_B = logprobs_BT.masked_fill(mask_BT == 0, 0.0).double().sum(dim=1).cpu()
        sampled_B = torch.tensor([self._sampled[row] for row in rows], dtype=torch.float64)
        known_B = ~sampled_B.isnan()  # samplers that tell no log-probabilities
        self._nats += float((trained_B - sampled_B).abs()[known_B].sum())
        self._tokens += int(mask_BT.cpu()[known_B].sum())

    def metrics(self) -> dict[str, float]:
        """Mean absolute difference per token in nats, of whole answers; empty where nothing was compared."""
        if self._tokens == 0:
            return {}
        mismatch = self._nats / self._tokens
        if mismatch > LARGE_SAMPLER_MISMATCH:
            logger.warning(
                "sampled and trained log-probabilities differ by %.3f nats per token (up to %.2f is usual in half "
                "precision): the gradient is of another policy than the sampled; use model.dtype: float32",
                mismatch,
                LARGE_SAMPLER_MISMATCH,
            )
        return {"train/sampler_mismatch": mismatch}


def measurement_metrics(measurement: GradientMeasurement) -> dict[str, float]:
    """Norms, shares, cosine and signal-to-noise under their names; the gate's share only where there is a gate."""
    metrics = {
        "train/diversity_gradient_share": gradient_share(
            measurement.quality_norm, measurement.diversity_norm
        ),
        "train/gradient_cosine": measurement.cosine,
        "train/quality_gradient_norm": measurement.quality_norm,
        "train/diversity_gradient_norm": measurement.diversity_norm,
        "train/diversity_signal_to_noise": measurement.diversity_signal_to_noise,
    }
    if not math.isnan(measurement.gate_norm):
        metrics |= {
            "train/diversity_gate_gradient_norm": measurement.gate_norm,
            "train/diversity_distance_gradient_norm": measurement.distance_norm,
            "train/diversity_gate_gradient_share": gradient_share(
                measurement.distance_norm, measurement.gate_norm
            ),
        }
    return metrics


def loss_metrics(quality_loss: float, diversity_score: float, weight: float) -> dict[str, float]:
    """The loss as the origin of this project logged it. Its share says nothing about training: see the gradient's."""
    part = abs(weight * diversity_score)
    return {
        "train/diversity_score": diversity_score,
        "train/combined_loss": quality_loss - weight * diversity_score,
        "train/diversity_loss_share": part / max(part + abs(quality_loss), 1e-12),
    }


def group_metrics(sampled: SampledGroups) -> dict[str, float]:
    """What the sampled groups look like: reward, clusters, length, truncation, groups without any signal."""
    generations = [one for group in sampled.groups for one in group.generations]
    silent_P = ~(np.any(sampled.quality_PN, axis=1) | sampled.diversity_signal_P)
    clusters = [len(set(codes)) for codes in sampled.signals.clusters_PN.tolist()]
    return {
        "train/reward": float(np.nanmean(sampled.signals.rewards_PN)),
        "train/passing": float(np.nanmean(sampled.signals.passing_PN)),
        "groups/no_signal": float(silent_P.mean()),
        "groups/clusters": float(np.mean(clusters)),
        "generation/total_tokens": float(sum(len(one.token_ids) for one in generations)),
        "generation/tokens": float(np.mean([len(one.token_ids) for one in generations])),
        "generation/entropy": token_entropy(generations),
        "generation/truncated": float(np.mean([one.finish == "length" for one in generations])),
        "generation/checker_failures": float(np.isnan(sampled.signals.rewards_PN).mean()),
    }


def token_entropy(generations: Sequence[Generation]) -> float:
    """Entropy a token, in nats, of the policy that sampled: minus the mean log-probability of what it drew."""
    n_tokens = sum(len(one.token_ids) for one in generations)
    return -sum(one.logprob for one in generations) / n_tokens
