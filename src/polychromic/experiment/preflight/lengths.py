"""Counts tokens of prompts and references, and refuses what a model cannot encode or has no room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from polychromic.errors import DataError
from polychromic.evaluation.criteria import plural
from polychromic.experiment.config import Arm, Experiment
from polychromic.experiment.jobs import is_measured_from
from polychromic.models.chat import encode_pair, encode_prompt, thinking_of_model
from polychromic.models.loading import load_limits, load_tokenizer
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import UNLIMITED, ModelLimits
from polychromic.records import Prompt
from polychromic.sampling.verbalized import reply_tokens, verbalised_prompt
from polychromic.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Lengths:
    """Token counts of some texts, and how many of the texts are longer than the limit (None: nothing bounds them)."""

    n: int
    minimum: int
    median: float
    p95: float
    maximum: int
    limit: int | None
    n_over: int

    def __str__(self) -> str:
        text = f"{self.minimum} to {self.maximum} tokens (median {self.median:g}, 95 % up to {self.p95:g})"
        return text if self.limit is None else f"{text}; {self.n_over} of {self.n} over {self.limit}"


@dataclass(frozen=True, slots=True)
class LengthReport:
    """Lengths of prompts, of references with their turn end, and of both together (None without references)."""

    prompts: Lengths
    references: Lengths | None
    pairs: Lengths | None


def length_report(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_prompt: int | None,
    max_reference: int,
    max_length: int,
    **template_options: Any,
) -> LengthReport:
    """Measures every prompt and reference as training and sampling would encode them.

    `max_prompt` is what the context leaves beside the new tokens (None without a limit), `max_reference` the new tokens
    a generation may have, `max_length` the tokens of a training pair.
    """
    prompt_lengths = [len(encode_prompt(tokenizer, prompt, **template_options)) for prompt in prompts]
    reference_lengths, pair_lengths = [], []
    for prompt in prompts:
        for reference in prompt.references:
            mask = encode_pair(tokenizer, prompt, reference, **template_options).loss_mask
            reference_lengths.append(sum(mask))
            pair_lengths.append(len(mask))
    return LengthReport(
        _lengths(prompt_lengths, max_prompt),
        _lengths(reference_lengths, max_reference) if reference_lengths else None,
        _lengths(pair_lengths, max_length) if pair_lengths else None,
    )


def arm_lengths(arm: Arm, prompts: Sequence[Prompt]) -> LengthReport:
    """Measures prompts with the tokenizer and the limits of an arm (`length_report`)."""
    context, new_tokens = load_limits(arm.model).context, arm.training.max_new_tokens
    return length_report(
        load_tokenizer(arm.model),
        prompts,
        max_prompt=None if context == UNLIMITED else context - new_tokens,
        max_reference=new_tokens,
        max_length=arm.training.max_length,
        **arm.model.chat_template_options,
    )


def _lengths(tokens: Sequence[int], limit: int | None) -> Lengths:
    return Lengths(
        n=len(tokens),
        minimum=min(tokens),
        median=float(np.median(tokens)),
        p95=round(float(np.percentile(tokens, 95)), 1),
        maximum=max(tokens),
        limit=limit,
        n_over=0 if limit is None else sum(length > limit for length in tokens),
    )


@dataclass
class _Tokens:
    """Token counts of one kind of prompts under one tokenizer, by prompt id; and what cannot be encoded at all."""

    prompts: list[tuple[str, int]] = field(default_factory=list)
    pairs: list[tuple[str, int]] = field(default_factory=list)
    """Of prompt and reference together."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[tuple[str, int]] = field(default_factory=list)
    """Prompts with a token that the embedding matrix has no row for, and the largest such id."""
    thoughts: list[str] = field(default_factory=list)
    """Prompts with a reference that the model would learn as thinking without an end."""


_HELD_OUT = "held-out"
"""Validation prompts whose references a quality floor is measured on."""
_VERBALIZED = "verbalized"
"""Evaluated prompts with the request for several answers at once."""


def require_data_fits(experiment: Experiment, task: Task) -> int:
    """Encodes what the run is going to encode and returns how many prompts that are.

    Raises DataError with counts and the prompts named, where texts hold tokens of structure, lose messages in the chat
    template, hold token ids without an embedding, or do not fit into the context together with their answers.
    """
    encoded: dict[tuple[str, str], tuple[ModelLimits, _Tokens]] = {}
    n = 0
    for arm in map(experiment.arm, experiment.arms):
        tokenizer = arm.model.model_dump_json(include={"source", "revision", "chat_template_options"})
        for kind, prompts in _prompts_of(experiment, arm, task).items():
            key = (tokenizer, f"{kind} {len(prompts)} {arm.verbalized}")
            if key not in encoded:
                encoded[key] = load_limits(arm.model), _encoded(arm.model, prompts)
                n += len(prompts)
            limits, tokens = encoded[key]
            _require_encoded(kind, arm.model.source, limits, tokens)
            _require_context(experiment, arm, kind, limits.context, tokens)
            if kind == "training" and arm.loss.reads_references and experiment.task.thinking != "keep":
                _require_answers(arm, tokens)
    return n


