"""Compares the arms of a run folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polychromic.diversity import MeasureSettings, load_embedder
from polychromic.diversity.overlap import ROUGE_L_TOKENS
from polychromic.diversity.tokens import ModelTokens, Tokenizer, TokenOptions, choose_tokens
from polychromic.errors import ConfigError
from polychromic.evaluation.audits.checker import CheckerAudit, ControlResult, audit_checker, find_leakage
from polychromic.evaluation.audits.partition import PartitionAudit, answers_of, audit_partition, unlabelled_warnings
from polychromic.evaluation.audits.threshold import OtherDistances, threshold_warnings
from polychromic.evaluation.collect import read_collected
from polychromic.evaluation.compare import Comparison, compare
from polychromic.evaluation.counting.sameness import joint_labels, sameness_between
from polychromic.evaluation.criteria import Levels, ResultWarning, plural
from polychromic.evaluation.group_metrics import MeasureOptions
from polychromic.evaluation.lengths import at_equal_length, thinking_measures, thinking_warnings
from polychromic.evaluation.measure import SameAnswers, measure_arms, measure_rows
from polychromic.evaluation.settings import EvaluationSettings
from polychromic.evaluation.tables import PromptTable, SampledTable, Study
from polychromic.evaluation.warnings import sandbox_notes
from polychromic.experiment.config import Experiment
from polychromic.experiment.jobs import collection_plan
from polychromic.experiment.references import METRIC, read_perplexities
from polychromic.experiment.resuming.continuing import late_changes
from polychromic.files import read_json
from polychromic.records import GenerationRow, Prompt
from polychromic.run_folder import RunFolder
from polychromic.tasks.base import Task
from polychromic.tasks.equivalence import LazyEmbedded, second_equivalence_of

if TYPE_CHECKING:
    from polychromic.experiment.external import ExternalExperiment

logger = logging.getLogger(__name__)

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
        name: ControlResult(**result | {"pass_rate": math.nan if result["pass_rate"] is None else result["pass_rate"]})
        for name, result in recorded["controls"].items()
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
    extra = {key: {METRIC: values} for key in rows if (values := read_perplexities(folder.arm(*key).references))}
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
    """Measures rows as the experiment says, compares its arms, and audits its checker (or takes `audit`). `untrained`
    names the arm that is shown and not judged."""
    settings, baseline = experiment.evaluation, experiment.comparison.baseline
    leakage = find_leakage(*_evaluated_and_training_prompts(experiment, task, rows))
    repeated = leakage.repeated or {}
    rows = {key: [row for row in members if row.prompt_id not in repeated] for key, members in rows.items()}
    extra = {key: _without(repeated, columns) for key, columns in (extra or {}).items()}
    of_baseline = [members for (arm, _), members in rows.items() if arm == baseline]
    units = text_units(experiment, task, [row.text for members in of_baseline for row in members])
    apart = experiment.task.thinking == "apart"
    of_thinking = thinking_measures(rows, primary_sampling, units.tokens) if apart else {}
    same = _same_answers(task, settings, primary_sampling)
    tables = measure_arms(
        rows,
        pass_threshold=task.pass_threshold,
        same=same,
        embedder=None if settings.embedder is None else load_embedder(settings.embedder),
        tokens=units.tokens,
        metrics=settings.metrics,
        extra={key: {**extra.get(key, {}), **of_thinking.get(key, {})} for key in rows},
        workers=experiment.run.workers,
    )
    criteria = experiment.comparison.levels()
    comparison = compare(
        tables,
        baseline=baseline,
        criteria=criteria,
        primary_sampling=primary_sampling,
        audit=audit or _audit(task, experiment, rows),
        partition=_audit_partition(task, same, of_baseline),
        equal_length=at_equal_length(
            {key: by_prompt for key, by_prompt in rows.items() if key[0] != untrained},
            baseline=baseline,
            primary_sampling=primary_sampling,
            tokens=units.tokens,
            workers=experiment.run.workers,
        ),
        notes=[*unlabelled_warnings(tables), *leakage.warnings(), *notes, *_warnings_of_texts(rows, units, apart)],
        chosen_late=chosen_late,
        untrained=untrained,
        trained=not isinstance(experiment, Experiment) or bool(experiment.trained_arms),
    )
    comparison = _at_other_distances(comparison, task, same, tables, rows, criteria)
    sameness = sameness_between(joint_labels(rows, same, primary_sampling))
    return Compared(replace(comparison, sameness=sameness), Study.of(tables))


def _without(prompts: Mapping[str, str], columns: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Returns values by metric and prompt without those of the given prompts."""
    return {
        key: {prompt: x for prompt, x in column.items() if prompt not in prompts} for key, column in columns.items()
    }


