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
from polychromic.objective import (
    FittedBaseline,
    find_objective,
)
from polychromic.objective.losses import cross_entropy_loss, kl_to_reference, policy_gradient_loss
from polychromic.records import Prompt, SamplingParameters
from polychromic.sampling.base import build_sampler
from polychromic.seeding import child_seed, numpy_generator
from polychromic.training.base import ArmRun
from polychromic.training.gradients import (
    GradientAccumulator,
    GradientMeasurement,
    SamplerMismatch,
    StepOutcome,
    Term,
    group_metrics,
    loss_metrics,
    measurement_metrics,
)
from polychromic.training.rollouts import (
    SampledGroups,
    distance_metrics,
    diversity_advantages,
    diversity_signal,
    gate_part,
    group_sequences,
    group_signals,
    has_gate_part,
    learn_from,
    quality_advantages,
    reference_sequences,
    require_working_checker,
    require_working_equivalence,
    sample_groups,
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

    def __init__(self, run: ArmRun, language_model: LanguageModel) -> None:
        self.run = run
        self.language_model = language_model
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
            self.parameters, separate=plan.measures, loss_scale=FLOAT16_LOSS_SCALE if half else 1.0
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
        """Samples n generations a prompt, and gives them the advantages of both terms."""
        run, settings = self.run, self.run.training
        parameters = SamplingParameters(settings.temperature, max_new_tokens=settings.max_new_tokens)
        seeds = [child_seed(run.experiment, run.arm, run.seed, step, prompt.id) for prompt in prompts]
        groups = sample_groups(
            self.sampler,
            run.task,
            prompts,
            n,
            parameters,
            seeds,
            truncation_reward=settings.truncation_reward,
        )
        require_working_checker(groups, settings.max_checker_failures)
        needs_distances = run.diversity.is_active and "distances" in self.objective.reads
        signals = group_signals(run.task, groups, with_distances=needs_distances)
        require_working_equivalence(signals, settings.max_checker_failures)
        quality_PN = quality_advantages(signals, settings)
        diversity_PN, score, gate_PN = np.zeros_like(quality_PN), 0.0, None
        signal_P = np.zeros(len(groups), dtype=bool)
        if run.diversity.is_active:
            fitted = run.diversity.baseline == "fitted"
            coefficients = self.fitted.coefficients if fitted else None
            # Scores without a closed form draw subsets where there are too many; nothing else draws from it.
            subsets = numpy_generator(run.experiment, "subsets", run.arm, run.seed, step)
            diversity_PN, score_P = diversity_advantages(signals, run.diversity, coefficients, subsets)
            signal_P = diversity_signal(signals, run.diversity, subsets)
            score = float(np.nanmean(score_P))
            if has_gate_part(run.diversity):
                gate_PN = gate_part(signals, run.diversity, coefficients)
            if fitted:
                self.fitted = learn_from(self.fitted, groups, signals, run.diversity, subsets)
        sequences = group_sequences(self.language_model, groups)
        return SampledGroups(groups, signals, sequences, quality_PN, diversity_PN, signal_P, score, gate_PN)

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
        kl_weight = self.run.training.kl_weight if quality_scale else 0.0
        divergence, mismatch = 0.0, SamplerMismatch(sampled.groups)
        rows = list(range(len(sampled.sequences)))
        if kl_weight == 0.0:
            # An advantage of zero has no gradient: such generations need no forward pass.
            rows = torch.stack(list(advantages.values())).any(dim=0).nonzero()[:, 0].tolist()
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
                    kl = self._kl(members, logprobs_BT, mask_BT) / len(rows)
                    losses["quality"] = losses["quality"] + kl_weight * kl
                    divergence += float(kl.detach())
                accumulator.add(losses)
        return mismatch.metrics() | ({"train/kl": divergence} if kl_weight else {})

    def _scaled_advantages(
        self, sampled: SampledGroups, quality_scale: float, diversity_scale: float, *, split_gate: bool
    ) -> dict[Term, torch.Tensor]:
        """Returns the scaled advantages [P·N] of each term: diversity in two halves of the prompts, and its gate's
        part.
        """
        device = self.language_model.device

        def scaled(advantages_PN: FloatArray, scale: float) -> torch.Tensor:
            return torch.tensor(advantages_PN.ravel() * scale, dtype=torch.float32, device=device)

        diversity_B = scaled(sampled.diversity_PN, diversity_scale)
        prompt_B = torch.arange(len(diversity_B), device=device) // sampled.diversity_PN.shape[1]
        advantages: dict[Term, torch.Tensor] = {
            "quality": scaled(sampled.quality_PN, quality_scale),
            "diversity_even": diversity_B * (prompt_B % 2 == 0),
            "diversity_odd": diversity_B * (prompt_B % 2 == 1),
        }
        if split_gate and sampled.gate_PN is not None:
            advantages["diversity_gate"] = scaled(sampled.gate_PN, diversity_scale)
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

    def _outcome(
        self,
        measurement: GradientMeasurement | None,
        weight: float,
        *,
        quality: float,
        quality_loss: float,
        sampled: SampledGroups | None,
    ) -> StepOutcome:
        metrics = {"train/quality_loss": quality_loss, "train/diversity_weight": weight}
        if sampled is not None:
            metrics |= group_metrics(sampled)
        if sampled is not None and self.run.diversity.is_active:
            metrics |= loss_metrics(quality_loss, sampled.diversity_score, weight)
            if self.objective.pairwise:
                metrics |= distance_metrics(sampled.signals, sampled.diversity_PN, sampled.gate_PN)
            metrics["groups/diversity_signal"] = float(sampled.diversity_signal_P.mean())
        if measurement is not None:
            metrics |= measurement_metrics(measurement)
        return StepOutcome(
            metrics=metrics,
            diversity_weight=weight,
            diversity_sampled=sampled is not None and self.run.diversity.is_active,
            diversity_has_signal=sampled is not None and bool(sampled.diversity_signal_P.any()),
            measurement=measurement if sampled is not None else None,
            quality=quality,
            signals=sampled.signals if sampled is not None else None,
            truncated=metrics.get("generation/truncated", 0.0),
        )


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
        outcome = self._outcome(
            accumulator.finish(len(prompts)), weight, quality=reward, quality_loss=-reward, sampled=sampled
        )
        outcome.metrics.update(measured)
        return outcome


class ReferenceStep(Step):
    """`training.loss: sft`: cross-entropy of references, and every m-th step the policy gradient of diversity."""

    def __init__(self, run: ArmRun, language_model: LanguageModel) -> None:
        super().__init__(run, language_model)
        self.references = reference_sequences(language_model, self.prompts, run.training.max_length)
        self.references_too_long = self.references.n_too_long
        self.prompts = [prompt for prompt in self.prompts if prompt.id in self.references.by_prompt]
        self.held_out = HeldOutReferences(run, language_model) if run.measures_held_out else None

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
        outcome = self._outcome(
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
        sequences = self.references.of(prompts)
        n_tokens = sum(sequence.n_answer for sequence in sequences)
        total = 0.0
        with self.language_model.training_pass(dropout=True):
            for batch in micro_batches(sequences, self.run.training.micro_batch_size):
                answers = answer_logprobs(self.language_model, [sequences[index] for index in batch])
                loss = cross_entropy_loss(answers.logprobs_BT, answers.mask_BT) / n_tokens
                accumulator.add({"quality": loss})
                total += float(loss.detach())
        return total


STEPS = {"rl": RewardStep, "sft": ReferenceStep}


def build_step(run: ArmRun, language_model: LanguageModel) -> Step:
    """Returns the step of the run's loss. Raises DataError where it learns from references and none is there."""
    return STEPS[run.training.loss](run, language_model)
