"""Makes one training step: from a reward, or on references with a diversity term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from polychromic.models.loading import LanguageModel
from polychromic.models.logprobs import TokenSequence, answer_logprobs, micro_batches
from polychromic.numerics import FloatArray
from polychromic.objective import FittedBaseline, find_objective
from polychromic.objective.losses import cross_entropy_loss, kl_to_reference, policy_gradient_loss
from polychromic.records import Prompt, SamplingParameters
from polychromic.sampling.base import build_sampler
from polychromic.seeding import child_seed, numpy_generator
from polychromic.training.advantages import SampledGroups, group_advantages, reads_distances
from polychromic.training.base import ArmRun
from polychromic.training.gradients import (
    GradientAccumulator,
    SamplerMismatch,
    StepOutcome,
    Term,
    mismatch_metrics,
    step_outcome,
)
from polychromic.training.parallel import ALONE, Processes
from polychromic.training.rollouts import (
    GroupSignals,
    group_sequences,
    group_signals,
    joined_signals,
    reference_sequences,
    require_working_checker,
    require_working_equivalence,
    sample_groups,
    split_signals,
)
from polychromic.training.watches import HeldOutReferences

FLOAT16_LOSS_SCALE = 1024.0


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Says what a step does besides following its quality."""

    diversity: bool
    """True where it has a diversity term."""
    measures: bool
    """True where it keeps the gradients of both terms apart and compares them; only steps with both can."""
    held_out: bool
    """True where it measures the cross-entropy of validation references, for a quality floor."""


