"""Early stopping on the validation reward: the fair chance that a collapsing baseline is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from polychromic.files import atomic_folder
from polychromic.models.loading import LanguageModel
from polychromic.records import SamplingParameters
from polychromic.sampling.thinking import answer_sampler
from polychromic.seeding import child_seed
from polychromic.training.checkpoint import trainable_weights
from polychromic.training.groups import sample_groups

if TYPE_CHECKING:
    from polychromic.training.loop import ArmRun


@dataclass
class ValidationState:
    """The best mean reward so far, when it was seen, and how many checks have passed since."""

    best_reward: float = float("-inf")
    best_step: int = 0
    checks_since: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain mapping (no infinity, which JSON lacks)."""
        return asdict(self) | {"best_reward": None if self.best_step == 0 else self.best_reward}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ValidationState:
        """Inverse of `to_json`."""
        best = float("-inf") if data["best_reward"] is None else data["best_reward"]
        return cls(best, data["best_step"], data["checks_since"])


class ValidationWatch:
    """Samples validation prompts every few steps and remembers the best weights.

    Only the training checker is asked: the judge stays unseen until evaluation.
    """

    def __init__(self, run: ArmRun, language_model: LanguageModel) -> None:
        assert run.training.early_stopping is not None
        self.run = run
        self.settings = run.training.early_stopping
        self.language_model = language_model
        self.sampler = answer_sampler(language_model, run.training.micro_batch, run.thinking)
        self.prompts = run.task.prompts("validation")[: self.settings.prompts]
        self.state = ValidationState()
        self.folder = run.folder / "checkpoints" / "best"

    @property
    def should_stop(self) -> bool:
        """Whether patience has run out."""
        return self.state.checks_since >= self.settings.patience

    def check(self, step: int) -> dict[str, float]:
        """Measure if a measurement is due after `step` updates; returns its metrics."""
        if step % self.settings.every_n_steps:
            return {}
        reward = self._mean_reward(step)
        if reward > self.state.best_reward + self.settings.min_improvement:
            self.state = ValidationState(reward, step, 0)
            with atomic_folder(self.folder) as staging:
                save_file(trainable_weights(self.language_model.model), staging / "weights.safetensors")
        else:
            self.state.checks_since += 1
        return {"validation/reward": reward}

    def best_weights(self) -> dict[str, torch.Tensor] | None:
        """The weights of the best check, or None before the first."""
        return load_file(self.folder / "weights.safetensors") if self.state.best_step else None

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.state = ValidationState.from_json(data)

    def _mean_reward(self, step: int) -> float:
        names = (self.run.experiment, self.run.arm, self.run.seed, "validation", step)
        parameters = SamplingParameters(
            self.run.training.temperature, max_new_tokens=self.run.training.max_new_tokens
        )
        seeds = [child_seed(*names, prompt.id) for prompt in self.prompts]
        groups = sample_groups(
            self.sampler,
            self.run.task,
            self.prompts,
            self.settings.samples,
            parameters,
            seeds,
            cut_answers=self.run.training.cut_answers,
        )
        return float(np.nanmean([group.rewards for group in groups]))