def _same_answers(task: Task, settings: EvaluationSettings, primary_sampling: str) -> SameAnswers:
    """Returns the task's partition, and at the primary sampling the second one, which training never saw."""
    second = second_equivalence_of(task, settings.embedder)
    return replace(SameAnswers.of(task, settings.split), second=second, second_at=primary_sampling)


def _warnings_of_texts(rows: RowsByArmSeed, units: TextUnits, thinking_apart: bool) -> list[ResultWarning]:
    """Returns what to beware of in the texts: their thinking, units, protection when they ran, and lengths."""
    return [
        *thinking_warnings(rows, measured_apart=thinking_apart),
        *units.notes(),
        *sandbox_notes(row for members in rows.values() for row in members),
        *long_texts(rows, units.tokens),
    ]


def _at_other_distances(
    comparison: Comparison,
    task: Task,
    same: SameAnswers,
    tables: Mapping[tuple[str, int], PromptTable],
    rows: RowsByArmSeed,
    criteria: Levels,
) -> Comparison:
    """Adds the verdict at other distances where embeddings divide the answers."""
    if not isinstance(same.equivalence, LazyEmbedded):
        return comparison
    embedded = same.equivalence.embedded
    at_distances = OtherDistances(embedded, same, task.pass_threshold).judge(comparison, tables, rows, criteria)
    warnings = threshold_warnings(at_distances, embedded.distance) if at_distances else []
    return replace(comparison, at_distances=at_distances, warnings=(*comparison.warnings, *warnings))


def measure_sampled(
    experiment: Experiment, task: Task, rows: Sequence[GenerationRow], same: SameAnswers
) -> SampledTable:
    """Measures rows of one sampling setting, but for what needs an embedder."""
    tokens = text_units(experiment, task, [row.text for row in rows]).tokens
    options = MeasureOptions(task.pass_threshold, measures=MeasureSettings(tokens=tokens))
    return next(iter(measure_rows(rows, options, same=same).sampled.values()))


def mean_over_prompts(table: SampledTable, metric: str) -> float:
    """Averages a metric over the prompts where it is defined; nan where there is none, or it was not measured."""
    values_P = table.metric(metric)
    return math.nan if values_P is None or np.isnan(values_P).all() else float(np.nanmean(values_P))


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
    if code_keys := sorted(meta_keys & _KEYS_OF_CODE_TASKS):
        return TextUnits("code", f"prompts with {code_keys[0]} ask for Python code")
    return TextUnits(*choose_tokens(texts))


def _evaluated_and_training_prompts(
    experiment: Experiment | ExternalExperiment, task: Task, rows: RowsByArmSeed
) -> tuple[list[Prompt], list[Prompt]]:
    """Returns the prompts that have generations, and those that arms were trained on: none where no arm is trained, or
    where files of generations come without the training prompts."""
    answered = {row.prompt_id for members in rows.values() for row in members}
    evaluated = [prompt for prompt in task.prompts(experiment.evaluation.split) if prompt.id in answered]
    if isinstance(experiment, Experiment):
        trained = bool(experiment.trained_arms)
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


def _audit_partition(
    task: Task, same: SameAnswers, of_baseline: Sequence[Sequence[GenerationRow]]
) -> PartitionAudit | None:
    """Audits the partition on the answers of the baseline's first seed; None for a task's own canonical form."""
    stated = getattr(task, "same", None)
    return audit_partition(
        same.equivalence,
        list(same.prompts.values()),
        answers_of(next(iter(of_baseline), [])),
        second=same.second,
        references_are_same=stated is not None and stated.references_are_same,
    )


def _audit(task: Task, experiment: Experiment | ExternalExperiment, rows: RowsByArmSeed) -> CheckerAudit | None:
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
    return None if audit.judged_none else audit
