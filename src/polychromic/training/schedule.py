"""Decides what an arm's steps are, whoever makes them: how many, on which prompts, at which learning rate and λ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from polychromic.objective import FixedWeight, FloorController, Observation, ShareController, WeightController
from polychromic.records import Prompt
from polychromic.seeding import numpy_generator
from polychromic.training.base import ArmRun
from polychromic.training.gradients import StepOutcome
from polychromic.training.settings import DiversitySettings, LossFacts, TrainingSettings

_LAST_STEPS = 10
"""Of a baseline that stopped earlier: what stands for its quality from then on."""


def step_prompts(run: ArmRun, prompts: Sequence[Prompt], step: int) -> list[Prompt]:
    """Returns the prompts of a step: every epoch is a fresh permutation, decided by (experiment, seed, epoch)."""
    size = min(run.training.prompts_per_step, len(prompts))
    per_epoch = len(prompts) // size
    epoch, position = divmod(step, per_epoch)
    order = numpy_generator(run.experiment, "order", run.seed, epoch).permutation(len(prompts))
    return [prompts[index] for index in order[position * size : (position + 1) * size]]


def baseline_quality(run: ArmRun, step: int) -> float | None:
    """Returns the baseline's quality at this step, on the same prompts; its last ones where it stopped earlier."""
    qualities = run.baseline_quality
    if not run.diversity.follows_baseline:
        return None
    if step < len(qualities):
        return qualities[step]
    measured = [quality for quality in qualities if not math.isnan(quality)]
    # Validation references are the same every time: their last figure stands for itself.
    return statistics.fmean(measured[-1 if run.measures_held_out else -_LAST_STEPS :])


def total_steps(settings: TrainingSettings, n_prompts: int) -> int:
    """Returns the number of updates: stated, or as many as take `epochs` times the number of prompts, to the nearest.

    What a pass leaves over for want of a whole step waits for the next one, which draws its order anew.
    """
    if settings.steps is not None:
        return settings.steps
    return max(1, round((settings.epochs or 0) * n_prompts / min(settings.prompts_per_step, n_prompts)))


def schedule_factor(settings: TrainingSettings, step: int, total: int) -> float:
    """Returns the share of the learning rate at `step` ≥ 0: linear warm-up, then constant, linear or half-cosine."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    if settings.schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - progress if settings.schedule == "linear" else 1.0


_FIRST_GUESS = 1.0  # where a controller starts; it moves λ by powers, so any start will do


def diversity_controller(settings: DiversitySettings, facts: LossFacts | None = None) -> WeightController:
    """Returns the controller of an arm, at its start; `facts` scale a floor to its kind of quality."""
    if settings.weight != "auto":
        return FixedWeight(settings.weight)
    if settings.mode == "share":
        return ShareController(_FIRST_GUESS, settings.target_share)
    floor = settings.lowest_quality
    assert floor is not None  # the settings refuse a floor mode without a floor
    return FloorController(_FIRST_GUESS, floor, **(facts.floor_options if facts else {}))


def after_step(
    controller: WeightController, outcome: StepOutcome, baseline_quality: float | None = None
) -> WeightController:
    """Returns the controller once it has seen a step; with `baseline_quality` it sees the difference to that."""
    measured = outcome.measurement
    observation = Observation(quality=outcome.quality - (baseline_quality or 0.0))
    if measured is not None:
        observation = replace(observation, quality_norm=measured.quality_norm, diversity_norm=measured.diversity_norm)
    return controller.update(observation)
