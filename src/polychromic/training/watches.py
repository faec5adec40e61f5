"""Watches over training: a diversity gradient of zero, early stopping, held-out loss."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from polychromic.errors import DataError, TrainingError
from polychromic.files import atomic_folder
from polychromic.models.loading import LanguageModel
from polychromic.models.logprobs import answer_logprobs, micro_batches
from polychromic.records import SamplingParameters
from polychromic.sampling.base import build_sampler
from polychromic.seeding import child_seed
from polychromic.training.base import ArmRun
from polychromic.training.checkpoint import trainable_weights
from polychromic.training.gradients import StepOutcome
from polychromic.training.parallel import ALONE, Processes
from polychromic.training.rollouts import (
    GroupSignals,
    objective_inputs,
    reference_sequences,
    require_working_checker,
    sample_groups,
)
from polychromic.training.settings import DiversitySettings


class HeldOutReferences:
    """The same validation references every time, so that arms and steps differ by their policies alone."""

    def __init__(self, run: ArmRun, language_model: LanguageModel, processes: Processes = ALONE) -> None:
        """Raises DataError where no validation prompt has a reference that fits into `training.max_length`."""
        settings = run.training
        with_references = [prompt for prompt in run.task.prompts("validation") if prompt.references]
        chosen = with_references[: settings.validation_prompts]
        if not chosen:
            raise DataError(
                "a quality floor is measured on the references of validation prompts, and none has any; add some, or "
                "train with training.loss: rl"
            )
        self.language_model = language_model
        self.processes = processes
        self.micro_batch_size = settings.micro_batch_size
        references = reference_sequences(language_model, chosen, settings.max_length, split="validation")
        self.sequences = [sequence for prompt in chosen for sequence in references.by_prompt.get(prompt.id, [])]

    def cross_entropy(self) -> float:
        """Returns nats per reference token, turn ends included. Dropout is off."""
        total, own = 0.0, self.processes.own(self.sequences)
        with torch.inference_mode():
            for batch in micro_batches(own, self.micro_batch_size):
                answers = answer_logprobs(self.language_model, [own[index] for index in batch])
                total -= float(answers.logprobs_BT.masked_fill(answers.mask_BT == 0, 0.0).double().sum())
        return self.processes.total(total)[0] / sum(sequence.n_answer for sequence in self.sequences)


_MOSTLY_CUT = 0.9

IDENTICAL = "all generations of every group are the same; raise the sampling temperature"
UNCHECKED = "the checker failed on every generation, so none has a reward; fix the checker"
CLOSED = "no generation passes, so the quality gate is closed; train for quality first or use an easier checker"
EQUAL_REWARDS = (
    "all rewards of every group are equal and its answers equally different, so that no set is better than another; "
    "choose prompts of middling difficulty, a stricter checker or more generations a prompt"
)
SATURATED = (
    "every generation of every group has the full reward and no set of them is better than another; choose harder "
    "prompts or a stricter checker"
)
EQUAL_ADVANTAGES = (
    "all generations of a group get the same advantage; use more generations a prompt or another set size"
)
CUT = "no generation passes, and nearly all were cut at max_new_tokens; raise it or teach the model to end"
NO_PATH = "the advantages are not zero but no gradient reaches the parameters (no grad path)"
NOT_FINITE = "the gradient of the diversity term is not finite; lower training.learning_rate or use dtype float32"


class ZeroGradientWatch:
    """Counts diversity steps in a row whose diversity gradient is zero or not finite."""

    def __init__(self, settings: DiversitySettings) -> None:
        self.settings = settings
        self.zero_steps = 0
        self.path_broken = False
        """True where the last measured gradient was zero or not finite although the groups had signal."""

    def observe(self, outcome: StepOutcome) -> None:
        """Takes note of a step; raises TrainingError at the `max_zero_gradient_steps`-th one in a row.

        The step that raises is not counted: the state is then still that of before the step, as a checkpoint keeps it.
        """
        if not outcome.diversity_sampled or outcome.diversity_weight == 0:
            return
        if outcome.measurement is not None and outcome.diversity_has_signal:
            norm = outcome.measurement.diversity_norm
            self.path_broken = norm == 0.0 or not math.isfinite(norm)
        if outcome.diversity_has_signal and not self.path_broken:
            self.zero_steps = 0
            return
        steps = self.zero_steps + 1
        if steps >= self.settings.max_zero_gradient_steps:
            raise TrainingError(
                f"the diversity term (λ = {outcome.diversity_weight:g}) has had no gradient for "
                f"{steps} diversity steps in a row: {zero_gradient_cause(outcome, self.settings)}. Training at this λ "
                "is training at λ = 0; a checkpoint of the step before is kept."
            )
        self.zero_steps = steps

    def state(self) -> dict[str, Any]:
        """Returns what the checkpoint keeps."""
        return {"zero_steps": self.zero_steps, "path_broken": self.path_broken}

    def restore(self, state: dict[str, Any]) -> None:
        """Restores the counters of the checkpoint."""
        self.zero_steps = state["zero_steps"]
        self.path_broken = state["path_broken"]


def zero_gradient_cause(outcome: StepOutcome, settings: DiversitySettings) -> str:
    """Names the cause, from the last step's groups; where groups differ in it, each cause with its count."""
    if outcome.diversity_has_signal:
        measured = outcome.measurement
        finite = measured is None or math.isfinite(measured.diversity_norm)
        return NO_PATH if finite else NOT_FINITE
    signals = outcome.signals
    assert signals is not None
    closed = CUT if outcome.truncated >= _MOSTLY_CUT else CLOSED
    causes = Counter(_group_causes(signals, settings, closed))
    if len(causes) == 1:
        return next(iter(causes))
    n = causes.total()
    return "; ".join(f"in {count} of {n} groups: {cause}" for cause, count in causes.most_common())


