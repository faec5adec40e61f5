"""Checks the data, the checker, the metrics, and that everything fits the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from polychromic.diversity.embedders import load_embedder
from polychromic.diversity.measurement import check_measures
from polychromic.errors import DataError
from polychromic.evaluation.audits.checker import audit_checker, find_leakage
from polychromic.evaluation.criteria import impossible_criteria, plural
from polychromic.experiment.config import Arm, Experiment
from polychromic.experiment.preflight.probe import Finding, Probe
from polychromic.models.chat import encode_pair, encode_prompt
from polychromic.models.loading import load_limits, load_tokenizer
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import UNLIMITED, ModelLimits
from polychromic.records import Prompt
from polychromic.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_LENGTHS_OF = 2000  # prompts whose tokens are counted; the rest is alike


def prompts_and_references(probe: Probe) -> Finding:
    """Checks that everything can be encoded and fits; counts prompts, lengths and repetitions."""
    train, test = probe.task.prompts("train"), probe.evaluation_prompts
    reads_references = probe.baseline.loss.reads_references
    without = sum(not prompt.references for prompt in train)
    if reads_references and without == len(train):
        return Finding(
            "failed",
            "no training prompt has a reference, which training.loss: sft learns from",
            "add references, or train with training.loss: rl",
        )
    warnings = _warnings(train, test, without if reads_references else 0)
    lengths, over = _shown_lengths(probe, train)
    result = f"{len(train)} training and {len(test)} {probe.experiment.evaluation.split} prompts; {lengths}"
    if over:
        warnings.append(f"{over} training pairs are longer than training.max_length and are left out")
    if warnings:
        return Finding(
            "warned", f"{result}; {'; '.join(warnings)}", "clean the files; the run goes on as they are"
        )
    return Finding("passed", result)


def _warnings(train: Sequence[Prompt], test: Sequence[Prompt], without_references: int) -> list[str]:
    warnings = []
    repeated = find_leakage(train, []).repeated
    if repeated:
        warnings.append(f"{len(repeated)} training prompts repeat another")
    leakage = find_leakage(test, train)
    warnings += leakage.sentences()
    if leakage.repeated:
        warnings.append(leakage.repetition())
    if without_references:
        warnings.append(f"{without_references} training prompts have no reference and are not learnt from")
    return warnings


def _shown_lengths(probe: Probe, train: Sequence[Prompt]) -> tuple[str, int]:
    if probe.model_failure:
        return "lengths unknown without the model", 0
    encoded = require_data_fits(probe.experiment, probe.task)
    language_model, settings = probe.language_model, probe.baseline.training
    context = language_model.context_length
    report = length_report(
        language_model.tokenizer,
        train[:_LENGTHS_OF],
        max_prompt=None if context == UNLIMITED else context - settings.max_new_tokens,
        max_reference=settings.max_new_tokens,
        max_length=settings.max_length,
        **language_model.chat_options,
    )
    references = f"; references {report.references}" if report.references else ""
    whole = f"{encoded} encoded, none with a token of structure in its text or a message lost in the template"
    return f"prompts {report.prompts}{references}; {whole}", report.pairs.n_over if report.pairs else 0


_AUDITED_PROMPTS = 100
_NEAR = 0.02


def measures_order_known_groups(probe: Probe) -> Finding:
    """Checks that every measure puts identical, mixed and different texts in order: none is silently 0."""
    embedder = load_embedder(probe.experiment.evaluation.embedder or "hash")
    checks = check_measures(embedder)
    wrong = [check.measure for check in checks if not check.passed]
    if wrong:
        return Finding(
            "failed",
            f"out of order on known groups: {', '.join(wrong)} (embedder: {embedder.name})",
            "choose another embedder, or report the measure as broken",
        )
    return Finding(
        "passed",
        f"{len(checks)} measures order identical < mixed < different groups, those of meaning by {embedder.name}",
    )


def checker_tells_good_from_bad(probe: Probe) -> Finding:
    """Checks that the checker passes references and refuses shuffled, empty, echoed and repeated text."""
    audit = audit_checker(
        probe.task.check,
        probe.task.prompts("validation")[:_AUDITED_PROMPTS],
        pass_threshold=probe.task.pass_threshold,
    )
    figures = {name: control.pass_rate for name, control in audit.controls.items() if control.n}
    rates = ", ".join(f"{name} {100 * rate:.0f} %" for name, rate in figures.items())
    fix = "make the checker stricter: what it passes is what training will produce"
    return Finding(
        "warned" if audit.lenient or audit.harsh else "passed",
        f"{audit.sentence} Passing: {rates}.",
        fix if audit.lenient else "check the references and the threshold" if audit.harsh else "",
        figures,
    )


def feasibility(probe: Probe) -> Finding:
    """Tells what the untrained model reaches, where a metric cannot improve, and which criteria that rules out."""
    n = len(probe.generations.rows) // len({row.prompt_id for row in probe.generations.rows})
    keys = ("pass@1", f"pass@{n}", "distinct_2", "self_bleu")
    shown = {key: value for key in keys if not math.isnan(value := probe.metric(key))}
    result = "untrained: " + ", ".join(f"{key} {value:.3f}" for key, value in shown.items())
    criteria = [criterion for level in probe.experiment.comparison.levels().values() for criterion in level]
    reached = {criterion.metric: probe.metric(criterion.metric) for criterion in criteria}
    impossible = impossible_criteria(criteria, reached)
    edges = _at_an_edge(shown, f"pass@{n}")
    if not impossible and not edges:
        return Finding("passed", result, figures=shown)
    return Finding(
        "warned",
        f"{result}. {'. '.join([*impossible, *edges])}",
        "a criterion that the untrained model already rules out is going to come out as impossible: state another "
        "one, or make the task harder",
        shown,
    )


def _at_an_edge(metrics: Mapping[str, float], last: str) -> list[str]:
    """Names pass@k that cannot rise, and pass@n so low that training would hardly ever see a reward."""
    full = [
        f"{key} is {metrics[key]:.3f}, which cannot rise"
        for key in ("pass@1", last)
        if metrics.get(key, math.nan) >= 1 - _NEAR
    ]
    if metrics.get(last, math.nan) <= _NEAR:
        return [*full, f"{last} is {metrics[last]:.3f}: hardly any reward to learn from"]
    return full


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
            key = (tokenizer, f"{kind} {len(prompts)}")
            if key not in encoded:
                encoded[key] = load_limits(arm.model), _encoded(arm.model, prompts)
                n += len(prompts)
            limits, tokens = encoded[key]
            _require_encoded(kind, arm.model.source, limits, tokens)
            _require_context(experiment, arm, kind, limits.context, tokens)
    return n


def _prompts_of(experiment: Experiment, arm: Arm, task: Task) -> dict[str, Sequence[Prompt]]:
    """Returns the prompts that an arm reads, by what they are called."""
    settings, training = experiment.evaluation, arm.training
    by_kind: dict[str, Sequence[Prompt]] = {} if arm.untrained else {"training": task.prompts("train")}
    if training.early_stopping and not arm.untrained:
        by_kind["validation"] = task.prompts("validation")[: training.early_stopping.num_prompts]
    if arm.verbalized is None:
        by_kind["evaluated"] = task.prompts(settings.split)[: settings.num_prompts]
    return by_kind


def _encoded(model: ModelSettings, prompts: Sequence[Prompt]) -> _Tokens:
    tokenizer, limits, tokens = load_tokenizer(model), load_limits(model), _Tokens()
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
        largest = max(token for pair in pairs for token in pair.input_ids)
        if limits.rows is not None and largest >= limits.rows:
            tokens.unknown.append((prompt.id, largest))
    return tokens


def _require_encoded(kind: str, model: str, limits: ModelLimits, tokens: _Tokens) -> None:
    if tokens.refused:
        more = len(tokens.refused) - 1
        raise DataError(
            f"{tokens.refused[0][1]}{f' So it is with {more} more {kind} prompts.' if more else ''}"
        )
    if tokens.unknown:
        raise DataError(
            f"{plural(len(tokens.unknown), f'{kind} prompt')} with tokens that {model} has no embedding for (it has "
            f"{limits.rows} rows): {_named(tokens.unknown, 'id {}')}; use the tokenizer that belongs to the model"
        )


def _require_context(experiment: Experiment, arm: Arm, kind: str, context: int, tokens: _Tokens) -> None:
    """Raises DataError where the context cannot hold a prompt with its answer, or references that are going to be
    learnt are longer."""
    training = arm.training
    is_sampled = kind != "training" or arm.loss.samples
    stage = experiment.evaluation if kind == "evaluated" else training
    name = "evaluation" if kind == "evaluated" else "training"
    long = [(name, n) for name, n in tokens.prompts if n + stage.max_new_tokens > context]
    if is_sampled and long:
        raise DataError(
            f"{plural(len(long), f'{kind} prompt')} of arm {arm.name} without room for {stage.max_new_tokens} new "
            f"tokens in the context of {context} of {arm.model.source}: {_named(long)}; shorten them, or lower "
            f"{name}.max_new_tokens"
        )
    over = [(name, n) for name, n in tokens.pairs if context < n <= training.max_length]
    if kind == "training" and arm.loss.reads_references and over:
        raise DataError(
            f"{plural(len(over), 'training pair')} of prompt and reference longer than the context of {context} of "
            f"{arm.model.source}: {_named(over)}; set training.max_length={context} to leave them out, or shorten them"
        )


def _named(counted: Sequence[tuple[str, int]], form: str = "{} tokens") -> str:
    named = ", ".join(f"{prompt_id} ({form.format(number)})" for prompt_id, number in counted[:10])
    return f"{named}, …" if len(counted) > 10 else named


def length_lines(experiment: Experiment, task: Task) -> list[str]:
    """Says how many tokens the training prompts and references have, and what becomes of those over a limit."""
    arm = experiment.arm(experiment.comparison.baseline)
    context, new_tokens = load_limits(arm.model).context, arm.training.max_new_tokens
    report = length_report(
        load_tokenizer(arm.model),
        task.prompts("train"),
        max_prompt=None if context == UNLIMITED else context - new_tokens,
        max_reference=new_tokens,
        max_length=arm.training.max_length,
        **arm.model.chat_template_options,
    )
    limit = "" if context == UNLIMITED else f", what the context leaves beside {new_tokens} new tokens"
    lines = [f"training prompts: {report.prompts}{limit}"]
    if report.references and report.pairs and arm.loss.reads_references:
        lines += [
            f"references: {report.references}, training.max_new_tokens: longer ones cannot be sampled",
            f"prompt and reference: {report.pairs}, training.max_length: longer ones are left out",
        ]
    return lines
