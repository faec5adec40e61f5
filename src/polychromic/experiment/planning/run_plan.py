"""Plans a whole experiment on one device: memory of its heaviest job, hours of every arm, and dollars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from polychromic.errors import DataError
from polychromic.experiment.config import Arm, Experiment
from polychromic.experiment.planning.memory import Memory, SamplingLoad, TrainingLoad, plan_memory
from polychromic.experiment.planning.shapes import ModelShape, shape_of
from polychromic.experiment.planning.time import Hardware, decoding_seconds, reference_seconds, training_seconds
from polychromic.experiment.resuming.inputs import stated_prompts
from polychromic.ledger import priced_duration
from polychromic.models.settings import ModelSettings

MOST_SHARE_OF_MEMORY = 0.9
"""Of a device's memory that may be planned for: preflight asks for the same share when it has measured."""

_CHARACTERS_PER_TOKEN = 4.0  # of English with a vocabulary of 50,000 or more; other languages need more tokens
_TEMPLATE_TOKENS = 20  # roles and turn ends around a prompt
_START_SECONDS = 900.0  # image, packages and weights; assumed, as it depends on the cloud


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of the training data, estimated from characters: means for time, the longest for memory."""

    prompts: int
    prompt: float
    longest_prompt: int
    reference: float
    longest_reference: int
    references_per_prompt: float


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """One arm with one seed."""

    arm: str
    memory: Memory
    training_seconds: float
    evaluation_seconds: float


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The whole run on one device; dollars are None without `budget.dollars_per_hour`."""

    hardware: Hardware
    arms: tuple[ArmPlan, ...]
    seconds: float
    dollars: float | None

    @property
    def peak(self) -> float:
        """Returns the most memory that any job needs."""
        return max(arm.memory.peak for arm in self.arms)

    @property
    def fits(self) -> bool:
        """Tells whether every job fits."""
        return self.peak <= MOST_SHARE_OF_MEMORY * self.hardware.memory


def plan_run(
    experiment: Experiment, hardware: Hardware, lengths: Lengths | None = None, shape: ModelShape | None = None
) -> RunPlan:
    """Plans all arms and seeds, one after another on one device.

    Raises ConfigError where the model's shape is not known, DataError where prompts cannot be read.
    """
    lengths = lengths or read_lengths(experiment)
    planned = {
        arm.name: _plan_arm(experiment, arm, shape or shape_of(arm.model), lengths, hardware)
        for arm in map(experiment.arm, experiment.sampled_arms)
    }
    jobs = [planned[name] for name, _ in experiment.jobs]
    seconds = _START_SECONDS + sum(job.training_seconds + job.evaluation_seconds for job in jobs)
    return RunPlan(hardware, tuple(planned.values()), seconds, experiment.budget.dollars(seconds))


def plan_lines(plan: RunPlan) -> list[str]:
    """Writes memory by part, hours by arm, and the sum."""
    heaviest = max(plan.arms, key=lambda arm: arm.memory.peak).memory
    parts = heaviest.to_json()
    named = ", ".join(f"{name} {parts[name] / 1e9:.1f}" for name in list(parts)[:7] if parts[name] > 0.05e9)
    fits = "fits" if plan.fits else f"does not fit into {MOST_SHARE_OF_MEMORY:.0%}"
    there = plan.hardware.memory / 1e9
    lines = [f"{plan.hardware.name}: at most {plan.peak / 1e9:.1f} of {there:.0f} GB ({fits}): {named} GB"]
    for arm in plan.arms:
        hours = f"training {arm.training_seconds / 3600:.2f} h, evaluation {arm.evaluation_seconds / 3600:.2f} h"
        lines.append(f"  {arm.arm}, each seed: {hours}")
    lines.append(
        f"  all arms and seeds: about {priced_duration(plan.seconds, plan.dollars)} (computed, not measured; preflight "
        "measures on the machine)"
    )
    return lines


def plan_notes(experiment: Experiment) -> list[str]:
    """Says of which engines the file states memory and time are not planned: the formulas are those of our own."""
    sampling, notes = experiment.sampling, []
    if sampling.engine != "local":
        of_vllm = sampling.engine == "vllm" and not (sampling.model_extra or {}).get("url")
        beside = "; vLLM in process holds the base once more beside them, with a cache of its own" if of_vllm else ""
        notes.append(
            f"not planned: sampling.engine {sampling.engine}; memory and time are those of the local sampler{beside}"
        )
    engines = dict.fromkeys(experiment.arm(name).training.engine for name in experiment.trained_arms)
    notes += [
        f"not planned: training.engine {engine}; memory and time are those of the local trainer"
        for engine in engines
        if engine != "local"
    ]
    return notes


def overview_lines(plans: Sequence[RunPlan]) -> list[str]:
    """Writes a row for each device: memory of the heaviest job, and time and dollars of all arms and seeds."""
    rows: list[tuple[str, ...]] = [("GPU", "memory, GB", "", "all arms and seeds")]
    for plan in plans:
        memory = f"{plan.peak / 1e9:.1f} of {plan.hardware.memory / 1e9:.0f}"
        whole = ("fits", priced_duration(plan.seconds, plan.dollars)) if plan.fits else ("too small", "–")
        rows.append((plan.hardware.name, memory, *whole))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    note = f"computed, not measured; {MOST_SHARE_OF_MEMORY:.0%} of the memory may be used"
    return [*lines, f"({note}; --on {plans[0].hardware.name} tells the parts and the arms)"]


