"""Compares the arms of a run folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polychromic.diversity.overlap import ROUGE_L_TOKENS
from polychromic.diversity.tokens import ModelTokens, Tokenizer, TokenOptions, choose_tokens
from polychromic.errors import ConfigError, DataError
from polychromic.evaluation.audits.checker import CheckerAudit, ControlResult, audit_checker, find_leakage
from polychromic.evaluation.audits.partition import partition_warnings, unlabelled_warnings
from polychromic.evaluation.collect import read_collected
from polychromic.evaluation.compare import Comparison, compare
from polychromic.evaluation.counting.sameness import joint_labels, sameness_between
from polychromic.evaluation.criteria import ResultWarning, plural
from polychromic.evaluation.lengths import at_equal_length, thinking_measures, thinking_warnings
from polychromic.evaluation.measure import SameAnswers, measure_arms
from polychromic.evaluation.tables import Study
from polychromic.evaluation.warnings import sandbox_notes
from polychromic.experiment.config import Experiment
from polychromic.experiment.jobs import collection_plan
from polychromic.experiment.resuming.continuing import late_changes
from polychromic.files import append_jsonl, read_json, scan_jsonl, sealed, strict_json, write_text
from polychromic.records import GenerationRow, Prompt
from polychromic.run_folder import RunFolder
from polychromic.tasks.base import Task

if TYPE_CHECKING:
    from polychromic.diversity import Embedder
    from polychromic.evaluation.settings import EvaluationSettings
    from polychromic.experiment.external import ExternalExperiment
    from polychromic.models.loading import LanguageModel
    from polychromic.models.logprobs import TokenSequence

logger = logging.getLogger(__name__)

METRIC = "reference_perplexity"
_PROMPTS_AT_ONCE = 16


def score_references(
    path: Path,
    prompts: Sequence[Prompt],
    load_model: Callable[[], LanguageModel],
    adapter: str | None = None,
) -> bool:
    """Appends the cross-entropy of each prompt's references to `path`; returns whether anything was left to do.

    A row holds the prompt's id, the tokens of its references (turn ends included) and minus their summed
    log-probability in nats. References longer than the model's context are left out; a prompt without any has 0
    tokens. Prompts are scored one by one, so that a continued file is the same as an uninterrupted one. Rows that are
    damaged, or of another adapter than `adapter` begins the hash of, are scored again, with a warning.
    """
    from polychromic.training.rollouts import fitting_references

    done = _kept(path, adapter)
    left = [prompt for prompt in prompts if prompt.references and prompt.id not in done]
    if not left:
        return False
    language_model = load_model()
    sequences = fitting_references(language_model, left, language_model.context_length).by_prompt
    for start in range(0, len(left), _PROMPTS_AT_ONCE):
        chunk = left[start : start + _PROMPTS_AT_ONCE]
        scores = (_score(language_model, one.id, sequences.get(one.id, [])) for one in chunk)
        append_jsonl(path, [sealed({**score, "adapter": adapter}) for score in scores])
    return True


def read_perplexities(path: Path) -> dict[str, float]:
    """Reads the perplexity of the references by prompt id: exp of the mean cross-entropy over all their tokens.

    Raises DataError where a row is damaged.
    """
    found = scan_jsonl(path)
    if found.faults:
        raise DataError(f"{path}: {found.faults[0]}; `polychromic run` or `evaluate` scores it again")
    rows = [row for _, row in found.rows if row["n_tokens"]]
    return {row["prompt_id"]: math.exp(row["cross_entropy"] / row["n_tokens"]) for row in rows}


def _kept(path: Path, adapter: str | None) -> set[str]:
    """Takes damaged rows off the file, and returns the ids of the prompts whose rows are kept."""
    found = scan_jsonl(path)
    kept = {row["prompt_id"]: row for _, row in found.rows if row.get("adapter") in (None, adapter)}
    if len(kept) < len(found.rows) or found.faults:
        logger.warning("%s: rows damaged, doubled or of another adapter are scored again", path)
        write_text(path, "".join(strict_json(sealed(row)) + "\n" for row in kept.values()))
    return set(kept)


def _score(
    language_model: LanguageModel, prompt_id: str, sequences: Sequence[TokenSequence]
) -> dict[str, Any]:
    import torch

    from polychromic.models.logprobs import answer_logprobs

    nats = 0.0
    if sequences:
        with torch.inference_mode():
            scored = answer_logprobs(language_model, sequences)
        nats = -float((scored.logprobs_BT * scored.mask_BT).double().sum())
    return {
        "prompt_id": prompt_id,
        "n_tokens": sum(sequence.n_answer for sequence in sequences),
        "cross_entropy": nats,
    }


_AUDITED_PROMPTS = 100
_KEYS_OF_CODE_TASKS = {"entry_point", "test_list", "canonical_solution"}
"""Keys that HumanEval, MBPP and files like them carry beside the prompt."""
_UNITS = {"unicode": "Unicode words and marks", "characters": "characters", "code": "tokens of Python code"}

RowsByArmSeed = Mapping[tuple[str, int], Sequence[GenerationRow]]
ExtraByArmSeed = Mapping[tuple[str, int], Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class TextUnits:
    """The units that lexical measures count, and the reason where they were chosen here."""

    tokens: str | Tokenizer
    chosen: str = ""

    def notes(self) -> list[ResultWarning]:
        """Tells a reader who expects words what is counted instead."""
        if not self.chosen or self.tokens == "words":
            return []
        text = f"measures of texts count {_UNITS[str(self.tokens)]} ({self.chosen}); evaluation.tokens chooses others"
        return [ResultWarning("units of text", "", text)]


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparison, and the values prompt by prompt that it was made from."""

    comparison: Comparison
    study: Study


