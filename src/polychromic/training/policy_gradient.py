"""Backpropagates the score-function gradient of sampled groups, corrected for what the sampler's policy differs in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from polychromic.errors import ConfigError
from polychromic.models.loading import LanguageModel
from polychromic.models.logprobs import AnswerLogprobs, TokenSequence, answer_logprobs, micro_batches
from polychromic.numerics import FloatArray
from polychromic.objective.importance import importance_weights
from polychromic.objective.losses import kl_to_reference, policy_gradient_loss
from polychromic.records import Group
from polychromic.training.advantages import SampledGroups
from polychromic.training.base import ArmRun
from polychromic.training.gradients import GradientAccumulator, SamplerMismatch, Term, mismatch_metrics
from polychromic.training.parallel import ALONE, Processes


class PolicyGradient:
    """Computes Σ_i A_i ∇log π(y_i) of a step's groups, averaged over prompts. Dropout is off, as it was in sampling."""

    def __init__(self, run: ArmRun, language_model: LanguageModel, processes: Processes = ALONE) -> None:
        self.run = run
        self.language_model = language_model
        self.processes = processes

    def accumulate(
        self, sampled: SampledGroups, accumulator: GradientAccumulator, *, quality_scale: float, diversity_scale: float
    ) -> dict[str, float]:
        """Adds the gradient of both terms to the accumulator.

        Returns how far the log-probabilities of training lie from the sampler's, the importance weights where they
        correct that, and the KL in nats a generation where it is asked for.
        """
        settings, n_prompts = self.run.training, len(sampled.groups)
        advantages = self._scaled_advantages(sampled, quality_scale, diversity_scale, split_gate=accumulator.separate)
        if "diversity_gate" in advantages:
            accumulator.open_gate()
        kl_weight = settings.kl_weight if quality_scale else 0.0
        divergence, mismatch = 0.0, SamplerMismatch(sampled.groups)
        own = self._own_rows(sampled)
        correction = self._correction(sampled, own)
        rows = own
        if kl_weight == 0.0:
            # An advantage of zero has no gradient: such generations need no forward pass.
            chosen_B = torch.stack(list(advantages.values())).any(dim=0).cpu()
            rows = [row for row in own if chosen_B[row]]
        sequences = [sampled.sequences[row] for row in rows]
        with self.language_model.training_pass():
            for batch in micro_batches(sequences, settings.micro_batch_size):
                chosen, members = [rows[index] for index in batch], [sequences[index] for index in batch]
                answers = self._logprobs(members)
                logprobs_BT, mask_BT = answers.logprobs_BT, answers.mask_BT
                mismatch.add(chosen, logprobs_BT.detach(), mask_BT)
                weights_BT = correction.weights(chosen, answers) if correction else None
                losses: dict[Term, torch.Tensor] = {
                    term: policy_gradient_loss(logprobs_BT, mask_BT, advantages_B[chosen], weights_BT=weights_BT)
                    / n_prompts
                    for term, advantages_B in advantages.items()
                }
                if kl_weight:
                    kl = self._kl(members, answers, weights_BT) / len(sampled.sequences)
                    losses["quality"] = losses["quality"] + kl_weight * kl
                    divergence += float(kl.detach())
                accumulator.add(losses)
        divergence, nats, tokens = self.processes.total(divergence, mismatch.nats, mismatch.tokens)
        measured = mismatch_metrics(nats, tokens)
        if correction:
            measured |= weight_metrics(*self.processes.total(*correction.sums()))
        return measured | ({"train/kl": divergence} if kl_weight else {})

    def _own_rows(self, sampled: SampledGroups) -> list[int]:
        """Returns the places of the generations of this process's prompts."""
        n = len(sampled.sequences) // len(sampled.groups)
        groups = self.processes.own(range(len(sampled.groups)))
        return [row for group in groups for row in range(group * n, (group + 1) * n)]

    def _correction(self, sampled: SampledGroups, own: Sequence[int]) -> ImportanceCorrection | None:
        """Returns what weighs this process's generations, None where they are not corrected."""
        if self.run.sampling.importance_correction == "none":
            return None
        correction = ImportanceCorrection(self.run, sampled.groups)
        if self.run.sampling.importance_level == "group" and own:
            correction.weigh_groups(own, self._all_logprobs([sampled.sequences[row] for row in own]))
        return correction

    def _all_logprobs(self, sequences: Sequence[TokenSequence]) -> list[torch.Tensor]:
        """Returns the log-probabilities of whole groups, by a forward pass without gradient."""
        logprobs: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
        with torch.no_grad():
            for batch in micro_batches(sequences, self.run.training.micro_batch_size):
                answers = self._logprobs([sequences[index] for index in batch])
                for index, logprobs_T in zip(batch, answers.logprobs_BT, strict=True):
                    logprobs[index] = logprobs_T[: sequences[index].n_answer]
        return logprobs

    def _logprobs(self, members: Sequence[TokenSequence]) -> AnswerLogprobs:
        return answer_logprobs(self.language_model, members, temperature=self.run.training.temperature)

    def _scaled_advantages(
        self, sampled: SampledGroups, quality_scale: float, diversity_scale: float, *, split_gate: bool
    ) -> dict[Term, torch.Tensor]:
        """Returns each term's scaled advantages [P·N]: diversity in two halves of the prompts, and its gate's part."""
        device = self.language_model.device

        def scaled(advantages_PN: FloatArray, scale: float) -> torch.Tensor:
            return torch.tensor(advantages_PN.ravel() * scale, dtype=torch.float32, device=device)

        given = sampled.advantages
        diversity_B = scaled(given.diversity_PN, diversity_scale)
        prompt_B = torch.arange(len(diversity_B), device=device) // given.diversity_PN.shape[1]
        advantages: dict[Term, torch.Tensor] = {
            "quality": scaled(given.quality_PN, quality_scale),
            "diversity_even": diversity_B * (prompt_B % 2 == 0),
            "diversity_odd": diversity_B * (prompt_B % 2 == 1),
        }
        if split_gate and given.gate_PN is not None:
            advantages["diversity_gate"] = scaled(given.gate_PN, diversity_scale)
        return advantages

    def _kl(
        self, members: Sequence[TokenSequence], answers: AnswerLogprobs, weights_BT: torch.Tensor | None
    ) -> torch.Tensor:
        """Sums over the sequences the KL to the policy that training started from."""
        with torch.no_grad(), self.language_model.reference_policy():
            reference = self._logprobs(members)
        return kl_to_reference(answers.logprobs_BT, reference.logprobs_BT, answers.mask_BT, weights_BT=weights_BT)


