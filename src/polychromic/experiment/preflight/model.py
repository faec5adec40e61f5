"""Checks the machine and the model: versions, agreement with plain forward passes, memory and disk."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import torch

from polychromic.errors import ModelError, PolychromicError, is_out_of_memory
from polychromic.experiment.config import Arm
from polychromic.experiment.planning.run_plan import MOST_SHARE_OF_MEMORY
from polychromic.experiment.preflight.probe import Finding, Probe
from polychromic.experiment.resuming.provenance import installed_versions
from polychromic.models.chat import decode, encode_prompt, structure_tokens, turn_end_id
from polychromic.models.loading import require_quantization_support
from polychromic.models.logprobs import TokenSequence, answer_logprobs
from polychromic.models.sources import UNLIMITED
from polychromic.records import Prompt, SamplingParameters
from polychromic.sampling.local import LocalSampler
from polychromic.training.rollouts import reference_sequences
from polychromic.training.settings import TrainingSettings


def versions_and_device(probe: Probe) -> Finding:
    """Names the libraries and the device that the run would use; QLoRA without a GPU fails."""
    versions = installed_versions()
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "peft"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    for arm in probe.trained_arms:
        try:
            require_quantization_support(arm.model)
        except ModelError as error:
            problem, _, fix = str(error).partition("; ")
            return Finding("failed", f"{named}; {device}; arm {arm.name}: {problem}", fix)
    if _gpu_is_idle():
        why = "built for CUDA" if torch.backends.cuda.is_built() else "a build without CUDA"
        return Finding(
            "warned",
            f"{named}; {device}; this machine has an NVIDIA GPU that this torch ({why}) does not see, so that all work "
            "is the CPU's",
            "install a torch for the driver that is here (https://pytorch.org/get-started); with an empty "
            "CUDA_VISIBLE_DEVICES the CPU is meant",
            figures={"versions": versions, "device": device},
        )
    return Finding("passed", f"{named}; {device}", figures={"versions": versions, "device": device})


_DRIVER = Path("/dev/nvidiactl")


def _gpu_is_idle() -> bool:
    """Tells whether there is the driver of an NVIDIA GPU that torch does not see, though nobody has hidden it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return _DRIVER.exists() and not hidden and not torch.cuda.is_available()


def model_loads(probe: Probe) -> Finding:
    """Checks that the model loads with its adapter, and that sampling and training agree with plain forward passes of
    it."""
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
    """Checks that template, turn end and stop tokens agree: what training teaches to end, sampling stops at."""
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
_PART_OF_TRAINING = 0.1  # of the time that preflight has, for each kind of batch
_PART_OF_SAMPLING = 0.1
_TRIED_TOKENS = 4  # sampled to learn how long all of them take
_LESS_MEMORY = (
    "lower training.micro_batch_size, training.max_decode_batch and evaluation.max_decode_batch (the result stays the "
    "same; one prompt's samples are decoded together whatever they say, so below that lower num_samples), or set "
    "model.gradient_checkpointing"
)