def recorded_audit(folder: RunFolder) -> CheckerAudit | None:
    """Reads what an earlier comparison in the folder says of its checker; None where there is none."""
    recorded = read_json(folder.comparison).get("checker") if folder.comparison.exists() else None
    if recorded is None:
        return None
    controls = {
        name: ControlResult(**one | {"pass_rate": math.nan if one["pass_rate"] is None else one["pass_rate"]})
        for name, one in recorded["controls"].items()
    }
    return CheckerAudit(**recorded | {"controls": controls})


def compare_run(
    experiment: Experiment, folder: RunFolder, task: Task, *, audit: CheckerAudit | None = None
) -> Compared:
    """Measures what every arm and seed generated and compares the arms. An `audit` of the checker replaces a new one.

    Raises DataError where an arm and seed is not trained or sampled yet, or what was written is not whole any more.
    """
    notes, chosen_late = late_changes(experiment, folder)
    untrained, sampled = experiment.untrained_arm, experiment.jobs
    if untrained and not folder.arm(untrained, experiment.seeds[0]).generations.exists():
        # A run of a version that did not sample it is still compared.
        sampled = [(arm, seed) for arm, seed in sampled if arm != untrained]
        untrained = None
        text = "the untrained model was not sampled in this run; run it again"
        notes = [*notes, ResultWarning("untrained model", "", text)]
    rows = {
        (arm, seed): read_collected(
            collection_plan(experiment, arm, seed, folder, task), folder.arm(arm, seed).generations
        )
        for arm, seed in sampled
    }
    primary_sampling = experiment.evaluation.sampling_parameters()[0].label
    extra = {
        key: {METRIC: values} for key in rows if (values := read_perplexities(folder.arm(*key).references))
    }
    return compare_rows(
        experiment,
        rows,
        task,
        primary_sampling=primary_sampling,
        audit=audit,
        extra=extra,
        notes=notes,
        chosen_late=chosen_late,
        untrained=untrained,
    )


def compare_rows(
    experiment: Experiment | ExternalExperiment,
    rows: RowsByArmSeed,
    task: Task,
    *,
    primary_sampling: str,
    audit: CheckerAudit | None = None,
    extra: ExtraByArmSeed | None = None,
    notes: Sequence[ResultWarning] = (),
    chosen_late: Sequence[str] = (),
    untrained: str | None = None,
) -> Compared:
    """Measures rows as the experiment says, compares its arms, and audits its checker (or takes `audit`).

    `untrained` names the arm that is shown and not judged.
    """
    settings = experiment.evaluation
    leakage = find_leakage(*_evaluated_and_training_prompts(experiment, task, rows))
    rows = _without_prompts(rows, leakage.repeated or {})
    of_baseline = [members for (arm, _), members in rows.items() if arm == experiment.comparison.baseline]
    units = text_units(experiment, task, [row.text for members in of_baseline for row in members])
    apart = experiment.task.thinking == "apart"
    of_thinking = thinking_measures(rows, primary_sampling, units.tokens) if apart else {}
    same = SameAnswers.of(task, settings.split)
    tables = measure_arms(
        rows,
        pass_threshold=task.pass_threshold,
        same=same,
        embedder=_embedder(settings),
        tokens=units.tokens,
        metrics=settings.metrics,
        extra={key: {**(extra or {}).get(key, {}), **of_thinking.get(key, {})} for key in rows},
        workers=experiment.run.workers,
    )
    comparison = compare(
        tables,
        baseline=experiment.comparison.baseline,
        criteria=experiment.comparison.levels(),
        primary_sampling=primary_sampling,
        audit=audit or _audit(task, experiment, rows),
        equal_length=at_equal_length(
            {key: found for key, found in rows.items() if key[0] != untrained},
            baseline=experiment.comparison.baseline,
            primary_sampling=primary_sampling,
            tokens=units.tokens,
            workers=experiment.run.workers,
        ),
        notes=[
            *partition_warnings(same.equivalence, list(same.prompts.values()), of_baseline),
            *unlabelled_warnings(tables),
            *leakage.warnings(),
            *notes,
            *thinking_warnings(rows, measured_apart=apart),
            *units.notes(),
            *sandbox_notes(row for members in rows.values() for row in members),
            *long_texts(rows, units.tokens),
        ],
        chosen_late=chosen_late,
        untrained=untrained,
    )
    sameness = sameness_between(joint_labels(rows, same, primary_sampling))
    return Compared(replace(comparison, sameness=sameness), Study.of(tables))


