"""Finds out from log-probabilities which policy an engine answers for: the trained, the base, or an earlier one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polychromic.models.adapters import replaced_weights
from polychromic.models.loading import LanguageModel
from polychromic.models.logprobs import TokenSequence, plain_logprobs
from polychromic.numerics import FloatArray
from polychromic.records import SamplingParameters
from polychromic.sampling.vllm.engine import Engine, Request, sampling_keys

BASE, TRAINED = "the base model", "the trained policy"
CERTAINTY = 3.0
"""Times that two policies must lie farther from each other than the engine from the nearer to be told apart."""

_PROMPTS, _SAMPLES, _TOKENS = 4, 2, 32


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Holds the distance of the engine's log-probabilities of M sampled tokens from the trainer's, in nats per token.

    `share` is how much of what the trained policy differs in from its nearest rival is seen in the engine: 1 where it
    answers for the trained policy, 0 where for the rival; nan where the two are too near each other to tell. `nearest`
    is the policy whose log-probabilities fit best.
    """

    mismatch: float
    worst: float
    share: float
    nearest: str

    def fault(self, tolerance: float) -> str:
        """Says what is wrong, empty where nothing is: another policy fits better, or none fits."""
        if self.share < 0.5:
            return (
                f"it answers for {self.nearest}, not for the trained policy: only {max(0.0, self.share):.0%} of what "
                "the two differ in is seen in its log-probabilities"
            )
        if not self.mismatch <= tolerance:
            return (
                f"its log-probabilities lie {self.mismatch:.3g} nats per token from the trainer's, and at most "
                f"{tolerance:g} are allowed"
            )
        return ""


def compare_policies(
    engine_M: FloatArray, trained_M: FloatArray, rivals: Mapping[str, FloatArray], *, name: str
) -> ProbeResult:
    """Compares the engine's log-probabilities of M tokens with the trainer's of the same tokens under its own policy
    and under `rivals`, such as the base model. name: the trained policy's own.

    A rival fits better where it is nearer; with v the difference of the two policies, that is where the least-squares
    share ⟨e − r, v⟩ / ⟨v, v⟩ is below a half. Rivals with ‖v‖ < `CERTAINTY` · min(‖e − t‖, ‖e − r‖) say nothing: an
    adapter that has hardly been trained is the base model. With the others, whatever rounding does to e, the triangle
    inequality leaves the share of the right policy above a half.
    """
    error_M = np.asarray(engine_M) - trained_M
    shares: dict[str, float] = {}
    for rival, rival_M in rivals.items():
        apart_M, other_M = trained_M - rival_M, engine_M - rival_M
        squared = float(apart_M @ apart_M)
        nearer = min(float(error_M @ error_M), float(other_M @ other_M))
        if squared > 0 and squared >= CERTAINTY**2 * nearer:
            shares[rival] = float(other_M @ apart_M) / squared
    rival = min(shares, key=lambda each: shares[each], default=None)
    share = math.nan if rival is None else shares[rival]
    return ProbeResult(
        mismatch=float(np.abs(error_M).mean()),
        worst=float(np.abs(error_M).max()),
        share=share,
        nearest=rival if rival is not None and share < 0.5 else name,
    )


class Prober:
    """Draws a few answers and computes their log-probabilities in the trainer, under its policy and under others."""

    def __init__(
        self, engine: Engine, language_model: LanguageModel, requests: Sequence[Request], parameters: SamplingParameters
    ) -> None:
        self.engine = engine
        self.language_model = language_model
        self.requests = requests[:_PROMPTS]
        self.temperature = parameters.temperature
        short = SamplingParameters(parameters.temperature, max_new_tokens=min(_TOKENS, parameters.max_new_tokens))
        self.keys = sampling_keys(short, _SAMPLES, language_model.stop_ids)
        self._sequences: list[TokenSequence] = []

    def compare(
        self, adapter: str | None, *, rivals: Mapping[str, Mapping[str, torch.Tensor]] | None = None
    ) -> ProbeResult:
        """Compares what the engine draws under an adapter with the model as it is, the base, and `rivals` (weights)."""
        engine_M = self.draw(adapter)
        if adapter is None:
            return compare_policies(engine_M, self._base(), {}, name=BASE)
        others = {BASE: self._base()}
        for name, weights in (rivals or {}).items():
            with replaced_weights(self.language_model.model, dict(weights)):
                others[name] = self._logprobs()
        return compare_policies(engine_M, self._logprobs(), others, name=TRAINED)

    def draw(self, adapter: str | None) -> FloatArray:
        """Draws answers, whose log-probabilities are asked for from now on; returns the engine's own, [M]."""
        drawn = self.engine.draw(self.requests, self.keys, adapter)
        pairs = [
            (request.prompt_ids, one) for request, group in zip(self.requests, drawn, strict=True) for one in group
        ]
        self._sequences = [TokenSequence(ids + one.token_ids, len(ids)) for ids, one in pairs]
        return np.array([logprob for _, one in pairs for logprob in one.logprobs])

    def effect(self) -> float:
        """Returns what the model's adapter changes in the answers drawn last, in nats per token."""
        return float(np.abs(self._logprobs() - self._base()).mean())

    def _base(self) -> FloatArray:
        model: Any = self.language_model.model
        if not hasattr(model, "disable_adapter"):
            return self._logprobs()
        with model.disable_adapter():
            return self._logprobs()

    def _logprobs(self) -> FloatArray:
        """Returns [M] of the answers drawn last, one token after another, by plain forward passes."""
        with torch.inference_mode():
            each = [
                plain_logprobs(self.language_model, sequence, temperature=self.temperature)
                for sequence in self._sequences
            ]
        return torch.cat(each).double().cpu().numpy()


def adapter_weights(language_model: LanguageModel) -> dict[str, torch.Tensor]:
    """Returns the adapter's tensors by parameter name, empty of a base without one."""
    return {name: p.detach() for name, p in language_model.model.named_parameters() if "lora_" in name}


def weights_digest(weights: Mapping[str, torch.Tensor]) -> str:
    """Hashes names and values: what tells that the policy has moved, whoever moved it."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in weights.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def trial_weights(weights: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """Returns the weights with noise of standard deviation `scale` in each second factor, which is 0 at the start."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: tensor + scale * torch.randn(tensor.shape, generator=generator).to(tensor)
        for name, tensor in weights.items()
        if "lora_B" in name or "lora_embedding_B" in name
    }
