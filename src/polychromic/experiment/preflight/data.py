"""Checks of the data: lengths, duplicates, overlap of training and test, missing references."""

from __future__ import annotations

from collections.abc import Sequence

from polychromic.evaluation.leakage import find_leakage
from polychromic.experiment.preflight.checks import Finding
from polychromic.experiment.preflight.probe import Probe
from polychromic.experiment.tokens import require_data_fits
from polychromic.models.limits import UNLIMITED
from polychromic.records import Prompt
from polychromic.tasks.lengths import length_report

_LENGTHS_OF = 2000  # prompts whose tokens are counted; the rest is alike


def prompts_and_references(probe: Probe) -> Finding:
    """Everything can be encoded and fits; how many prompts, how long, which ones twice, which in training and test."""
    train, test = probe.task.prompts("train"), probe.evaluation_prompts
    signal = probe.baseline.training.signal
    without = sum(not prompt.references for prompt in train)
    if signal == "references" and without == len(train):
        return Finding(
            "failed",
            "no training prompt has a reference, which training.signal: references learns from",
            "add references, or train with training.signal: reward",
        )
    warnings = _warnings(train, test, without if signal == "references" else 0)
    lengths, over = _lengths(probe, train)
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


def _lengths(probe: Probe, train: Sequence[Prompt]) -> tuple[str, int]:
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