def _without_prompts(rows: RowsByArmSeed, left_out: Collection[str]) -> RowsByArmSeed:
    return {key: [row for row in members if row.prompt_id not in left_out] for key, members in rows.items()}


def _embedder(settings: EvaluationSettings) -> Embedder | None:
    if settings.embedder is None:
        return None
    from polychromic.diversity.embedders import load_embedder

    return load_embedder(settings.embedder)


def long_texts(rows: RowsByArmSeed, tokens: str | Tokenizer) -> list[ResultWarning]:
    """Warns where a measure reads only the start of texts, and of how many."""
    # No text has more tokens than characters, and most have fewer characters than that.
    long = [row.text for members in rows.values() for row in members if len(row.text) > ROUGE_L_TOKENS]
    n = sum(len(TokenOptions(tokens).split([text])[0]) > ROUGE_L_TOKENS for text in long)
    if not n:
        return []
    text = f"ROUGE-L reads the first {ROUGE_L_TOKENS:,} tokens of {plural(n, 'longer text')}"
    return [ResultWarning("long texts", "", text)]


def text_units(experiment: Experiment | ExternalExperiment, task: Task, texts: Sequence[str]) -> TextUnits:
    """Returns the units that `evaluation.tokens` names; for `auto` those that suit the task, or else the baseline's
    texts.

    Raises ConfigError where the model's tokens are asked for and there is no model.
    """
    stated = experiment.evaluation.tokens
    if stated == "model":
        return TextUnits(_model_tokens(experiment))
    if stated != "auto":
        return TextUnits(stated)
    if experiment.task.units:
        return TextUnits(*experiment.task.units)
    meta_keys = {key for prompt in task.prompts(experiment.evaluation.split) for key in prompt.meta}
    if found := sorted(meta_keys & _KEYS_OF_CODE_TASKS):
        return TextUnits("code", f"prompts with {found[0]} ask for Python code")
    return TextUnits(*choose_tokens(texts))


def _evaluated_and_training_prompts(
    experiment: Experiment | ExternalExperiment, task: Task, rows: RowsByArmSeed
) -> tuple[list[Prompt], list[Prompt]]:
    """Returns the prompts that have generations, and those that arms were trained on: none where no arm is trained, or
    where files of generations come without the training prompts."""
    answered = {row.prompt_id for members in rows.values() for row in members}
    evaluated = [prompt for prompt in task.prompts(experiment.evaluation.split) if prompt.id in answered]
    if isinstance(experiment, Experiment):
        trained = any(not experiment.arm(arm).untrained for arm in experiment.arms)
    else:
        files = experiment.task.files
        evaluated_file, training_file = files.get(experiment.evaluation.split), files.get("train")
        trained = not files or (
            training_file is not None and training_file != evaluated_file and training_file.is_file()
        )
    return evaluated, task.prompts("train") if trained else []


def _model_tokens(experiment: Experiment | ExternalExperiment) -> ModelTokens:
    if not isinstance(experiment, Experiment):
        raise ConfigError(
            "evaluation.tokens is model, but files of generations come without a model; expected auto, words, "
            "characters, unicode or code"
        )
    from polychromic.models.loading import load_tokenizer

    settings = experiment.arm(experiment.comparison.baseline).model
    return ModelTokens(load_tokenizer(settings), Path(settings.source).name)


def _audit(
    task: Task, experiment: Experiment | ExternalExperiment, rows: RowsByArmSeed
) -> CheckerAudit | None:
    """Audits the checker on controls; None for a task that has no checker."""
    prompts = task.prompts(experiment.evaluation.split)[:_AUDITED_PROMPTS]
    passed = {
        row.prompt_id: row.text
        for (arm, _), members in rows.items()
        if arm == experiment.comparison.baseline
        for row in members
        if row.reward is not None and row.reward >= task.pass_threshold
    }
    audit = audit_checker(task.check, prompts, pass_threshold=task.pass_threshold, replies=passed)
    judged = any(control.unjudged < control.n for control in audit.controls.values())
    return audit if judged else None
