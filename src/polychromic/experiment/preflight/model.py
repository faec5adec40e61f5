"""Checks of the model: context, memory and the cost of the run."""

from __future__ import annotations

import heapq
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import psutil
import torch

from polychromic.experiment.config import Arm
from polychromic.experiment.costs import duration
from polychromic.experiment.preflight.checks import Finding, Probe
from polychromic.models.chat import decode, encode_prompt, structure_tokens, turn_end_id
from polychromic.models.logprobs import TokenSequence, answer_logprobs
from polychromic.models.sources import UNLIMITED
from polychromic.records import Prompt, SamplingParameters
from polychromic.sampling.local import LocalSampler
from polychromic.training.rollouts import reference_sequences
from polychromic.training.trainer import total_steps


def model_loads(probe: Probe) -> Finding:
    """The model loads with its adapter, and sampling and training agree with plain forward passes of it."""
    language_model = probe.language_model
    model = language_model.model
    n_all = sum(p.numel() for p in model.parameters())
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    size = f"{n_all / 1e6:.2f} M parameters, {n_trained / 1e6:.2f} M trained"
    check = probe.model_checks[probe.baseline.name]
    return Finding(
        "passed",
        f"{probe.baseline.model.source}: {size}; {check.describe()}",
        figures={"parameters": n_all, "check": check.to_json()},
    )


def answers_begin_and_end(probe: Probe) -> Finding:
    """Template, turn end and stop tokens agree: what training teaches to end, sampling stops at."""
    language_model = probe.language_model
    tokenizer = language_model.tokenizer
    end = turn_end_id(tokenizer, **language_model.chat_options)
    template = "chat template" if tokenizer.chat_template else "no chat template (plain text)"
    prompt = probe.evaluation_prompts[0]
    tail = decode(tokenizer, encode_prompt(tokenizer, prompt, **language_model.chat_options)[-8:])
    structure = structure_tokens(tokenizer, **language_model.chat_options)
    context = language_model.context_length
    result = (
        f"{template}; an answer ends with {tokenizer.convert_ids_to_tokens(end)!r}; a prompt ends {tail!r}; "
        f"{len(structure)} tokens of structure that no text may hold; "
        f"{'no limit of context' if context == UNLIMITED else f'a context of {context} tokens'}"
    )
    if end not in language_model.stop_ids:
        return Finding(
            "failed",
            f"{result}; but sampling does not stop there",
            "add the token to eos_token_id in the model's generation_config.json",
        )
    return Finding("passed", result)


_PROMPTS_LOOKED_AT = 2000
_MOST_SHARE_OF_MEMORY = 0.9
_LESS_MEMORY = (
    "lower training.micro_batch_size and evaluation.max_decode_batch (the result stays the same), or set "
    "model.gradient_checkpointing"
)


def longest_batch_fits(probe: Probe) -> Finding:
    """The longest prompts with answers of full length: forward and backward as in training, and sampled."""
    tries: list[tuple[str, Callable[[], None]]] = [
        (words, partial(_forward_and_backward, probe, sequences))
        for words, sequences in _training_batches(probe).items()
    ]
    words, sampling = _longest_sampling(probe)
    done = []
    for what, attempt in [*tries, (words, sampling)]:
        started = time.perf_counter()
        try:
            attempt()
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            return Finding("failed", f"{what} do not fit on the device", _LESS_MEMORY)
        done.append(f"{what}: {time.perf_counter() - started:.1f} s")
    used, there = _memory()
    untrained = "" if probe.trained_arms else "no arm is trained; "
    result = f"{untrained}{'; '.join(done)}; at most {used / 1e9:.1f} of {there / 1e9:.0f} GB"
    if used * probe.workers > _MOST_SHARE_OF_MEMORY * there:
        mend = f"{_LESS_MEMORY}, or lower run.workers"
        return Finding("failed", f"{result}, with {probe.workers} workers side by side", mend)
    return Finding("passed", result, figures={"bytes": used})


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "allocate memory" in str(error)


def _forward_and_backward(probe: Probe, sequences: Sequence[TokenSequence]) -> None:
    language_model, training = probe.language_model, probe.baseline.training
    try:
        logprobs = answer_logprobs(language_model, sequences, temperature=training.temperature).logprobs_BT
        logprobs.sum().backward()
    finally:
        language_model.model.zero_grad(set_to_none=True)


