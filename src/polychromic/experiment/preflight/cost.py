"""Checks of memory, time and money: the longest batch is tried, and the whole run is priced from what was measured."""

from __future__ import annotations

import heapq
import resource
import time
from collections.abc import Sequence

import psutil
import torch

from polychromic.experiment.config import Arm
from polychromic.experiment.cost_text import duration
from polychromic.experiment.preflight.checks import Finding
from polychromic.experiment.preflight.probe import Probe
from polychromic.models.chat import encode_prompt
from polychromic.models.loading import LanguageModel
from polychromic.training.loop import total_steps
from polychromic.training.sequences import TokenSequence, answer_logprobs

_PROMPTS_LOOKED_AT = 2000
_START_SECONDS = 10.0  # imports and loading in each worker
_COMPARE_SECONDS_A_ROW = 1e-4  # measuring, bootstrap and page, as seen on the quickstart
_MOST_SHARE_OF_MEMORY = 0.9


def longest_batch_fits(probe: Probe) -> Finding:
    """The longest prompts with answers of full length, forward and backward."""
    if not probe.trained_arms:
        used, there = _memory()
        return Finding(
            "passed", f"no arm is trained; sampling took at most {used / 1e9:.1f} of {there / 1e9:.0f} GB"
        )
    language_model, training = probe.language_model, probe.baseline.training
    sequences = _longest_sequences(probe, language_model)
    started = time.perf_counter()
    try:
        logprobs = answer_logprobs(language_model, sequences, temperature=training.temperature).logprobs_BT
        logprobs.sum().backward()
    except torch.cuda.OutOfMemoryError:
        return Finding(
            "failed",
            f"{len(sequences)} sequences of {len(sequences[0].token_ids)} tokens do not fit on the device",
            "lower training.micro_batch (the result stays the same), or set model.gradient_checkpointing",
        )
    finally:
        language_model.model.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    used, there = _memory()
    result = (
        f"{len(sequences)} sequences of up to {max(len(one.token_ids) for one in sequences)} tokens: {seconds:.1f} s, "
        f"at most {used / 1e9:.1f} of {there / 1e9:.0f} GB"
    )
    if used * probe.workers > _MOST_SHARE_OF_MEMORY * there:
        mend = "lower training.micro_batch or run.workers"
        return Finding("failed", f"{result}, with {probe.workers} workers side by side", mend)
    return Finding("passed", result, figures={"bytes": used, "seconds": seconds})


def _longest_sequences(probe: Probe, language_model: LanguageModel) -> list[TokenSequence]:
    training = probe.baseline.training
    prompts = probe.task.prompts("train")[:_PROMPTS_LOOKED_AT]
    encoded = [encode_prompt(language_model.tokenizer, one, **language_model.chat_options) for one in prompts]
    reward = training.signal == "reward"
    n = training.generations if reward else probe.baseline.diversity.n_generations
    rows = min(training.micro_batch, training.prompts_per_step * n)
    longest = sorted(encoded, key=len, reverse=True)[: -(-rows // n)]
    answer = [language_model.pad_id] * training.max_new_tokens
    return [TokenSequence((*ids, *answer), len(ids)) for ids in longest for _ in range(n)][:rows]


def _memory() -> tuple[float, float]:
    """Peak use of this process and what there is, in bytes: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()), float(
            torch.cuda.get_device_properties(0).total_memory
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return float(peak), float(psutil.virtual_memory().total)


def time_and_money(probe: Probe) -> Finding:
    """Hours, tokens and dollars of the whole run, from the steps and generations that were timed here."""
    experiment = probe.experiment
    jobs = [
        _job_seconds(probe, arm) for arm in map(experiment.arm, experiment.arms) for _ in experiment.seeds
    ]
    seconds = _makespan(jobs, probe.workers) + _START_SECONDS + _comparison_seconds(probe, len(jobs))
    tokens = len(experiment.seeds) * sum(
        _job_tokens(probe, arm) for arm in map(experiment.arm, experiment.arms)
    )
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