def longest_batch_fits(probe: Probe) -> Finding:
    """Tries the longest prompts with answers of full length: forward and backward as in training, and sampled.

    Where that would take longer than preflight has, less is tried, and told.
    """
    tries: list[Callable[[], str]] = [
        partial(_trained, probe, words, sequences) for words, sequences in _training_batches(probe).items()
    ]
    done = []
    if probe.experiment.sampling.engine == "vllm":
        done.append("sampling is vLLM's, which plans its own memory")
    else:
        tries.append(partial(_sampled, probe))
    for attempt in tries:
        started = time.perf_counter()
        try:
            attempted = attempt()
        except _DoNotFitError as error:
            return Finding("failed", f"{error} do not fit on the device", _LESS_MEMORY)
        done.append(f"{attempted}: {time.perf_counter() - started:.1f} s")
    used, there = _memory()
    untrained = "" if probe.trained_arms else "no arm is trained; "
    result = f"{untrained}{'; '.join(done)}; at most {used / 1e9:.1f} of {there / 1e9:.0f} GB"
    beside = -(-probe.workers // max(1, torch.cuda.device_count()))  # of several GPUs, workers take one in turn
    if used * beside > MOST_SHARE_OF_MEMORY * there:
        if beside == 1:
            return Finding("failed", result, _LESS_MEMORY)
        return Finding(
            "failed", f"{result}, with {beside} workers side by side", f"{_LESS_MEMORY}, or lower run.workers"
        )
    return Finding("passed", result, figures={"bytes": used})


def other_models(probe: Probe) -> Finding:
    """Checks the models of arms that do not start from the baseline's as that one was checked, each alone in memory."""
    others = probe.arms_of_other_models
    if not others:
        return Finding("passed", "all arms start from the baseline's model")
    probe.let_go()
    results, parameters = [], {}
    for arm in others:
        alone = probe.seen_from(arm)
        try:
            found = [check(alone) for check in (model_loads, answers_begin_and_end, longest_batch_fits)]
        except PolychromicError as error:
            return Finding("failed", f"arm {arm.name}: {error}")
        alone.let_go()
        for finding in found:
            if finding.status == "failed":
                return Finding("failed", f"arm {arm.name}: {finding.result}", finding.fix)
        results.append(f"{arm.name}: {found[0].result}; {found[2].result}")
        parameters[arm.name] = found[0].figures["parameters"]
    return Finding("passed", ". ".join(results), figures={"by_arm": parameters})


class _DoNotFitError(Exception):
    """A batch, in words, for which there is no memory."""


@contextmanager
def _in_memory(attempted: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _DoNotFitError(attempted) from error


def _trained(probe: Probe, words: str, sequences: Sequence[TokenSequence]) -> str:
    """Makes a training batch, or as many of its rows as there is time for; returns what was made."""
    with _in_memory(words):
        _forward_and_backward(probe, sequences[:1])  # the first time is slow
        started = time.perf_counter()
        _forward_and_backward(probe, sequences[:1])
        n = probe.limit.most(len(sequences), time.perf_counter() - started, _PART_OF_TRAINING)
        _forward_and_backward(probe, sequences[:n])
    return f"{words}{probe.limit.lowered(n, len(sequences), 'rows')}"


def _sampled(probe: Probe) -> str:
    """Samples the largest batch to its limit of tokens, or to as many as there is time for; returns what was made."""
    n, new_tokens, sample = _longest_sampling(probe)
    words = f"{n} generations of {new_tokens} tokens"
    with _in_memory(words):
        tried = min(_TRIED_TOKENS, new_tokens)
        started = time.perf_counter()
        sample(tried)
        took = time.perf_counter() - started
        tokens = max(tried, probe.limit.most(new_tokens, took / tried, _PART_OF_SAMPLING))
        if tokens > tried:
            sample(tokens)
    return f"{words}{probe.limit.lowered(tokens, new_tokens, 'tokens')}"


def _forward_and_backward(probe: Probe, sequences: Sequence[TokenSequence]) -> None:
    language_model, training = probe.language_model, probe.baseline.training
    try:
        logprobs = answer_logprobs(language_model, sequences, temperature=training.temperature).logprobs_BT
        logprobs.sum().backward()
    finally:
        language_model.model.zero_grad(set_to_none=True)


def _arms_that_are_tried(probe: Probe) -> list[Arm]:
    """Lists the trained arms of the baseline's model, which is the one that is loaded: an arm may have larger batches
    than the baseline."""
    return [arm for arm in probe.trained_arms if arm.model == probe.baseline.model]


def _training_batches(probe: Probe) -> dict[str, list[TokenSequence]]:
    """Returns the largest micro-batches by what they are called: sampled answers, and references where they are
    learnt."""
    arms = _arms_that_are_tried(probe)
    prompts = probe.task.prompts("train")[:_PROMPTS_LOOKED_AT] if arms else []
    batches = {}
    learning = [arm.training for arm in arms if arm.loss.reads_references]
    if learning:
        training = max(learning, key=lambda training: _n_references(training) * training.max_length)
        references = reference_sequences(probe.language_model, prompts, training.max_length).by_prompt
        longest = sorted(
            (sequence for group in references.values() for sequence in group),
            key=lambda sequence: -len(sequence.token_ids),
        )
        batches["references"] = longest[: _n_references(training)]
    sampling = [arm for arm in arms if arm.loss.samples]
    if sampling:
        largest = max(sampling, key=lambda arm: _n_answers(arm) * arm.training.max_new_tokens)
        batches["sampled answers"] = _longest_answers(probe, largest, prompts)
    longest = {name: max(len(sequence.token_ids) for sequence in batch) for name, batch in batches.items()}
    return {
        f"{len(batch)} {name} of up to {longest[name]} tokens, forward and backward": batch
        for name, batch in batches.items()
    }


def _n_references(training: TrainingSettings) -> int:
    return min(training.micro_batch_size, training.prompts_per_step)


def _n_answers(arm: Arm) -> int:
    return min(arm.training.micro_batch_size, arm.loss.num_prompts * arm.loss.num_samples)


def _longest_answers(probe: Probe, arm: Arm, prompts: Sequence[Prompt]) -> list[TokenSequence]:
    language_model = probe.language_model
    encoded = [encode_prompt(language_model.tokenizer, prompt, **language_model.chat_options) for prompt in prompts]
    n, rows = arm.loss.num_samples, _n_answers(arm)
    longest = sorted(encoded, key=len, reverse=True)[: -(-rows // n)]
    answer = [language_model.pad_id] * arm.training.max_new_tokens
    return [TokenSequence((*ids, *answer), len(ids)) for ids in longest for _ in range(n)][:rows]


def _longest_sampling(probe: Probe) -> tuple[int, int, Callable[[int], None]]:
    """Prepares the batch of generations with the largest cache, of training or of evaluation, none of which ends
    early: their number, their tokens, and what samples so many tokens of each."""
    settings = probe.experiment.evaluation
    at_the_end = min(len(probe.evaluation_prompts), max(1, settings.max_decode_batch // settings.num_samples))
    batches = [(probe.evaluation_prompts, at_the_end, settings.num_samples, settings.max_new_tokens)]
    for arm in _arms_that_are_tried(probe):
        if arm.loss.samples:
            n = arm.loss.num_samples
            n_prompts = min(arm.loss.num_prompts, max(1, arm.training.decode_batch // n))
            prompts = probe.task.prompts("train")[:_PROMPTS_LOOKED_AT]
            batches.append((prompts, n_prompts, n, arm.training.max_new_tokens))
    prompts, n_prompts, n, new_tokens = max(batches, key=lambda batch: batch[1] * batch[2] * batch[3])
    longest = max(prompts, key=lambda prompt: len(prompt.text))
    # No token stops it. Copies of one prompt need no padding, of which such a model knows no token.
    endless = replace(probe.language_model, stop_ids=frozenset({-1}))
    sampler = LocalSampler(endless, n_prompts * n)

    def sample(tokens: int) -> None:
        parameters = SamplingParameters(max_new_tokens=tokens)
        sampler.sample([longest] * n_prompts, n, parameters, range(n_prompts))

    return n_prompts * n, new_tokens, sample


def _memory() -> tuple[float, float]:
    """Returns the peak use of this process and what there is, in bytes: of the GPU where there is one, else of the
    machine."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()), float(torch.cuda.get_device_properties(0).total_memory)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return float(peak), float(psutil.virtual_memory().total)


_BYTES_PER_GENERATION = 600  # a row of generations.jsonl without its text
_BYTES_PER_TOKEN = 5


def run_fits_on_disk(probe: Probe) -> Finding:
    """Checks that adapters, checkpoints and generations of all arms and seeds fit."""
    experiment = probe.experiment
    parameters = sum(p.numel() for p in probe.language_model.model.parameters() if p.requires_grad)
    # A checkpoint holds the weights and both moments of AdamW; one more than is kept while the next is written.
    copies = sum(1 + 3 * (arm.training.keep_checkpoints + 1) for arm in probe.trained_arms)
    settings = experiment.evaluation
    rows = len(probe.evaluation_prompts) * settings.num_samples * len(settings.sampling)
    generations = rows * (_BYTES_PER_GENERATION + settings.max_new_tokens * _BYTES_PER_TOKEN)
    needed = parameters * 4 * copies * len(experiment.seeds) + generations * len(experiment.jobs)
    folder = probe.folder.resolve()
    place = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(place).free
    result = f"about {needed / 1e9:.2f} GB needed, {free / 1e9:.1f} GB free at {place}"
    if needed > free:
        return Finding("failed", result, "free the disk, or write elsewhere with --out")
    return Finding("passed", result, figures={"needed_bytes": needed, "free_bytes": free})
