"""Samples the untrained model for preflight, as the run itself is going to: nothing is done twice."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from polychromic.evaluation.collect import CollectionPlan, collect
from polychromic.experiment.jobs import collection_plan
from polychromic.generations import scan_generations
from polychromic.records import GenerationRow, Prompt, SamplingParameters
from polychromic.run_folder import RunFolder
from polychromic.sampling.base import Sampler, build_sampler

if TYPE_CHECKING:
    from polychromic.experiment.preflight.probe import Probe

PROBE_PROMPTS = 20
PROBE_SAMPLES = 16
_QUICK_SECONDS = 5.0  # what is over sooner is done again: the first time also warms up caches and allocator
_PART_OF_THE_TIME = 0.3
_TRIED_TOKENS = 8  # sampled to learn how long more take


@dataclass(frozen=True, slots=True)
class ProbeGenerations:
    """Generations of the untrained model, the time that sampling and checking took, and what was lowered for time."""

    rows: list[GenerationRow]
    seconds: float
    lowered: str = ""
    of_the_run: bool = False
    """True where the run needs the very same and does not sample them again."""
    prompts: Mapping[str, Prompt] = field(default_factory=dict)
    """The prompts that were sampled, by id: another split may have others of the same ids."""

    @property
    def tokens(self) -> int:
        """Sums the tokens sampled."""
        return sum(row.n_tokens for row in self.rows)

    @property
    def seconds_each(self) -> float:
        """Returns the time of one generation."""
        return self.seconds / len(self.rows)

    @property
    def n_prompts(self) -> int:
        """Counts the prompts."""
        return len({row.prompt_id for row in self.rows})


class _EnoughError(Exception):
    """Ends a collection between two batches."""


def sample_untrained(probe: Probe) -> ProbeGenerations:
    """Samples a few prompts, as many as the time allows.

    Where the run samples the untrained model too, these are the first batches of that, of the evaluated prompts;
    otherwise validation prompts: the test split is not looked at.
    """
    settings = probe.experiment.evaluation
    sampler = build_sampler(
        probe.experiment.sampling,
        probe.language_model,
        max_decode_batch=settings.max_decode_batch,
        thinking=probe.experiment.task.thinking,
    )
    seconds_each = _seconds_a_generation(probe, sampler)
    own = _plan_of_the_run(probe)
    per_batch = own and max(1, own.max_decode_batch // own.samples) * own.samples
    if own and per_batch and per_batch * seconds_each <= probe.limit.share(_PART_OF_THE_TIME):
        return _first_batches(probe, own, sampler)
    return _apart(probe, sampler, seconds_each)


def _seconds_a_generation(probe: Probe, sampler: Sampler) -> float:
    """Estimates the time of one generation of full length, from a few tokens: an upper bound, for many side by side
    take less each."""
    settings = probe.experiment.evaluation
    prompts = probe.evaluation_prompts[:1]
    sampler.sample(prompts, 1, SamplingParameters(max_new_tokens=2), [0])  # the first call is slow
    started = time.perf_counter()
    n = min(PROBE_SAMPLES, settings.num_samples)
    sampler.sample(prompts, n, SamplingParameters(max_new_tokens=_TRIED_TOKENS), [0])
    return (time.perf_counter() - started) / n * settings.max_new_tokens / _TRIED_TOKENS


def _plan_of_the_run(probe: Probe) -> CollectionPlan | None:
    """Returns what the run samples of the untrained model; None where it does not, or with another model."""
    experiment = probe.experiment
    name = experiment.untrained_arm
    is_local = experiment.sampling.engine == "local"  # another engine may not repeat itself to the last bit
    if name is None or not is_local or experiment.arm(name).model != probe.baseline.model:
        return None
    plan = collection_plan(experiment, name, experiment.seeds[0], RunFolder(probe.folder), probe.task)
    return replace(plan, sampling_settings=plan.sampling_settings[:1])


def _first_batches(probe: Probe, plan: CollectionPlan, sampler: Sampler) -> ProbeGenerations:
    wanted = min(PROBE_PROMPTS, len(plan.prompts)) * plan.samples
    started = time.perf_counter()
    share = probe.limit.share(_PART_OF_THE_TIME)

    n_batches = 0

    def on_batch(done: int, total: int, tokens: int) -> None:
        nonlocal n_batches
        n_batches += 1
        with_another = (time.perf_counter() - started) * (n_batches + 1) / n_batches
        if done >= wanted or with_another > share:
            raise _EnoughError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generations.jsonl"
        with suppress(_EnoughError):
            collect(plan, lambda: sampler, probe.task, path, on_batch)
        rows = list(scan_generations(path).rows)
    seconds = time.perf_counter() - started
    n_prompts = len(rows) // plan.samples
    lowered = probe.limit.lowered(n_prompts, min(PROBE_PROMPTS, len(plan.prompts)), "prompts")
    return ProbeGenerations(rows, seconds, lowered, True, {prompt.id: prompt for prompt in plan.prompts})


def _apart(probe: Probe, sampler: Sampler, seconds_each: float) -> ProbeGenerations:
    """Samples validation prompts, which the run samples nowhere else."""
    settings = probe.experiment.evaluation
    prompts = probe.task.prompts("validation")[:PROBE_PROMPTS] or probe.evaluation_prompts[:PROBE_PROMPTS]
    wanted, samples = len(prompts), min(PROBE_SAMPLES, settings.num_samples)
    n = probe.limit.most(wanted, seconds_each * samples, _PART_OF_THE_TIME)
    plan = CollectionPlan(
        prompts=tuple(prompts[:n]),
        samples=samples,
        sampling_settings=(settings.sampling_parameters()[0],),
        names=(probe.experiment.name, "preflight"),
        max_decode_batch=settings.max_decode_batch,
    )
    lowered = probe.limit.lowered(n, wanted, "prompts")
    collected = _collected(probe, plan, sampler, lowered)
    if collected.seconds < _QUICK_SECONDS:
        again = _collected(probe, plan, sampler, lowered)
        collected = min(collected, again, key=lambda generations: generations.seconds)
    return collected


def _collected(probe: Probe, plan: CollectionPlan, sampler: Sampler, lowered: str) -> ProbeGenerations:
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        rows = collect(plan, lambda: sampler, probe.task, Path(folder) / "generations.jsonl")
        seconds = time.perf_counter() - started
        return ProbeGenerations(rows, seconds, lowered, prompts={prompt.id: prompt for prompt in plan.prompts})
