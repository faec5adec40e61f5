"""From the `diversity` section to the controller that sets λ, and its state in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from polychromic.objective import FixedWeight, FloorController, Observation, ShareController, WeightController
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.steps import StepOutcome

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
    options = _BY_CROSS_ENTROPY if training.signal == "references" else {}
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
