"""Computes the advantages of a batch of groups and keeps what lasts from step to step: λ, fitted baseline, watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from polychromic.errors import ConfigError
from polychromic.numerics import FloatArray
from polychromic.objective import FittedBaseline, ShareController, WeightController
from polychromic.records import Group
from polychromic.seeding import numpy_generator
from polychromic.tasks.base import Task
from polychromic.tasks.equivalence import equivalence_of
from polychromic.training.advantages import Division, SampledGroups, group_advantages, reads, shared_signals
from polychromic.training.gradients import GradientMeasurement, StepOutcome, reward_outcome
from polychromic.training.parallel import Processes
from polychromic.training.rollouts import GroupSignals, require_working_checker, require_working_equivalence
from polychromic.training.schedule import after_step, diversity_controller
from polychromic.training.settings import BaselineName, DiversitySettings
from polychromic.training.watches import ZeroGradientWatch

SURVIVES_CENTRING = "leave_one_out"
"""The baseline whose advantages sum to zero in every group, so that a trainer's own mean changes nothing."""


@dataclass(frozen=True, slots=True)
class BatchAdvantages:
    """Holds the advantages [B] of both terms for the rows of a batch, groups one after the other."""

    sampled: SampledGroups
    weight: float
    """λ when the batch was sampled."""

    def total(self) -> FloatArray:
        """Returns A_i of J = J_quality + λ J_diversity."""
        given = self.sampled.advantages
        return (given.quality_PN + self.weight * given.diversity_PN).ravel()

    def terms(self) -> dict[str, FloatArray]:
        """Returns what the total is the sum of, diversity in two halves of the prompts, and its gate's part where it
        has one (`training.gradients`)."""
        given = self.sampled.advantages
        diversity_PN = self.weight * given.diversity_PN
        is_even_P1 = (np.arange(len(diversity_PN)) % 2 == 0)[:, None]
        terms = {
            "quality": given.quality_PN.ravel(),
            "diversity_even": (diversity_PN * is_even_P1).ravel(),
            "diversity_odd": (diversity_PN * ~is_even_P1).ravel(),
        }
        if given.gate_PN is not None:
            terms["diversity_gate"] = (self.weight * given.gate_PN).ravel()
        return terms


class SetObjective:
    """The objective of a run with all that it learns on the way; every process has the same one.

    names: what the random subsets of scores without a closed form are decided by. largest_failures: shares of a batch's
    generations, that the checker and the equivalence may fail on before training stops; None where rewards may be
    missing. always_divides: labels answers also where the objective reads no clusters, for the curve of different ones.
    Raises ConfigError where a floor follows a baseline arm, and no controller is given by what knows that arm.
    """

    def __init__(
        self,
        settings: DiversitySettings,
        task: Task,
        *,
        quality_baseline: BaselineName = "leave_one_out",
        controller: WeightController | None = None,
        names: Sequence[str | int] = (),
        largest_failures: tuple[float, float] | None = None,
        always_divides: bool = True,
    ) -> None:
        if controller is None:
            _require_own_floor(settings)
        self.settings = settings
        self.task = task
        self.quality_baseline: BaselineName = quality_baseline
        self.controller = controller or diversity_controller(settings)
        self.fitted = FittedBaseline()
        self.zero_gradient = ZeroGradientWatch(settings)
        self.names = tuple(names)
        self.largest_failures = largest_failures
        self.always_divides = always_divides
        self._division_metrics: Mapping[str, float] = {}

    @property
    def fewest(self) -> int:
        """Returns the smallest group that can be rated."""
        settings = self.settings
        return max(2, settings.set_size + (settings.baseline == "leave_one_out")) if settings.is_active else 2

    @property
    def needs_norms(self) -> bool:
        """Tells whether λ follows the gradients of both terms."""
        return isinstance(self.controller, ShareController)

    def signals(self, groups: Sequence[Group], processes: Processes) -> GroupSignals:
        """Returns rewards, labels and distances of all groups; each process asks for those of its own share.

        Raises CheckerError with the reasons where too many are missing.
        """
        own = processes.own(groups)
        reads_clusters = self.always_divides or reads(self.settings, "clusters")
        with Division(equivalence_of(self.task), reads_clusters=reads_clusters) as division:
            if own:
                division.add([(group.prompt, group.texts) for group in own])
            signals = shared_signals(self.task, own, division, self.settings, processes)
        self._division_metrics = division.metrics(processes)
        if self.largest_failures is not None:
            require_working_checker(groups, self.largest_failures[0])
            require_working_equivalence(signals, self.largest_failures[1])
        return signals

    def advantages(self, groups: Sequence[Group], signals: GroupSignals, step: int) -> BatchAdvantages:
        """Returns the advantages of a batch that every process holds whole, and learns the fitted baseline from it."""
        generator = numpy_generator("subsets", *self.names, step)
        given, self.fitted = group_advantages(
            groups, signals, self.settings, self.quality_baseline, self.fitted, generator
        )
        sampled = SampledGroups(list(groups), signals, [], given, self._division_metrics)
        return BatchAdvantages(sampled, self.controller.weight)

    def finish_step(
        self, batch: BatchAdvantages, measurement: GradientMeasurement | None, baseline_quality: float | None
    ) -> StepOutcome:
        """Moves λ by what the step showed and returns that. Raises TrainingError where the diversity term has had no
        gradient for too long."""
        outcome = reward_outcome(self.settings, measurement, batch.weight, batch.sampled)
        self.zero_gradient.observe(outcome)
        self.controller = after_step(self.controller, outcome, baseline_quality)
        return outcome

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps, as JSON."""
        return {
            "controller": asdict(self.controller),  # type: ignore[call-overload]  # every controller is a dataclass
            "zero_gradient": self.zero_gradient.state(),
            "fitted_baseline": self.fitted.to_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` returned."""
        self.controller = type(self.controller)(**state["controller"])
        self.zero_gradient.restore(state["zero_gradient"])
        self.fitted = FittedBaseline.from_state(state["fitted_baseline"])


def _require_own_floor(settings: DiversitySettings) -> None:
    """Raises ConfigError where the floor is measured from another arm: without one any quality would lie above it, and
    λ would grow for ever."""
    if settings.follows_baseline:
        raise ConfigError(
            f"diversity.floor_margin is {settings.floor_margin:g}, which is measured from the baseline arm of an "
            "experiment file, and there is none here; state quality_floor, the mean reward that has to be kept, or use "
            "mode='share'"
        )


def require_centred(settings: DiversitySettings, trainer: str, instead: str) -> None:
    """Raises ConfigError where advantages that pass as rewards would be changed by the trainer's mean of a group."""
    if settings.is_active and settings.baseline != SURVIVES_CENTRING:
        raise ConfigError(
            f"diversity.baseline is {settings.baseline!r}, whose advantages do not sum to zero in a group: {trainer} "
            "subtracts the group's mean from every reward, which would bias them; use baseline='leave_one_out'"
            f"{instead}"
        )


def require_fixed(settings: DiversitySettings, instead: str = "") -> None:
    """Raises ConfigError where λ would have to follow gradients or a floor that a hook of a trainer does not see."""
    if settings.weight == "auto":
        raise ConfigError(
            f"diversity.weight is 'auto', which follows gradients or a floor that are not known here; state λ{instead}"
        )
