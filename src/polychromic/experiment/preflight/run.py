"""The checks in their order, and where their results go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from polychromic.experiment.config import Experiment
from polychromic.experiment.preflight.checks import Check, CheckResult, PreflightReport, carry_out
from polychromic.experiment.preflight.cost import time_and_money
from polychromic.experiment.preflight.data import prompts_and_references
from polychromic.experiment.preflight.environment import room_on_disk, trackers, versions_and_device
from polychromic.experiment.preflight.gradients import diversity_gradient_reaches_the_weights
from polychromic.experiment.preflight.memory import longest_batch_fits
from polychromic.experiment.preflight.model import answers_begin_and_end, model_loads
from polychromic.experiment.preflight.probe import Probe
from polychromic.experiment.preflight.quality import (
    checker_tells_good_from_bad,
    measures_order_known_groups,
    room_to_improve,
)
from polychromic.experiment.provenance import threads_of_a_job
from polychromic.seeding import deterministic

CHECKS: tuple[tuple[str, Check], ...] = (
    ("versions and device", versions_and_device),
    ("model", model_loads),
    ("answers begin and end", answers_begin_and_end),
    ("data", prompts_and_references),
    ("diversity measures", measures_order_known_groups),
    ("checker", checker_tells_good_from_bad),
    ("room to improve", room_to_improve),
    ("diversity gradient", diversity_gradient_reaches_the_weights),
    ("longest batch", longest_batch_fits),
    ("disk", room_on_disk),
    ("trackers", trackers),
    ("time and money", time_and_money),
)


def preflight(
    experiment: Experiment, folder: Path, on_result: Callable[[CheckResult], None] = lambda _: None
) -> PreflightReport:
    """Carry out all checks for a run that would write to `folder`; nothing is written there."""
    probe = Probe(experiment, folder)
    with deterministic(threads_of_a_job(experiment)):  # times are those of a job
        return carry_out(CHECKS, probe, on_result)
