"""Makes one training step: from a reward, or on references with a diversity term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from polychromic.models.loading import LanguageModel
from polychromic.models.logprobs import answer_logprobs, micro_batches
from polychromic.objective import FittedBaseline, find_objective
from polychromic.objective.losses import cross_entropy_loss
from polychromic.records import Prompt, SamplingParameters
from polychromic.sampling.base import build_sampler, taken_metrics
from polychromic.seeding import child_seed, numpy_generator
from polychromic.tasks.equivalence import equivalence_of
from polychromic.training.advantages import (
    Division,
    SampledGroups,
    group_advantages,
    reads,
    reads_rewards,
    shared_signals,
)
from polychromic.training.base import ArmRun
from polychromic.training.gradients import GradientAccumulator, StepOutcome, reward_outcome, step_outcome
from polychromic.training.parallel import ALONE, Processes
from polychromic.training.policy_gradient import PolicyGradient
from polychromic.training.rollouts import (
    group_sequences,
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

    def __init__(self, run: ArmRun, language_model: LanguageModel, processes: Processes = ALONE) -> None:
        self.run = run
        self.language_model = language_model
        self.processes = processes
        self.sampler = build_sampler(
            run.sampling, language_model, max_decode_batch=run.training.decode_batch, thinking=run.thinking
        )
        self.gradient = PolicyGradient(run, language_model, processes)
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

    def make(self, step: int, prompts: Sequence[Prompt], weight: float, plan: StepPlan | None = None) -> StepOutcome:
        """Makes `step` for its prompts at diversity weight λ; `plan` replaces what is due."""
        plan = plan or self.plan(step)
        half = self.language_model.dtype == torch.float16
        accumulator = GradientAccumulator(
            self.parameters,
            separate=plan.measures,
            loss_scale=FLOAT16_LOSS_SCALE if half else 1.0,
            processes=self.processes,
        )
        outcome = self._make(step, prompts, weight, plan, accumulator)
        outcome.metrics.update(taken_metrics(self.sampler))
        return outcome

    def _make(
        self, step: int, prompts: Sequence[Prompt], weight: float, plan: StepPlan, accumulator: GradientAccumulator
    ) -> StepOutcome:
        raise NotImplementedError

    def sample(self, step: int, prompts: Sequence[Prompt], n: int) -> SampledGroups:
        """Samples n generations a prompt, and gives them the advantages of both terms.

        Each process samples, divides and checks the groups of its own prompts, and all of them know all groups.
        """
        run, task, settings = self.run, self.run.task, self.run.training
        parameters = SamplingParameters(settings.temperature, max_new_tokens=settings.max_new_tokens)
        own = self.processes.own(prompts)
        seeds = [child_seed(run.experiment, run.arm, run.seed, step, prompt.id) for prompt in own]
        with Division(equivalence_of(task), reads_clusters=reads(run.diversity, "clusters")) as division:
            groups = sample_groups(
                self.sampler,
                task,
                own,
                n,
                parameters,
                seeds,
                truncation_reward=settings.truncation_reward,
                # The local sampler's own batches: handing them over one by one changes nothing about them.
                prompts_at_once=max(1, settings.decode_batch // n) if division.waits else None,
                on_sampled=division.add,
            )
            signals = shared_signals(task, groups, division, run.diversity, self.processes)
        groups = self.processes.gather(groups)
        if run.facts.reads_rewards or reads_rewards(run.diversity):
            require_working_checker(groups, settings.max_checker_failures)
        require_working_equivalence(signals, settings.max_unlabelled)
        subsets = numpy_generator(run.experiment, "subsets", run.arm, run.seed, step)
        advantages, self.fitted = group_advantages(
            groups, signals, run.diversity, settings.quality_baseline, self.fitted, subsets
        )
        sequences = group_sequences(self.language_model, groups)
        return SampledGroups(groups, signals, sequences, advantages, division.metrics(self.processes))


class RewardStep(Step):
    """`training.loss: rl`: both terms are policy gradients on the same groups."""

    def _make(
        self, step: int, prompts: Sequence[Prompt], weight: float, plan: StepPlan, accumulator: GradientAccumulator
    ) -> StepOutcome:
        sampled = self.sample(step, prompts, self.run.training.num_samples)
        measured = self.gradient.accumulate(sampled, accumulator, quality_scale=1.0, diversity_scale=weight)
        outcome = reward_outcome(self.run.diversity, accumulator.finish(len(prompts)), weight, sampled)
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
        self, step: int, prompts: Sequence[Prompt], weight: float, plan: StepPlan, accumulator: GradientAccumulator
    ) -> StepOutcome:
        held_out = self.held_out.cross_entropy() if self.held_out and plan.held_out else math.nan
        cross_entropy = self._cross_entropy(prompts, accumulator)
        settings = self.run.diversity
        sampled, measured = None, {}
        if plan.diversity:
            sampled = self.sample(step, prompts[: settings.num_prompts], settings.num_samples)
            # Sampled every m-th step, weighed m times: J keeps its meaning whatever m is.
            scale = weight * settings.sample_every
            measured = self.gradient.accumulate(sampled, accumulator, quality_scale=0.0, diversity_scale=scale)
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
