"""The check of time and money: the whole run is priced from what was measured."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from polychromic.experiment.config import Arm
from polychromic.experiment.cost_text import duration
from polychromic.experiment.preflight.checks import Finding
from polychromic.experiment.preflight.probe import Probe
from polychromic.training.loop import total_steps

_START_SECONDS = 10.0  # imports and loading in each worker
_COMPARE_SECONDS_A_ROW = 1e-4  # measuring, bootstrap and page, as seen on the quickstart


def time_and_money(probe: Probe) -> Finding:
    """Hours, tokens and dollars of the whole run, from the steps and generations that were timed here."""
    experiment = probe.experiment
    arms = [experiment.arm(name) for name, _ in experiment.jobs]
    jobs = [_job_seconds(probe, arm) for arm in arms]
    seconds = _makespan(jobs, probe.workers) + _START_SECONDS + _comparison_seconds(probe, len(jobs))
    tokens = sum(_job_tokens(probe, arm) for arm in arms)
    text = f"about {duration(seconds)}"
    dollars = experiment.budget.dollars(seconds)
    text += "" if dollars is None else f", ${dollars:.2f}"
    figures = {"seconds": seconds, "tokens": tokens, "dollars": dollars, "text": text}
    exceeded = experiment.budget.exceeded(seconds)
    if exceeded:
        return Finding(
            "warned", f"{text}: more than the budget allows", f"{exceeded}: raise it or do less", figures
        )
    return Finding("passed", f"{text}, {tokens / 1e6:.1f} M sampled tokens", figures=figures)


def _job_seconds(probe: Probe, arm: Arm) -> float:
    return _training_seconds(probe, arm) + _n_generations(probe) * _seconds_a_generation(probe)


def _training_seconds(probe: Probe, arm: Arm) -> float:
    if arm.untrained:
        return 0.0
    probed = probe.arms[arm.name]
    steps, sampling = _steps(probe, arm)
    seconds = sampling * probed.sampling_seconds + (steps - sampling) * probed.plain_seconds
    seconds += -(-steps // arm.training.validation_every) * probed.held_out_seconds
    early = arm.training.early_stopping
    if early is not None:
        checks = steps // early.every_n_steps
        seconds += checks * early.prompts * early.samples * _seconds_a_generation(probe)
    return seconds


def _steps(probe: Probe, arm: Arm) -> tuple[int, int]:
    """Updates of an arm, and how many of them sample."""
    steps = total_steps(arm.training, len(probe.task.prompts("train")))
    if arm.training.signal == "reward":
        return steps, steps
    return steps, -(-steps // arm.diversity.every_n_steps) if arm.diversity.is_active else 0


def _n_generations(probe: Probe) -> int:
    settings = probe.experiment.evaluation
    return len(probe.evaluation_prompts) * settings.samples * len(settings.sampling)


def _seconds_a_generation(probe: Probe) -> float:
    return probe.generations.seconds / len(probe.generations.rows)


def _job_tokens(probe: Probe, arm: Arm) -> float:
    a_generation = probe.generations.tokens / len(probe.generations.rows)
    trained = 0.0 if arm.untrained else _steps(probe, arm)[1] * probe.arms[arm.name].tokens_a_sampling_step
    return trained + _n_generations(probe) * a_generation


def _comparison_seconds(probe: Probe, n_jobs: int) -> float:
    return n_jobs * _n_generations(probe) * _COMPARE_SECONDS_A_ROW


def _makespan(jobs: Sequence[float], workers: int) -> float:
    """When the last of the jobs ends if each worker takes the next one as it becomes free."""
    free = [0.0] * min(workers, len(jobs))
    for job in jobs:
        heapq.heappush(free, heapq.heappop(free) + job)
    return max(free)