def read_lengths(experiment: Experiment) -> Lengths:
    """Reads prompts and references of the training split (of the evaluated one where none is trained)."""
    by_split = stated_prompts(experiment)
    prompts = by_split.get("train") or by_split.get(experiment.evaluation.split)
    if not prompts:
        raise DataError(f"task {experiment.task.name}: no prompts can be read; nothing can be planned without them")
    characters = [sum(len(message.content) for message in prompt.messages) for prompt in prompts]
    prompt_tokens = [n / _CHARACTERS_PER_TOKEN + _TEMPLATE_TOKENS for n in characters]
    references = [len(text) / _CHARACTERS_PER_TOKEN for prompt in prompts for text in prompt.references]
    return Lengths(
        prompts=len(prompts),
        prompt=fmean(prompt_tokens),
        longest_prompt=round(max(prompt_tokens)),
        reference=fmean(references) if references else 0.0,
        longest_reference=round(max(references, default=0.0)),
        references_per_prompt=len(references) / len(prompts),
    )


def _plan_arm(experiment: Experiment, arm: Arm, shape: ModelShape, lengths: Lengths, hardware: Hardware) -> ArmPlan:
    nucleus = any(one.top_p < 1 for one in experiment.evaluation.sampling_parameters())
    sampling = [_evaluation_sampling(experiment, lengths.longest_prompt, nucleus=nucleus)]
    loads = [] if arm.untrained else _training_loads(arm, lengths, longest=True)
    if loads and arm.loss.samples:
        sampling.append(_training_sampling(arm, lengths.longest_prompt))
    memories = [
        plan_memory(shape, model, load, one, separate_terms=arm.diversity.is_active, on_gpu=hardware.is_gpu)
        for load, model in [(load, _model(arm, dropout)) for load, _, dropout in loads] or [(None, arm.model)]
        for one in sampling
    ]
    return ArmPlan(
        arm.name,
        max(memories, key=lambda memory: memory.peak),
        _training_seconds(arm, shape, lengths, hardware),
        _evaluation_seconds(experiment, arm, shape, lengths, hardware),
    )


def _model(arm: Arm, dropout: bool) -> ModelSettings:
    """Returns the model's settings with dropout only where it is applied: to cross-entropy."""
    if dropout:
        return arm.model
    return arm.model.model_copy(update={"adapter": arm.model.adapter.model_copy(update={"dropout": 0.0})})


def _training_loads(arm: Arm, lengths: Lengths, *, longest: bool) -> list[tuple[TrainingLoad, float, bool]]:
    """Lists the kinds of micro-batches of an arm: (one of them, how many a step makes, with dropout)."""
    training, loads = arm.training, []
    prompt = lengths.longest_prompt if longest else lengths.prompt
    if arm.loss.reads_references:
        reference = lengths.longest_reference if longest else lengths.reference
        sequences = training.prompts_per_step * max(1.0, lengths.references_per_prompt)
        rows = min(float(training.micro_batch_size), sequences)
        row = round(min(prompt + reference, training.max_length))
        load = TrainingLoad(max(1, round(rows)), row, round(rows * min(reference, row)))
        loads.append((load, sequences / rows, True))
    if arm.loss.samples:
        n = arm.loss.num_samples
        sequences = arm.loss.num_prompts * n
        at_once = min(training.micro_batch_size, sequences)
        together = min(n, at_once)
        rows = -(-at_once // together)
        row = round(prompt + together * training.max_new_tokens)
        load = TrainingLoad(rows, row, at_once * training.max_new_tokens)
        loads.append((load, sequences / at_once / arm.loss.sample_every, False))
    return loads


def _evaluation_sampling(experiment: Experiment, prompt: int, *, nucleus: bool = False) -> SamplingLoad:
    settings = experiment.evaluation
    prompts = min(settings.num_prompts, max(1, settings.max_decode_batch // settings.num_samples))
    return SamplingLoad(prompts * settings.num_samples, prompt + settings.max_new_tokens, nucleus)


def _training_sampling(arm: Arm, prompt: float) -> SamplingLoad:
    n = arm.loss.num_samples
    prompts = min(arm.loss.num_prompts, max(1, arm.training.decode_batch // n))
    return SamplingLoad(prompts * n, round(prompt + arm.training.max_new_tokens))


def _training_seconds(arm: Arm, shape: ModelShape, lengths: Lengths, hardware: Hardware) -> float:
    if arm.untrained:
        return 0.0
    from polychromic.training.trainer import total_steps

    loads = _training_loads(arm, lengths, longest=False)
    seconds = sum(times * training_seconds(shape, arm.model, load, hardware) for load, times, _ in loads)
    if arm.training.kl_weight:
        seconds += sum(times * reference_seconds(shape, arm.model, load, hardware) for load, times, _ in loads)
    draws = [(arm.loss.num_prompts, arm.loss.num_samples, arm.loss.sample_every)] if arm.loss.samples else []
    early = arm.training.early_stopping
    draws += [(early.num_prompts, early.num_samples, early.check_every)] if early else []
    for n_prompts, n, every in draws:
        at_once = min(n_prompts, max(1, arm.training.decode_batch // n))
        load = SamplingLoad(at_once * n, round(lengths.prompt + arm.training.max_new_tokens))
        batch = decoding_seconds(shape, arm.model, load, round(lengths.prompt), at_once, hardware)
        seconds += -(-n_prompts // at_once) * batch / every
    return seconds * total_steps(arm.training, lengths.prompts)


def _evaluation_seconds(
    experiment: Experiment, arm: Arm, shape: ModelShape, lengths: Lengths, hardware: Hardware
) -> float:
    settings = experiment.evaluation
    load = _evaluation_sampling(experiment, round(lengths.prompt))
    prompts = load.sequences // settings.num_samples
    batch = decoding_seconds(shape, arm.model, load, round(lengths.prompt), prompts, hardware)
    return batch * -(-settings.num_prompts // prompts) * len(settings.sampling)