class Step:
    """Computes the gradient of J = J_quality + λ J_diversity for one step and leaves it in `parameter.grad`.

    What both losses share: sampled groups, and the policy gradient of their advantages.
    """

    def __init__(self, run: ArmRun, language_model: LanguageModel, processes: Processes = ALONE) -> None:
        self.run = run
        self.language_model = language_model
        self.processes = processes
        self.sampler = build_sampler(
            run.sampling,
            language_model,
            max_decode_batch=run.training.micro_batch_size,
            thinking=run.thinking,
        )
        self.parameters = [p for p in language_model.model.parameters() if p.requires_grad]
        self.objective = find_objective(run.diversity.objective)
        self.prompts = run.task.prompts("train")
        self.fitted = FittedBaseline()
        """Of the steps so far; part of a checkpoint."""
        self.held_out: HeldOutReferences | None = None
        self.references_too_long = 0

    def plan(self, step: int) -> StepPlan:
        """Returns what is due at `step`, counted from 0."""
        every = self.run.facts.sample_every
        has_diversity = self.run.diversity.is_active and step % every == 0
        rounds = max(1, self.run.training.gradient_share_every // every)
        held_out = self.held_out is not None and step % self.run.training.validation_every == 0
        return StepPlan(has_diversity, has_diversity and step // every % rounds == 0, held_out)

    def make(
        self, step: int, prompts: Sequence[Prompt], weight: float, plan: StepPlan | None = None
    ) -> StepOutcome:
        """Makes `step` for its prompts at diversity weight λ; `plan` replaces what is due."""
        plan = plan or self.plan(step)
        half = self.language_model.model.dtype == torch.float16
        accumulator = GradientAccumulator(
            self.parameters,
            separate=plan.measures,
            loss_scale=FLOAT16_LOSS_SCALE if half else 1.0,
            processes=self.processes,
        )
        return self._make(step, prompts, weight, plan, accumulator)

    def _make(
        self,
        step: int,
        prompts: Sequence[Prompt],
        weight: float,
        plan: StepPlan,
        accumulator: GradientAccumulator,
    ) -> StepOutcome:
        raise NotImplementedError

    def sample(self, step: int, prompts: Sequence[Prompt], n: int) -> SampledGroups:
        """Samples n generations a prompt, and gives them the advantages of both terms.

        Each process samples and checks the groups of its own prompts, and all of them know all groups.
        """
        run, settings = self.run, self.run.training
        parameters = SamplingParameters(settings.temperature, max_new_tokens=settings.max_new_tokens)
        own = self.processes.own(prompts)
        seeds = [child_seed(run.experiment, run.arm, run.seed, step, prompt.id) for prompt in own]
        groups = sample_groups(
            self.sampler,
            run.task,
            own,
            n,
            parameters,
            seeds,
            truncation_reward=settings.truncation_reward,
        )
        parts: list[GroupSignals] = []
        if groups:
            parts = split_signals(
                group_signals(run.task, groups, with_distances=reads_distances(run.diversity))
            )
        groups, signals = self.processes.gather(groups), joined_signals(self.processes.gather(parts))
        require_working_checker(groups, settings.max_checker_failures)
        require_working_equivalence(signals, settings.max_checker_failures)
        subsets = numpy_generator(run.experiment, "subsets", run.arm, run.seed, step)
        advantages, self.fitted = group_advantages(
            groups, signals, run.diversity, settings.quality_baseline, self.fitted, subsets
        )
        return SampledGroups(groups, signals, group_sequences(self.language_model, groups), advantages)

    def _policy_gradient(
        self,
        sampled: SampledGroups,
        accumulator: GradientAccumulator,
        *,
        quality_scale: float,
        diversity_scale: float,
    ) -> dict[str, float]:
        """Accumulates the score-function gradient, averaged over prompts.

        Returns the distance of training's log-probabilities from the sampler's, and the KL in nats per generation
        where it is asked for. Dropout is off: this is the sampled policy.
        """
        n_prompts = len(sampled.groups)
        advantages = self._scaled_advantages(
            sampled, quality_scale, diversity_scale, split_gate=accumulator.separate
        )
        if "diversity_gate" in advantages:
            accumulator.open_gate()
        kl_weight = self.run.training.kl_weight if quality_scale else 0.0
        divergence, mismatch = 0.0, SamplerMismatch(sampled.groups)
        n_generations = len(sampled.sequences)
        chosen_B = torch.ones(n_generations, dtype=torch.bool)
        if kl_weight == 0.0:
            # An advantage of zero has no gradient: such generations need no forward pass.
            chosen_B = torch.stack(list(advantages.values())).any(dim=0).cpu()
        per_prompt = n_generations // n_prompts
        rows = [
            row
            for p in self.processes.own(range(n_prompts))
            for row in range(p * per_prompt, (p + 1) * per_prompt)
            if chosen_B[row]
        ]
        sequences = [sampled.sequences[row] for row in rows]
        with self.language_model.training_pass():
            for batch in micro_batches(sequences, self.run.training.micro_batch_size):
                chosen = [rows[index] for index in batch]
                members = [sequences[index] for index in batch]
                answers = answer_logprobs(
                    self.language_model, members, temperature=self.run.training.temperature
                )
                logprobs_BT, mask_BT = answers.logprobs_BT, answers.mask_BT
                mismatch.add(chosen, logprobs_BT.detach(), mask_BT)
                losses: dict[Term, torch.Tensor] = {
                    term: policy_gradient_loss(logprobs_BT, mask_BT, advantages_B[chosen]) / n_prompts
                    for term, advantages_B in advantages.items()
                }
                if kl_weight:
                    kl = self._kl(members, logprobs_BT, mask_BT) / n_generations
                    losses["quality"] = losses["quality"] + kl_weight * kl
                    divergence += float(kl.detach())
                accumulator.add(losses)
        divergence, nats, tokens = self.processes.total(divergence, mismatch.nats, mismatch.tokens)
        return mismatch_metrics(nats, tokens) | ({"train/kl": divergence} if kl_weight else {})

    def _scaled_advantages(
        self, sampled: SampledGroups, quality_scale: float, diversity_scale: float, *, split_gate: bool
    ) -> dict[Term, torch.Tensor]:
        """Returns the scaled advantages [P·N] of each term: diversity in two halves of the prompts, and its gate's
        part.
        """
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
        self, members: Sequence[TokenSequence], logprobs_BT: torch.Tensor, mask_BT: torch.Tensor
    ) -> torch.Tensor:
        """Sums over the sequences the KL to the policy that training started from."""
        with torch.no_grad(), self.language_model.reference_policy():
            reference = answer_logprobs(
                self.language_model, members, temperature=self.run.training.temperature
            )
        return kl_to_reference(logprobs_BT, reference.logprobs_BT, mask_BT)


class RewardStep(Step):
    """`training.loss: rl`: both terms are policy gradients on the same groups."""

    def _make(
        self,
        step: int,
        prompts: Sequence[Prompt],
        weight: float,
        plan: StepPlan,
        accumulator: GradientAccumulator,
    ) -> StepOutcome:
        sampled = self.sample(step, prompts, self.run.training.num_samples)
        measured = self._policy_gradient(sampled, accumulator, quality_scale=1.0, diversity_scale=weight)
        reward = float(np.nanmean(sampled.signals.rewards_PN))
        outcome = step_outcome(
            self.run.diversity,
            accumulator.finish(len(prompts)),
            weight,
            quality=reward,
            quality_loss=-reward,
            sampled=sampled,
        )
        outcome.metrics.update(measured)
        return outcome


class ReferenceStep(Step):
    """`training.loss: sft`: cross-entropy of references, and every m-th step the policy gradient of diversity."""

    def __init__(self, run: ArmRun, language_model: LanguageModel, processes: Processes = ALONE) -> None:
        super().__init__(run, language_model, processes)
        self.references = reference_sequences(language_model, self.prompts, run.training.max_length)
        self.references_too_long = self.references.n_too_long
        self.prompts = [prompt for prompt in self.prompts if prompt.id in self.references.by_prompt]
        self.held_out = HeldOutReferences(run, language_model, processes) if run.measures_held_out else None

    def _make(
        self,
        step: int,
        prompts: Sequence[Prompt],
        weight: float,
        plan: StepPlan,
        accumulator: GradientAccumulator,
    ) -> StepOutcome:
        held_out = self.held_out.cross_entropy() if self.held_out and plan.held_out else math.nan
        cross_entropy = self._cross_entropy(prompts, accumulator)
        settings = self.run.diversity
        sampled, measured = None, {}
        if plan.diversity:
            sampled = self.sample(step, prompts[: settings.num_prompts], settings.num_samples)
            # Sampled every m-th step, weighed m times: J keeps its meaning whatever m is.
            scale = weight * settings.sample_every
            measured = self._policy_gradient(sampled, accumulator, quality_scale=0.0, diversity_scale=scale)
        outcome = step_outcome(
            settings,
            accumulator.finish(min(len(prompts), settings.num_prompts)),
            weight,
            quality=-held_out,
            quality_loss=cross_entropy,
            sampled=sampled,
        )
        outcome.metrics.update(measured)
        if not math.isnan(held_out):
            outcome.metrics["validation/cross_entropy"] = held_out
        return outcome

    def _cross_entropy(self, prompts: Sequence[Prompt], accumulator: GradientAccumulator) -> float:
        """Accumulates the gradient of the cross-entropy per reference token; returns its value in nats."""
        n_tokens = sum(sequence.n_answer for sequence in self.references.of(prompts))
        sequences = self.references.of(self.processes.own(prompts))
        total = 0.0
        with self.language_model.training_pass(dropout=True):
            for batch in micro_batches(sequences, self.run.training.micro_batch_size):
                answers = answer_logprobs(self.language_model, [sequences[index] for index in batch])
                loss = cross_entropy_loss(answers.logprobs_BT, answers.mask_BT) / n_tokens
                accumulator.add({"quality": loss})
                total += float(loss.detach())
        return self.processes.total(total)[0]


STEPS = {"rl": RewardStep, "sft": ReferenceStep}


def build_step(run: ArmRun, language_model: LanguageModel, processes: Processes = ALONE) -> Step:
    """Returns the step of the run's loss. Raises DataError where it learns from references and none is there."""
    return STEPS[run.training.loss](run, language_model, processes)
