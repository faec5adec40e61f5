"""The check of memory: the longest batches of the run are tried, forward, backward and sampled."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import psutil
import torch

from polychromic.experiment.config import Arm
from polychromic.experiment.preflight.checks import Finding
from polychromic.experiment.preflight.probe import Probe
from polychromic.models.chat import encode_prompt
from polychromic.models.logprobs import TokenSequence, answer_logprobs
from polychromic.records import Prompt, SamplingParameters
from polychromic.sampling.local import LocalSampler
from polychromic.training.references import reference_sequences

_PROMPTS_LOOKED_AT = 2000
_MOST_SHARE_OF_MEMORY = 0.9
_LESS_MEMORY = (
    "lower training.micro_batch and evaluation.max_sequences (the result stays the same), or set "
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
    if training.signal == "references":
        found = reference_sequences(probe.language_model, prompts, training.max_length).by_prompt
        longest = sorted(
            (one for group in found.values() for one in group), key=lambda one: -len(one.token_ids)
        )
        batches["references"] = longest[: min(training.micro_batch, training.prompts_per_step)]
    if training.signal == "reward" or any(arm.diversity.is_active for arm in probe.trained_arms):
        batches["sampled answers"] = _longest_answers(probe, prompts)
    return {
        f"{len(batch)} {name} of up to {max(len(one.token_ids) for one in batch)} tokens, forward and backward": batch
        for name, batch in batches.items()
    }


def _longest_answers(probe: Probe, prompts: Sequence[Prompt]) -> list[TokenSequence]:
    language_model, training = probe.language_model, probe.baseline.training
    encoded = [encode_prompt(language_model.tokenizer, one, **language_model.chat_options) for one in prompts]
    n, n_prompts = _group_shape(probe.baseline)
    rows = min(training.micro_batch, n_prompts * n)
    longest = sorted(encoded, key=len, reverse=True)[: -(-rows // n)]
    answer = [language_model.pad_id] * training.max_new_tokens
    return [TokenSequence((*ids, *answer), len(ids)) for ids in longest for _ in range(n)][:rows]


def _group_shape(arm: Arm) -> tuple[int, int]:
    """Generations a prompt, and prompts that are sampled in a step."""
    if arm.training.signal == "reward":
        return arm.training.generations, arm.training.prompts_per_step
    return arm.diversity.n_generations, min(arm.diversity.max_examples, arm.training.prompts_per_step)


def _longest_sampling(probe: Probe) -> tuple[str, Callable[[], None]]:
    """The batch of generations with the largest cache, of training or of evaluation, none of which ends early."""
    settings, arm = probe.experiment.evaluation, probe.baseline
    at_the_end = min(len(probe.evaluation_prompts), max(1, settings.max_sequences // settings.samples))
    batches = [(probe.evaluation_prompts, at_the_end, settings.samples, settings.max_new_tokens)]
    if probe.trained_arms:
        n, n_prompts = _group_shape(arm)
        n_prompts = min(n_prompts, max(1, arm.training.micro_batch // n))
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
