"""One training step: from a reward, or on references with a diversity term."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from polychromic.models.loading import LanguageModel
from polychromic.models.logprobs import TokenSequence, answer_logprobs, micro_batches
from polychromic.numerics import FloatArray
from polychromic.objective import (
    FittedBaseline,
    FixedWeight,
    FloorController,
    Observation,
    ShareController,
    WeightController,
    find_objective,
)
from polychromic.objective.losses import cross_entropy_loss, kl_to_reference, policy_gradient_loss
from polychromic.records import Prompt, SamplingParameters
from polychromic.sampling.base import build_sampler
from polychromic.seeding import child_seed, numpy_generator
from polychromic.training.gradients import (
    GradientAccumulator,
    GradientMeasurement,
    SamplerMismatch,
    Term,
    group_metrics,
    loss_metrics,
    measurement_metrics,
)
from polychromic.training.rollouts import (
    GroupSignals,
    ReferenceSequences,
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
    sample_groups,
)
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.watches import HeldOutReferences

if TYPE_CHECKING:
    from polychromic.training.trainer import ArmRun

FLOAT16_LOSS_SCALE = 1024.0


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step did: its metrics, the weight in effect, and what is known of the diversity gradient."""

    metrics: dict[str, float]
    diversity_weight: float
    diversity_sampled: bool
    diversity_has_signal: bool
    measurement: GradientMeasurement | None
    quality: float
    """What a quality floor speaks of: mean reward, or minus the cross-entropy of validation references per token (nan
    on steps that do not measure it)."""
    signals: GroupSignals | None
    truncated: float


class StepMaker:
    """Computes the gradient of J = J_quality + λ J_diversity for one step and leaves it in `parameter.grad`."""

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
        self.references: ReferenceSequences | None = None
        if run.training.loss == "sft":
            self.references = reference_sequences(language_model, self.prompts, run.training.max_length)
            self.prompts = [prompt for prompt in self.prompts if prompt.id in self.references.by_prompt]
        self.held_out = HeldOutReferences(run, language_model) if run.measures_held_out else None

    def make(self, step: int, prompts: Sequence[Prompt], weight: float) -> StepOutcome:
        """Gradient and metrics of `step` for its prompts at diversity weight λ."""
        half = self.language_model.model.dtype == torch.float16
        accumulator = GradientAccumulator(
            self.parameters,
            separate=self._measures(step),
            loss_scale=FLOAT16_LOSS_SCALE if half else 1.0,
        )
        if self.run.training.loss == "rl":
            return self._from_reward(step, prompts, weight, accumulator)
        return self._from_references(step, prompts, weight, accumulator)

    def _samples_diversity(self, step: int) -> bool:
        """Whether the step has a diversity term: every one in reward training, every m-th beside references."""
        every = self.run.diversity.sample_every if self.run.training.loss == "sft" else 1
        return self.run.diversity.is_active and step % every == 0

    def _measures(self, step: int) -> bool:
        """Whether the step measures its gradients: only steps with a diversity term have two to compare."""
        every = self.run.diversity.sample_every if self.run.training.loss == "sft" else 1
        rounds = max(1, self.run.training.gradient_share_every // every)
        return self._samples_diversity(step) and step // every % rounds == 0

    def _from_reward(
        self, step: int, prompts: Sequence[Prompt], weight: float, accumulator: GradientAccumulator
    ) -> StepOutcome:
        sampled = self._sample(step, prompts, self.run.training.num_samples)
        measured = self._policy_gradient(sampled, accumulator, quality_scale=1.0, diversity_scale=weight)
        reward = float(np.nanmean(sampled.signals.rewards_PN))
        outcome = self._outcome(
            accumulator.finish(len(prompts)), weight, quality=reward, quality_loss=-reward, sampled=sampled
        )
        outcome.metrics.update(measured)
        return outcome

    def _from_references(
        self, step: int, prompts: Sequence[Prompt], weight: float, accumulator: GradientAccumulator
    ) -> StepOutcome:
        held_out = self.held_out.cross_entropy(step) if self.held_out else math.nan
        cross_entropy = self._cross_entropy(prompts, accumulator)
        settings = self.run.diversity
        sampled, measured = None, {}
        if self._samples_diversity(step):
            sampled = self._sample(step, prompts[: settings.num_prompts], settings.num_samples)
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

    def _sample(self, step: int, prompts: Sequence[Prompt], n: int) -> SampledGroups:
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
        """Accumulate the score-function gradient, averaged over prompts.

        Returns how far the log-probabilities of training lie from the sampler's, and the KL in nats a generation where
        it is asked for. Dropout is off: this is the sampled policy.
        """
        n_prompts = len(sampled.groups)
        credits = self._credits(sampled, quality_scale, diversity_scale, split_gate=accumulator.separate)
        kl_weight = self.run.training.kl_weight if quality_scale else 0.0
        divergence, mismatch = 0.0, SamplerMismatch(sampled.groups)
        rows = list(range(len(sampled.sequences)))
        if kl_weight == 0.0:
            # An advantage of zero has no gradient: such generations need no forward pass.
            rows = torch.stack(list(credits.values())).any(dim=0).nonzero()[:, 0].tolist()
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
                    term: policy_gradient_loss(logprobs_BT, mask_BT, credit_B[chosen]) / n_prompts
                    for term, credit_B in credits.items()
                }
                if kl_weight:
                    kl = self._kl(members, logprobs_BT, mask_BT) / len(rows)
                    losses["quality"] = losses["quality"] + kl_weight * kl
                    divergence += float(kl.detach())
                accumulator.add(losses)
        return mismatch.metrics() | ({"train/kl": divergence} if kl_weight else {})

    def _credits(
        self, sampled: SampledGroups, quality_scale: float, diversity_scale: float, *, split_gate: bool
    ) -> dict[Term, torch.Tensor]:
        """The scaled advantages [P·N] of each term: diversity in two halves of the prompts, and its gate's part."""
        device = self.language_model.device

        def scaled(advantages_PN: FloatArray, scale: float) -> torch.Tensor:
            return torch.tensor(advantages_PN.ravel() * scale, dtype=torch.float32, device=device)

        diversity_B = scaled(sampled.diversity_PN, diversity_scale)
        prompt_B = torch.arange(len(diversity_B), device=device) // sampled.diversity_PN.shape[1]
        credits: dict[Term, torch.Tensor] = {
            "quality": scaled(sampled.quality_PN, quality_scale),
            "diversity_even": diversity_B * (prompt_B % 2 == 0),
            "diversity_odd": diversity_B * (prompt_B % 2 == 1),
        }
        if split_gate and sampled.gate_PN is not None:
            credits["diversity_gate"] = scaled(sampled.gate_PN, diversity_scale)
        return credits

    def _kl(
        self, members: Sequence[TokenSequence], logprobs_BT: torch.Tensor, mask_BT: torch.Tensor
    ) -> torch.Tensor:
        """Summed over the sequences: KL to the policy that training started from."""
        with torch.no_grad(), self.language_model.reference_policy():
            reference = answer_logprobs(
                self.language_model, members, temperature=self.run.training.temperature
            )
        return kl_to_reference(logprobs_BT, reference.logprobs_BT, mask_BT)

    def _cross_entropy(self, prompts: Sequence[Prompt], accumulator: GradientAccumulator) -> float:
        """Accumulate the gradient of the cross-entropy per reference token; returns its value in nats."""
        assert self.references is not None
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


