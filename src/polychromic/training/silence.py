"""No silent zero: training with λ > 0 stops, with the cause, when the diversity term has no gradient for too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from polychromic.errors import TrainingError
from polychromic.training.settings import DiversitySettings

if TYPE_CHECKING:
    from polychromic.training.steps import StepOutcome


class SilenceWatch:
    """Counts diversity steps in a row whose diversity gradient is zero or not finite."""

    def __init__(self, settings: DiversitySettings) -> None:
        self.settings = settings
        self.silent_steps = 0
        self.path_broken = False
        """Whether the last measured gradient was zero or not finite although the groups had signal."""

    def observe(self, outcome: StepOutcome) -> None:
        """Take note of a step; raises TrainingError after `stop_after_silent_steps` silent ones."""
        if not outcome.diversity_sampled or outcome.diversity_weight == 0:
            return
        if outcome.measurement is not None and outcome.diversity_has_signal:
            norm = outcome.measurement.diversity_norm
            self.path_broken = norm == 0.0 or not np.isfinite(norm)
        if outcome.diversity_has_signal and not self.path_broken:
            self.silent_steps = 0
            return
        self.silent_steps += 1
        if self.silent_steps >= self.settings.stop_after_silent_steps:
            raise TrainingError(
                f"the diversity term (λ = {outcome.diversity_weight:g}) has had no gradient for "
                f"{self.silent_steps} diversity steps in a row: {silence_cause(outcome)}. Training at this λ is "
                "training at λ = 0; the last checkpoint is kept."
            )

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"silent_steps": self.silent_steps, "path_broken": self.path_broken}

    def restore(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.silent_steps = state["silent_steps"]
        self.path_broken = state["path_broken"]


def silence_cause(outcome: StepOutcome) -> str:
    """The likeliest cause in words, from the last step's groups."""
    if outcome.diversity_has_signal:
        return "the advantages are not zero but no gradient reaches the parameters (no grad path)"
    signals = outcome.signals
    assert signals is not None
    if outcome.truncated >= 0.9:
        return "nearly all generations were cut at max_new_tokens; raise it or teach the model to end"
    if np.all(signals.clusters_PN == signals.clusters_PN[:, :1]):
        return "all generations of every group are the same; raise the sampling temperature"
    if np.nanmax(signals.passing_PN) == 0:
        return "no generation passes, so the quality gate is closed; train for quality first or use an easier checker"
    return "every group gets one and the same credit; use more generations a prompt or another set size"
