"""Watches an unmodified GRPO run: set-level diversity, the gradient share a diversity term would have, and findings."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from trl import GRPOTrainer  # pyright: ignore[reportMissingModuleSource]

from polychromic.diagnosis import ArmEvidence, ArmFacts, ArmTrace, Finding
from polychromic.diagnosis.rules import find
from polychromic.integrations.answers import Answers
from polychromic.integrations.sets import BatchAdvantages, SetObjective
from polychromic.integrations.trl.config import reward_scale
from polychromic.integrations.trl.observing import (
    Batch,
    TermGradients,
    is_sharded,
    latest_entropy,
    put_terms,
    sampled_groups,
)
from polychromic.training.gradients import GradientMeasurement, reward_outcome
from polychromic.training.parallel import ALONE, join_processes
from polychromic.training.settings import DiversitySettings
from polychromic.training.trackers import MetricsFile

logger = logging.getLogger(__name__)

_NOT_TRAINED = ("train/diversity", "train/gradient_cosine", "train/combined_loss")
_FEWEST_STEPS = 20  # before which the first fifth of the steps is no course


def watch_diversity(
    trainer: GRPOTrainer,
    answers: Answers | None = None,
    diversity: DiversitySettings | None = None,
    *,
    gradient_share_every: int = 25,
    folder: str | Path | None = None,
) -> DiversityWatch:
    """Attaches a watch to a trainer and returns it: `watch_diversity(trainer)` before `trainer.train()`.

    diversity: the term whose gradient is compared with the run's own, `coverage` of sets of four at λ = 1 by default.
    gradient_share_every: updates between two such measurements, each of which takes three more passes; 0 for none.
    folder: where rank 0 writes metrics.jsonl, a row each update as in a run folder; None writes nothing.
    Nothing that the run trains on changes. What is said of the term that is not trained begins with `watch/`.
    """
    settings = diversity or DiversitySettings(weight=1.0, set_size=max(1, min(4, (trainer.num_generations or 2) - 1)))
    watch = DiversityWatch(trainer, SetObjective(settings, answers or Answers()), gradient_share_every, folder)
    trainer.add_callback(watch)
    return watch


class DiversityWatch(TrainerCallback):
    """Measures every batch that the trainer samples; `rows` are the metrics by update, `findings` what looks wrong."""

    def __init__(self, trainer: GRPOTrainer, objective: SetObjective, every: int, folder: str | Path | None) -> None:
        self.trainer = trainer
        self.objective = objective
        self.every = every
        self.rows: list[dict[str, float]] = []
        self.processes = join_processes() if trainer.accelerator.num_processes > 1 else ALONE
        self._file = MetricsFile(Path(folder) / "metrics.jsonl") if folder is not None else None
        self._batch: BatchAdvantages | None = None
        self._gradients = TermGradients(trainer, self.processes)
        self._said: set[str] = set()
        self._sample, self._loss = trainer._generate_and_score_completions, trainer.compute_loss
        trainer._generate_and_score_completions = self._watched_sample
        trainer.compute_loss = self._watched_loss

    @property
    def findings(self) -> list[Finding]:
        """Returns what `diagnose` finds in the run so far, in the order in which to act on it."""
        args = self.trainer.args
        facts = ArmFacts("grpo", "rl", 0.0, float(args.temperature), int(args.max_completion_length or 0))
        trace = ArmTrace("grpo", {0: self.rows})
        return find(ArmEvidence(facts, trace, is_baseline=True, weight=0.0)) if self.rows else []

    def _watched_sample(self, inputs: Sequence[Mapping[str, Any]]) -> Batch:
        batch = self._sample(inputs)
        if self.trainer.model.training:
            groups = sampled_groups(self.trainer, inputs, batch, self.processes)
            signals = self.objective.signals(groups, self.processes)
            self._batch = self.objective.advantages(groups, signals, self.trainer.state.global_step)
            put_terms(self.trainer, batch, self._batch.terms(), reward_scale(self.trainer.args))
            batch["polychromic_quality"] = batch["advantages"].clone()
        return batch

    def _watched_loss(self, model: Any, inputs: Batch, *others: Any, **keys: Any) -> Any:
        due = self.every and self.trainer.state.global_step % self.every == 0
        if due and self.trainer.model.training and self._batch is not None and not is_sharded(self.trainer):
            self._gradients.add(inputs)
        return self._loss(model, inputs, *others, **keys)

    def on_step_end(self, args: Any, state: Any, control: Any, **_keys: Any) -> None:
        """Logs what the update's batch showed, beside TRL's own metrics."""
        if self._batch is None:
            return
        measurement = self._gradients.finish(len(self._batch.sampled.groups))
        row = {"step": state.global_step, **self._metrics(self._batch, measurement)}
        self._batch = None
        self.rows.append(row)
        for name, value in row.items():
            if name != "step" and not math.isnan(value):
                self.trainer._metrics["train"][name].append(value)
        if self.processes.is_first:
            if self._file is not None:
                self._file.log({key: value for key, value in row.items() if key != "step"}, state.global_step)
            self._say_new_findings()

    def _metrics(self, batch: BatchAdvantages, measurement: GradientMeasurement | None) -> dict[str, float]:
        outcome = reward_outcome(self.objective.settings, measurement, batch.weight, batch.sampled)
        metrics = outcome.metrics | {
            "groups/no_signal": float((~batch.sampled.advantages.quality_PN.any(axis=1)).mean()),
            "generation/entropy": latest_entropy(self.trainer),
        }
        return {
            key.replace("train/", "watch/", 1) if key.startswith(_NOT_TRAINED) else key: value
            for key, value in metrics.items()
        }

    def _say_new_findings(self) -> None:
        if len(self.rows) < _FEWEST_STEPS:
            return
        for finding in self.findings:
            if finding.kind not in self._said:
                self._said.add(finding.kind)
                logger.warning(
                    "step %d: %s: %s; %s", self.rows[-1]["step"], finding.kind, finding.sentence, finding.fix
                )