_FIRST_GUESS = 1.0  # where a controller starts; it moves λ by powers, so any start will do
# Cross-entropy of the same validation references every time has no sampling noise and is measured every few steps only:
# a tenth of a nat a token matters, nothing is smoothed, and each measurement may move λ further.
_BY_CROSS_ENTROPY: Mapping[str, float] = {"scale": 0.1, "smoothing": 0.0, "largest_step": 0.7}


def diversity_controller(settings: DiversitySettings, training: TrainingSettings) -> WeightController:
    """The controller of an arm, at its start."""
    if settings.weight != "auto":
        return FixedWeight(settings.weight)
    if settings.mode == "share":
        return ShareController(_FIRST_GUESS, settings.target_share)
    options = _BY_CROSS_ENTROPY if training.loss == "sft" else {}
    floor = settings.lowest_quality
    assert floor is not None  # the settings refuse a floor mode without a floor
    return FloorController(_FIRST_GUESS, floor, **options)


def after_step(
    controller: WeightController, outcome: StepOutcome, baseline_quality: float | None = None
) -> WeightController:
    """The controller once it has seen a step; with `baseline_quality` it sees the difference to that."""
    measured = outcome.measurement
    observation = Observation(quality=outcome.quality - (baseline_quality or 0.0))
    if measured is not None:
        observation = replace(
            observation, quality_norm=measured.quality_norm, diversity_norm=measured.diversity_norm
        )
    return controller.update(observation)


def controller_state(controller: WeightController) -> dict[str, Any]:
    """Plain numbers for a checkpoint."""
    return asdict(controller)  # type: ignore[call-overload]  # every controller is a dataclass


def restored(controller: WeightController, state: Mapping[str, Any]) -> WeightController:
    """A controller of the same kind with the state of a checkpoint."""
    return type(controller)(**state)