def infinite_gradient(run: ArmRun, step: int, outcome: StepOutcome | None) -> TrainingError:
    """Returns the error of an update whose gradient is not finite, as far as the step is known."""
    return TrainingError(
        f"{run.arm}/seed-{run.seed}: {infinite_term(outcome)} is not finite at step {step}; lower "
        "training.learning_rate or use dtype float32 (the last checkpoint is kept)"
    )


def infinite_term(outcome: StepOutcome | None) -> str:
    """Names the gradient that is not finite, as far as this step measured them apart."""
    measured = outcome.measurement if outcome is not None else None
    if measured is None or math.isfinite(measured.quality_norm + measured.diversity_norm):
        return "the gradient"
    return f"the gradient of the {'diversity' if math.isfinite(measured.quality_norm) else 'quality'} term"


def _group_causes(signals: GroupSignals, settings: DiversitySettings, closed: str) -> list[str]:
    """Says why each group prefers no set to another, by what the objective reads; `closed` where nothing passes."""
    inputs = objective_inputs(signals, settings)
    worth_PN = inputs.get("gates", inputs.get("rewards"))
    ungated = worth_PN is None or inputs.get("gate") == "none"
    worth_PN = np.ones_like(signals.rewards_PN) if worth_PN is None else worth_PN
    causes = []
    for worth_N, clusters_N in zip(worth_PN, signals.clusters_PN, strict=True):
        defined = worth_N[~np.isnan(worth_N)]
        if len(defined) == 0:
            causes.append(UNCHECKED)
        elif len(set(clusters_N.tolist())) == 1:
            causes.append(IDENTICAL)
        elif defined.max() == 0.0:
            causes.append(closed)
        elif not ungated and defined.min() == 1.0:
            causes.append(SATURATED)
        else:
            causes.append(EQUAL_ADVANTAGES if ungated or np.ptp(defined) else EQUAL_REWARDS)
    return causes


@dataclass
class ValidationState:
    """The best mean reward so far (None before one), when it was seen, and how many checks have passed since."""

    best_reward: float | None = None
    best_step: int = 0
    checks_since: int = 0


class ValidationWatch:
    """Samples validation prompts every few steps and remembers the best weights.

    Only the training checker is asked: the judge stays unseen until evaluation.
    """

    def __init__(self, run: ArmRun, language_model: LanguageModel, processes: Processes = ALONE) -> None:
        """Raises DataError where there is no validation prompt."""
        assert run.training.early_stopping is not None
        self.run = run
        self.processes = processes
        self.settings = run.training.early_stopping
        self.language_model = language_model
        self.sampler = build_sampler(
            run.sampling, language_model, max_decode_batch=run.training.decode_batch, thinking=run.thinking
        )
        self.prompts = run.task.prompts("validation")[: self.settings.num_prompts]
        if not self.prompts:
            raise DataError("training.early_stopping follows the reward of validation prompts, and there are none")
        self.state = ValidationState()
        self.folder = run.folder / "checkpoints" / "best"

    @property
    def should_stop(self) -> bool:
        """Tells whether patience has run out."""
        return self.state.checks_since >= self.settings.patience

    def check(self, step: int) -> dict[str, float]:
        """Measures if a measurement is due after `step` updates; returns its metrics.

        Raises CheckerError with the reasons where the checker fails on too many of its generations.
        """
        if step % self.settings.check_every:
            return {}
        reward = self._mean_reward(step)
        best = -math.inf if self.state.best_reward is None else self.state.best_reward
        if reward > best + self.settings.min_improvement:
            self.state = ValidationState(reward, step, 0)
            if self.processes.is_first:
                with atomic_folder(self.folder) as staging:
                    save_file(trainable_weights(self.language_model.model), staging / "weights.safetensors")
        else:
            self.state.checks_since += 1
        return {"validation/reward": reward}

    def best_weights(self) -> dict[str, torch.Tensor] | None:
        """Returns the weights of the best check, or None before the first."""
        return load_file(self.folder / "weights.safetensors") if self.state.best_step else None

    def _mean_reward(self, step: int) -> float:
        names = (self.run.experiment, self.run.arm, self.run.seed, "validation", step)
        parameters = SamplingParameters(self.run.training.temperature, max_new_tokens=self.run.training.max_new_tokens)
        own = self.processes.own(self.prompts)
        seeds = [child_seed(*names, prompt.id) for prompt in own]
        groups = sample_groups(
            self.sampler,
            self.run.task,
            own,
            self.settings.num_samples,
            parameters,
            seeds,
            truncation_reward=self.run.training.truncation_reward,
        )
        groups = self.processes.gather(groups)
        require_working_checker(groups, self.run.training.max_checker_failures)
        return float(np.nanmean([group.rewards for group in groups]))