def _training_batches(probe: Probe) -> dict[str, list[TokenSequence]]:
    """The largest micro-batches by what they are called: sampled answers, and references where they are learnt."""
    if not probe.trained_arms:
        return {}
    training = probe.baseline.training
    prompts = probe.task.prompts("train")[:_PROMPTS_LOOKED_AT]
    batches = {}
    if probe.baseline.loss.reads_references:
        found = reference_sequences(probe.language_model, prompts, training.max_length).by_prompt
        longest = sorted(
            (one for group in found.values() for one in group), key=lambda one: -len(one.token_ids)
        )
        batches["references"] = longest[: min(training.micro_batch_size, training.prompts_per_step)]
    if any(arm.loss.samples for arm in probe.trained_arms):
        batches["sampled answers"] = _longest_answers(probe, prompts)
    return {
        f"{len(batch)} {name} of up to {max(len(one.token_ids) for one in batch)} tokens, forward and backward": batch
        for name, batch in batches.items()
    }


def _longest_answers(probe: Probe, prompts: Sequence[Prompt]) -> list[TokenSequence]:
    language_model, training = probe.language_model, probe.baseline.training
    encoded = [encode_prompt(language_model.tokenizer, one, **language_model.chat_options) for one in prompts]
    n, n_prompts = probe.baseline.loss.num_samples, probe.baseline.loss.num_prompts
    rows = min(training.micro_batch_size, n_prompts * n)
    longest = sorted(encoded, key=len, reverse=True)[: -(-rows // n)]
    answer = [language_model.pad_id] * training.max_new_tokens
    return [TokenSequence((*ids, *answer), len(ids)) for ids in longest for _ in range(n)][:rows]


def _longest_sampling(probe: Probe) -> tuple[str, Callable[[], None]]:
    """The batch of generations with the largest cache, of training or of evaluation, none of which ends early."""
    settings, arm = probe.experiment.evaluation, probe.baseline
    at_the_end = min(len(probe.evaluation_prompts), max(1, settings.max_decode_batch // settings.num_samples))
    batches = [(probe.evaluation_prompts, at_the_end, settings.num_samples, settings.max_new_tokens)]
    if probe.trained_arms:
        n = arm.loss.num_samples
        n_prompts = min(arm.loss.num_prompts, max(1, arm.training.micro_batch_size // n))
        prompts = probe.task.prompts("train")[:_PROMPTS_LOOKED_AT]
        batches.append((prompts, n_prompts, n, arm.training.max_new_tokens))
    prompts, n_prompts, n, new_tokens = max(batches, key=lambda batch: batch[1] * batch[2] * batch[3])
    longest = max(prompts, key=lambda prompt: len(prompt.text))
    # No token stops it. Copies of one prompt need no padding, of which such a model knows no token.
    endless = replace(probe.language_model, stop_ids=frozenset({-1}))
    sampler = LocalSampler(endless, n_prompts * n)
    parameters = SamplingParameters(max_new_tokens=new_tokens)

    def sample() -> None:
        sampler.sample([longest] * n_prompts, n, parameters, range(n_prompts))

    return f"{n_prompts * n} generations of {new_tokens} tokens", sample


def _memory() -> tuple[float, float]:
    """Peak use of this process and what there is, in bytes: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()), float(
            torch.cuda.get_device_properties(0).total_memory
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return float(peak), float(psutil.virtual_memory().total)


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
        checks = steps // early.check_every
        seconds += checks * early.num_prompts * early.num_samples * _seconds_a_generation(probe)
    return seconds


def _steps(probe: Probe, arm: Arm) -> tuple[int, int]:
    """Updates of an arm, and how many of them sample."""
    steps = total_steps(arm.training, len(probe.task.prompts("train")))
    return steps, -(-steps // arm.loss.sample_every) if arm.loss.samples else 0


def _n_generations(probe: Probe) -> int:
    settings = probe.experiment.evaluation
    return len(probe.evaluation_prompts) * settings.num_samples * len(settings.sampling)


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