def _prompts_of(experiment: Experiment, arm: Arm, task: Task) -> dict[str, Sequence[Prompt]]:
    """Returns the prompts that an arm reads, by what they are called."""
    settings, training = experiment.evaluation, arm.training
    by_kind: dict[str, Sequence[Prompt]] = {} if arm.untrained else {"training": task.prompts("train")}
    if training.early_stopping and not arm.untrained:
        by_kind["validation"] = task.prompts("validation")[: training.early_stopping.num_prompts]
    followed = is_measured_from(experiment, arm.name)
    if not arm.untrained and arm.loss.measures_held_out(arm.diversity, is_measured_from=followed):
        with_references = [prompt for prompt in task.prompts("validation") if prompt.references]
        by_kind[_HELD_OUT] = with_references[: training.validation_prompts]
    evaluated = task.prompts(settings.split)[: settings.num_prompts]
    if arm.verbalized is None:
        return by_kind | {"evaluated": evaluated}
    return by_kind | {_VERBALIZED: [verbalised_prompt(prompt, arm.verbalized) for prompt in evaluated]}


def _encoded(model: ModelSettings, prompts: Sequence[Prompt]) -> _Tokens:
    tokenizer, limits, tokens = load_tokenizer(model), load_limits(model), _Tokens()
    thinking = thinking_of_model("strip", tokenizer, model.chat_template_options)
    for prompt in prompts:
        try:
            pairs = [
                encode_pair(tokenizer, prompt, reference, **model.chat_template_options)
                for reference in prompt.references or [""]
            ]
        except DataError as error:
            tokens.refused.append((prompt.id, str(error)))
            continue
        lengths = [len(pair.input_ids) for pair in pairs]
        tokens.prompts.append((prompt.id, lengths[0] - sum(pairs[0].loss_mask)))
        tokens.pairs += [(prompt.id, length) for length in lengths if prompt.references]
        endings = [thinking.read(reference, "stop").finish for reference in prompt.references]
        tokens.thoughts += [prompt.id] * (thinking.opened and "length" in endings)
        largest = max(token for pair in pairs for token in pair.input_ids)
        if limits.rows is not None and largest >= limits.rows:
            tokens.unknown.append((prompt.id, largest))
    return tokens


def _require_encoded(kind: str, model: str, limits: ModelLimits, tokens: _Tokens) -> None:
    if tokens.refused:
        more = len(tokens.refused) - 1
        raise DataError(f"{tokens.refused[0][1]}{f' So it is with {more} more {kind} prompts.' if more else ''}")
    if tokens.unknown:
        raise DataError(
            f"{plural(len(tokens.unknown), f'{kind} prompt')} with tokens that {model} has no embedding for (it has "
            f"{limits.rows} rows): {_named(tokens.unknown, 'id {}')}; use the tokenizer that belongs to the model"
        )


def _require_context(experiment: Experiment, arm: Arm, kind: str, context: int, tokens: _Tokens) -> None:
    """Raises DataError where the context cannot hold a prompt with its answer, or references that are going to be
    learnt are longer."""
    training = arm.training
    is_sampled = arm.loss.samples if kind == "training" else kind != _HELD_OUT
    is_evaluated = kind in ("evaluated", _VERBALIZED)
    name, stage = ("evaluation", experiment.evaluation) if is_evaluated else ("training", training)
    new_tokens = stage.max_new_tokens
    if arm.verbalized is not None:
        new_tokens = reply_tokens(arm.verbalized, new_tokens)
    long = [(name, n) for name, n in tokens.prompts if n + new_tokens > context]
    if is_sampled and long:
        raise DataError(
            f"{plural(len(long), f'{kind} prompt')} of arm {arm.name} without room for {new_tokens} new "
            f"tokens in the context of {context} of {arm.model.source}: {_named(long)}; shorten them, or lower "
            f"{name}.max_new_tokens"
        )
    over = [(name, n) for name, n in tokens.pairs if context < n <= training.max_length]
    if kind in ("training", _HELD_OUT) and arm.loss.reads_references and over:
        raise DataError(
            f"{plural(len(over), f'{kind} pair')} of prompt and reference longer than the context of {context} of "
            f"{arm.model.source}: {_named(over)}; set training.max_length={context} to leave them out, or shorten them"
        )


def _require_answers(arm: Arm, tokens: _Tokens) -> None:
    """Raises DataError where references would be learnt as thinking, which no answer follows."""
    if tokens.thoughts:
        raise DataError(
            f"{plural(len(tokens.thoughts), 'training prompt')} of arm {arm.name} with a reference that would be "
            f"learnt as thinking without an answer: the chat template of {arm.model.source} opens <think> before it, "
            f"and it holds no </think> ({', '.join(tokens.thoughts[:10])}); begin it with </think>, or with thoughts "
            "and </think>, or turn thinking off (model.chat_template_options), or set task.thinking: keep"
        )


def _named(counted: Sequence[tuple[str, int]], form: str = "{} tokens") -> str:
    named = ", ".join(f"{prompt_id} ({form.format(number)})" for prompt_id, number in counted[:10])
    return f"{named}, …" if len(counted) > 10 else named


def length_lines(experiment: Experiment, task: Task, *, only_over: bool = False) -> list[str]:
    """Says how many tokens the training prompts and references have, and what becomes of those over a limit; with
    `only_over` nothing of those that all fit."""
    arm = experiment.arm(experiment.comparison.baseline)
    report = arm_lengths(arm, task.prompts("train"))
    new_tokens = arm.training.max_new_tokens
    limit = "" if report.prompts.limit is None else f", what the context leaves beside {new_tokens} new tokens"
    lines = [(report.prompts, f"training prompts: {report.prompts}{limit}")]
    if report.references and report.pairs and arm.loss.reads_references:
        sampled = f"references: {report.references}, training.max_new_tokens: longer ones cannot be sampled"
        learnt = f"prompt and reference: {report.pairs}, training.max_length: longer ones are left out"
        lines += [(report.references, sampled), (report.pairs, learnt)]
    return [line for lengths, line in lines if lengths.n_over or not only_over]
