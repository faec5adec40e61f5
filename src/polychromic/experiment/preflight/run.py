"""The checks in their order, and where their results go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    with _threads_of_a_worker(probe.workers):
        return carry_out(CHECKS, probe, on_result)


@contextmanager
def _threads_of_a_worker(workers: int) -> Iterator[None]:
    """Time things with the threads that each worker of the run is going to have."""
    import torch

    before = torch.get_num_threads()
    if workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)
