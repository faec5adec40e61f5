"""No silent zero: training with λ > 0 stops, with the cause, when the diversity term has no gradient for too long."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from polychromic.errors import TrainingError
from polychromic.training.groups import GroupSignals, objective_inputs
from polychromic.training.settings import DiversitySettings

if TYPE_CHECKING:
    from polychromic.training.steps import StepOutcome

_MOSTLY_CUT = 0.9

IDENTICAL = "all generations of every group are the same; raise the sampling temperature"
UNCHECKED = "the checker failed on every generation, so none has a reward; mend the checker"
CLOSED = (
    "no generation passes, so the quality gate is closed; train for quality first or use an easier checker"
)
EQUAL_REWARDS = (
    "all rewards of every group are equal and its answers equally different, so that no set is better than another; "
    "choose prompts of middling difficulty, a stricter checker or more generations a prompt"
)
SATURATED = (
    "every generation of every group has the full reward and no set of them is better than another; choose harder "
    "prompts or a stricter checker"
)
EQUAL_CREDIT = "every group gets one and the same credit; use more generations a prompt or another set size"
CUT = "no generation passes, and nearly all were cut at max_new_tokens; raise it or teach the model to end"
NO_PATH = "the advantages are not zero but no gradient reaches the parameters (no grad path)"
NOT_FINITE = (
    "the gradient of the diversity term is not finite; lower training.learning_rate or use dtype float32"
)


class SilenceWatch:
    """Counts diversity steps in a row whose diversity gradient is zero or not finite."""

    def __init__(self, settings: DiversitySettings) -> None:
        self.settings = settings
        self.silent_steps = 0
        self.path_broken = False
        """Whether the last measured gradient was zero or not finite although the groups had signal."""

    def observe(self, outcome: StepOutcome) -> None:
        """Take note of a step; raises TrainingError at the `stop_after_silent_steps`-th silent one in a row.

        The step that raises is not counted: the state is then still that of before the step, as a checkpoint keeps it.
        """
        if not outcome.diversity_sampled or outcome.diversity_weight == 0:
            return
        if outcome.measurement is not None and outcome.diversity_has_signal:
            norm = outcome.measurement.diversity_norm
            self.path_broken = norm == 0.0 or not math.isfinite(norm)
        if outcome.diversity_has_signal and not self.path_broken:
            self.silent_steps = 0
            return
        silent = self.silent_steps + 1
        if silent >= self.settings.stop_after_silent_steps:
            raise TrainingError(
                f"the diversity term (λ = {outcome.diversity_weight:g}) has had no gradient for "
                f"{silent} diversity steps in a row: {silence_cause(outcome, self.settings)}. Training at this λ is "
                "training at λ = 0; a checkpoint of the step before is kept."
            )
        self.silent_steps = silent

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"silent_steps": self.silent_steps, "path_broken": self.path_broken}

    def restore(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.silent_steps = state["silent_steps"]
        self.path_broken = state["path_broken"]


def silence_cause(outcome: StepOutcome, settings: DiversitySettings) -> str:
    """The cause in words, from the last step's groups; where groups differ in it, each cause with its count."""
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


def infinite_term(outcome: StepOutcome) -> str:
    """Which gradient is not finite, as far as this step measured them apart."""
    measured = outcome.measurement
    if measured is None or math.isfinite(measured.quality_norm + measured.diversity_norm):
        return "the gradient"
    return f"the gradient of the {'diversity' if math.isfinite(measured.quality_norm) else 'quality'} term"


def _group_causes(signals: GroupSignals, settings: DiversitySettings, closed: str) -> list[str]:
    """Why each group prefers no set to another, by what the objective reads of it; `closed` where nothing passes."""
    inputs = objective_inputs(signals, settings)
    worth_PN = inputs["gates"] if "gates" in inputs else inputs["rewards"]
    ungated = "gates" in inputs and settings.gate == "none"
    causes = []
    for worth_N, clusters_N in zip(worth_PN, signals.clusters_PN, strict=True):
        known = worth_N[~np.isnan(worth_N)]
        if len(known) == 0:
            causes.append(UNCHECKED)
        elif len(set(clusters_N.tolist())) == 1:
            causes.append(IDENTICAL)
        elif known.max() == 0.0:
            causes.append(closed)
        elif not ungated and known.min() == 1.0:
            causes.append(SATURATED)
        else:
            causes.append(EQUAL_CREDIT if ungated or np.ptp(known) else EQUAL_REWARDS)
    return causes
