"""A GRPOTrainer whose advantages are those of a set objective, whatever its baseline and λ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig, GRPOTrainer  # pyright: ignore[reportMissingModuleSource]

from polychromic.errors import ConfigError
from polychromic.files import read_json, write_json
from polychromic.integrations.answers import Answers
from polychromic.integrations.sets import BatchAdvantages, SetObjective
from polychromic.integrations.trl.checkpoints import STATE, checkpoint_hashes
from polychromic.integrations.trl.config import require_unbiased, reward_scale
from polychromic.integrations.trl.observing import (
    Batch,
    TermGradients,
    is_sharded,
    latest_entropy,
    put_terms,
    sampled_groups,
)
from polychromic.records import Group
from polychromic.training.gradients import GradientMeasurement, StepOutcome
from polychromic.training.parallel import ALONE, join_processes
from polychromic.training.settings import DiversitySettings


class SetGRPOTrainer(GRPOTrainer):
    """Trains on J = J_quality + λ J_diversity with any objective, baseline and controller of λ.

    Quality is the weighted sum of TRL's reward functions; TRL samples, keeps the loss and updates as it always does.
    Groups that lie on several processes are gathered. Every `gradient_share_every` updates the gradients of both terms
    are measured apart, which takes three more passes. Metrics are logged under this project's names.
    """

    def __init__(
        self,
        *arguments: Any,
        diversity: DiversitySettings,
        answers: Answers | None = None,
        objective: SetObjective | None = None,
        scale: float | None = None,
        gradient_share_every: int = 25,
        **keys: Any,
    ) -> None:
        """Takes what a GRPOTrainer takes, and

        diversity: objective, set size, λ, baseline, gate. answers: which are the same, and distances between them.
        objective: one made elsewhere, in place of both. scale: what advantages are multiplied by (`reward_scale`).
        Raises ConfigError with the reasons where TRL's settings would bias the gradient.
        """
        super().__init__(*arguments, **keys)
        args: GRPOConfig = self.args
        require_unbiased(args)
        self.sets = objective or SetObjective(diversity, answers or Answers())
        self.scale = reward_scale(args) if scale is None else scale
        self.gradient_share_every = gradient_share_every
        self.processes = join_processes() if self.accelerator.num_processes > 1 else ALONE
        self.outcome: StepOutcome | None = None
        """Measurements of the latest update."""
        self._batch: BatchAdvantages | None = None
        self._gradients = TermGradients(self, self.processes)
        self._require_what_the_objective_needs()

    def _require_what_the_objective_needs(self) -> None:
        settings, samples = self.sets.settings, self.num_generations
        if samples < self.sets.fewest:
            raise ConfigError(
                f"num_generations is {samples}, but sets of {settings.set_size} with baseline {settings.baseline} need "
                f"{self.sets.fewest}: raise num_generations or lower set_size"
            )
        args: GRPOConfig = self.args
        if (args.steps_per_generation or 1) % args.gradient_accumulation_steps:
            raise ConfigError(
                f"steps_per_generation is {args.steps_per_generation} and gradient_accumulation_steps "
                f"{args.gradient_accumulation_steps}: an update needs whole groups, so that the first has to be a "
                "multiple of the second; leave steps_per_generation out"
            )
        if self.sets.needs_norms and is_sharded(self):
            raise ConfigError(
                "diversity.mode is 'share', which follows the gradients of both terms, and these cannot be taken apart "
                "where FSDP or DeepSpeed keep parameters in pieces: use a fixed weight or mode: floor, or DDP"
            )

    @property
    def measures(self) -> bool:
        """Tells whether the gradients of both terms are taken apart at the update that is being made."""
        due = self.state.global_step % self.gradient_share_every == 0
        return due and self._batch is not None and self.sets.settings.is_active and not is_sharded(self)

    def _generate_and_score_completions(self, inputs: Sequence[Mapping[str, Any]]) -> Batch:
        batch: Batch = super()._generate_and_score_completions(inputs)  # pyright: ignore[reportArgumentType]
        if not self.model.training:
            return batch
        groups = self.groups_of(inputs, batch)
        signals = self.sets.signals(groups, self.processes)
        self._batch = self.sets.advantages(groups, signals, self.state.global_step)
        put_terms(self, batch, {"total": self._batch.total(), **self._batch.terms()}, self.scale)
        batch["advantages"] = batch.pop("polychromic_total")
        return batch

    def groups_of(self, inputs: Sequence[Mapping[str, Any]], batch: Batch) -> list[Group]:
        """Returns the groups of all processes that TRL has just sampled, with their rewards."""
        return sampled_groups(self, inputs, batch, self.processes)

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Returns TRL's loss of a micro-batch; where it is due, takes the gradients of both terms before."""
        if self.model.training and self.measures:
            self._gradients.add(inputs)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> torch.Tensor:
        """Makes a micro-batch's step; the last one of a batch's first update moves λ and logs what that showed."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients and self._batch is not None:
            measurement = self._gradients.finish(self.args.generation_batch_size // self.num_generations)
            self.outcome = self.finish_update(self._batch, measurement)
            self._batch = None  # further updates on the same generations show nothing new
            self.outcome.metrics["generation/entropy"] = latest_entropy(self)
            for name, value in self.outcome.metrics.items():
                if not math.isnan(value):
                    self._metrics["train"][name].append(value)
        return loss

    def finish_update(self, batch: BatchAdvantages, measurement: GradientMeasurement | None) -> StepOutcome:
        """Moves λ by what an update showed and returns that."""
        return self.sets.finish_step(batch, measurement, None)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            write_json(folder / STATE, {**self.sets.state(), "sha256": checkpoint_hashes(folder)})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.sets.restore(read_json(Path(checkpoint) / STATE))