class ImportanceCorrection:
    """Weighs a step's generations by how likely the trained policy is to draw them, against the sampler's."""

    def __init__(self, run: ArmRun, groups: Sequence[Group]) -> None:
        """Raises ConfigError where the sampler tells no log-probabilities."""
        self.settings = run.sampling
        self.group_size = len(groups[0].generations)
        self._sampled: list[tuple[float, ...]] = []
        for generation in chain.from_iterable(group.generations for group in groups):
            if generation.token_logprobs is None:
                raise ConfigError(
                    f"sampling.importance_correction: engine {run.sampling.engine} tells no log-probabilities of its "
                    "tokens; set it to none"
                )
            self._sampled.append(generation.token_logprobs)
        self._of_groups: dict[int, torch.Tensor] = {}
        self._sum, self._cut_off, self._tokens = 0.0, 0, 0

    def weigh_groups(self, rows: Sequence[int], logprobs: Sequence[torch.Tensor]) -> None:
        """Weighs whole groups, from the log-probabilities of all their members: those differ over micro-batches.

        rows: the members' places among all generations.
        """
        ones = [torch.ones_like(logprobs_T) for logprobs_T in logprobs]
        pad = torch.nn.utils.rnn.pad_sequence
        trained_BT, mask_BT = pad(list(logprobs), batch_first=True), pad(ones, batch_first=True)
        weights_BT = self._cut(trained_BT, self._padded(rows, trained_BT), mask_BT)
        self._of_groups = dict(zip(rows, weights_BT[:, 0], strict=True))

    def weights(self, rows: Sequence[int], answers: AnswerLogprobs) -> torch.Tensor:
        """Returns the weights [B, T] of some generations, by their place among all."""
        if self._of_groups:
            of_groups_B = torch.stack([self._of_groups[row] for row in rows])
            weights_BT = of_groups_B[:, None].expand_as(answers.logprobs_BT)
        else:
            sampled_BT = self._padded(rows, answers.logprobs_BT)
            weights_BT = self._cut(answers.logprobs_BT, sampled_BT, answers.mask_BT)
        weights_M = weights_BT[answers.mask_BT > 0].double()
        self._sum += float(weights_M.sum())
        # A weight at the cap was above it, but for rounding.
        self._cut_off += int((weights_M >= self.settings.importance_cap * (1 - 1e-6)).sum())
        self._tokens += len(weights_M)
        return weights_BT

    def sums(self) -> tuple[float, float, float]:
        """Returns the sum of the weights of all tokens so far, how many were cut, and how many there are."""
        return self._sum, float(self._cut_off), float(self._tokens)

    def _padded(self, rows: Sequence[int], like_BT: torch.Tensor) -> torch.Tensor:
        padded_BT = torch.zeros(like_BT.shape, dtype=torch.float64)
        for place, row in enumerate(rows):
            padded_BT[place, : len(self._sampled[row])] = torch.tensor(self._sampled[row], dtype=torch.float64)
        return padded_BT.to(like_BT.device)

    def _cut(self, trained_BT: torch.Tensor, sampled_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        return importance_weights(
            trained_BT,
            sampled_BT,
            mask_BT,
            level=self.settings.importance_level,
            cap=self.settings.importance_cap,
            group_size=self.group_size,
        )


def weight_metrics(total: float, cut_off: float, tokens: float) -> dict[str, float]:
    """Returns the mean weight of a token, and the share of tokens whose weight was cut; empty of none."""
    if tokens == 0:
        return {}
    return {"train/importance_weight": total / tokens, "train/importance_truncated": cut_off / tokens}
