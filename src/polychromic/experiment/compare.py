"""From the generations of a run to its comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polychromic.diversity.overlap import ROUGE_L_TOKENS
from polychromic.diversity.tokens import ModelTokens, Tokenizer, TokenOptions, choose_tokens
from polychromic.errors import ConfigError
from polychromic.evaluation.audit_checker import CheckerAudit, ControlResult, audit_checker
from polychromic.evaluation.collect import read_collected
from polychromic.evaluation.compare import Comparison, compare
from polychromic.evaluation.equal_length import at_equal_length
from polychromic.evaluation.leakage import find_leakage
from polychromic.evaluation.measure import measure_arms
from polychromic.evaluation.study import Study
from polychromic.evaluation.thinking import thinking_cautions, thinking_measures
from polychromic.evaluation.wording import Caution, plural
from polychromic.experiment.config import Experiment
from polychromic.experiment.continuing import late_changes
from polychromic.experiment.folder import RunFolder
from polychromic.experiment.jobs import collection_plan
from polychromic.experiment.references import METRIC as PERPLEXITY
from polychromic.experiment.references import read_perplexities
from polychromic.files import read_json
from polychromic.records import GenerationRow, Prompt
from polychromic.tasks.base import Task
from polychromic.tasks.settings import FileSettings

if TYPE_CHECKING:
    from polychromic.diversity import Embedder
    from polychromic.evaluation.settings import EvaluationSettings
    from polychromic.experiment.given import GivenExperiment

_AUDITED_PROMPTS = 100
_KEYS_OF_CODE_TASKS = {"entry_point", "test_list", "canonical_solution"}
"""What HumanEval, MBPP and files like them carry beside the prompt."""
_UNITS = {"unicode": "Unicode words and marks", "characters": "characters", "code": "tokens of Python code"}

RowsByArmSeed = Mapping[tuple[str, int], Sequence[GenerationRow]]
ExtraByArmSeed = Mapping[tuple[str, int], Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class TextUnits:
    """What lexical measures count, and why where nobody said so."""

    tokens: str | Tokenizer
    chosen: str = ""

    def notes(self) -> list[Caution]:
        """What a reader has to know who expects words."""
        if not self.chosen or self.tokens == "words":
            return []
        text = f"measures of texts count {_UNITS[str(self.tokens)]} ({self.chosen}); evaluation.tokens chooses others"
        return [Caution("units of text", "", text)]


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparison, and the values prompt by prompt that it was made from."""

    comparison: Comparison
    study: Study


def recorded_audit(folder: RunFolder) -> CheckerAudit | None:
    """What an earlier comparison in the folder says of its checker; None where there is none."""
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
    """Measure what every arm and seed generated and compare the arms. `audit` of the checker stands in for a new one.

    Raises DataError where an arm and seed is not trained or sampled yet, or what was written is not whole any more.
    """
    notes, chosen_late = late_changes(experiment, folder)
    untrained, sampled = experiment.untrained_arm, experiment.jobs
    if untrained and not folder.generations(untrained, experiment.seeds[0]).exists():
        # A run of a version that did not sample it is still compared.
        sampled = [(arm, seed) for arm, seed in sampled if arm != untrained]
        untrained = None
        text = "the untrained model was not sampled in this run; run it again"
        notes = [*notes, Caution("untrained model", "", text)]
    rows = {
        (arm, seed): read_collected(
            collection_plan(experiment, arm, seed, folder, task), folder.generations(arm, seed)
        )
        for arm, seed in sampled
    }
    headline = experiment.evaluation.sampling_parameters()[0].label
    extra = {
        key: {PERPLEXITY: values} for key in rows if (values := read_perplexities(folder.references(*key)))
    }
    return compare_rows(
        experiment,
        rows,
        task,
        headline=headline,
        audit=audit,
        extra=extra,
        notes=notes,
        chosen_late=chosen_late,
        untrained=untrained,
    )


def compare_rows(
    experiment: Experiment | GivenExperiment,
    rows: RowsByArmSeed,
    task: Task,
    *,
    headline: str,
    audit: CheckerAudit | None = None,
    extra: ExtraByArmSeed | None = None,
    notes: Sequence[Caution] = (),
    chosen_late: Sequence[str] = (),
    untrained: str | None = None,
) -> Compared:
    """Measure rows as the experiment says, compare its arms, and ask what its checker is worth (or take `audit`).

    `untrained` names the arm that is shown and not judged.
    """
    settings = experiment.evaluation
    leakage = find_leakage(*_evaluated_and_training_prompts(experiment, task, rows))
    rows = {
        key: [row for row in members if row.prompt_id not in (leakage.repeated or {})]
        for key, members in rows.items()
    }
    of_baseline = [members for (arm, _), members in rows.items() if arm == experiment.comparison.baseline]
    units = text_units(experiment, task, [row.text for members in of_baseline for row in members])
    apart = experiment.task.thinking == "apart"
    of_thinking = thinking_measures(rows, headline, units.tokens) if apart else {}
    tables = measure_arms(
        rows,
        pass_threshold=task.pass_threshold,
        cluster_distance=settings.cluster_distance,
        embedder=_embedder(settings),
        tokens=units.tokens,
        extra={key: {**(extra or {}).get(key, {}), **of_thinking.get(key, {})} for key in rows},
        workers=experiment.run.workers,
    )
    comparison = compare(
        tables,
        baseline=experiment.comparison.baseline,
        criteria=experiment.comparison.levels(),
        headline=headline,
        audit=audit or _audit(task, experiment, rows),
        equal_length=at_equal_length(
            {key: found for key, found in rows.items() if key[0] != untrained},
            baseline=experiment.comparison.baseline,
            headline=headline,
            tokens=units.tokens,
            workers=experiment.run.workers,
        ),
        notes=[
            *leakage.cautions(),
            *notes,
            *thinking_cautions(rows, measured_apart=apart),
            *units.notes(),
            *long_texts(rows, units.tokens),
        ],
        chosen_late=chosen_late,
        untrained=untrained,
    )
    return Compared(comparison, Study.of(tables))


def _embedder(settings: EvaluationSettings) -> Embedder | None:
    if settings.embedder is None:
        return None
    from polychromic.diversity.embedder import load_embedder

    return load_embedder(settings.embedder)


def long_texts(rows: RowsByArmSeed, tokens: str | Tokenizer) -> list[Caution]:
    """Which measure reads only the start of how many texts."""
    # No text has more tokens than characters, and most have fewer characters than that.
    long = [row.text for members in rows.values() for row in members if len(row.text) > ROUGE_L_TOKENS]
    n = sum(len(TokenOptions(tokens).split([text])[0]) > ROUGE_L_TOKENS for text in long)
    if not n:
        return []
    text = f"ROUGE-L reads the first {ROUGE_L_TOKENS:,} tokens of {plural(n, 'longer text')}"
    return [Caution("long texts", "", text)]


def text_units(experiment: Experiment | GivenExperiment, task: Task, texts: Sequence[str]) -> TextUnits:
    """The units that `evaluation.tokens` names; for `auto` those that suit the task, or else the baseline's texts.

    Raises ConfigError where the model's tokens are asked for and there is no model.
    """
    stated = experiment.evaluation.tokens
    if stated == "model":
        return TextUnits(_model_tokens(experiment))
    if stated != "auto":
        return TextUnits(stated)
    if task.name == "arithmetic":
        return TextUnits("characters", "expressions have no spaces")
    meta_keys = {key for prompt in task.prompts(experiment.evaluation.split) for key in prompt.meta}
    if found := sorted(meta_keys & _KEYS_OF_CODE_TASKS):
        return TextUnits("code", f"prompts with {found[0]} ask for Python code")
    return TextUnits(*choose_tokens(texts))


def _evaluated_and_training_prompts(
    experiment: Experiment | GivenExperiment, task: Task, rows: RowsByArmSeed
) -> tuple[list[Prompt], list[Prompt]]:
    """The prompts that have generations, and those that arms were trained on: none where no arm is trained, or where
    files of generations come without the training prompts."""
    answered = {row.prompt_id for members in rows.values() for row in members}
    evaluated = [prompt for prompt in task.prompts(experiment.evaluation.split) if prompt.id in answered]
    if isinstance(experiment, Experiment):
        trained = any(not experiment.arm(arm).untrained for arm in experiment.arms)
    else:
        files = experiment.task if isinstance(experiment.task, FileSettings) else None
        evaluated_file = files and getattr(files, experiment.evaluation.split)
        trained = files is None or (files.train != evaluated_file and Path(files.train).is_file())
    return evaluated, task.prompts("train") if trained else []


def _model_tokens(experiment: Experiment | GivenExperiment) -> ModelTokens:
    if not isinstance(experiment, Experiment):
        raise ConfigError(
            "evaluation.tokens is model, but files of generations come without a model; expected auto, words, "
            "characters, unicode or code"
        )
    from polychromic.models.loading import load_tokenizer

    settings = experiment.arm(experiment.comparison.baseline).model
    return ModelTokens(load_tokenizer(settings), Path(settings.source).name)


def _audit(task: Task, experiment: Experiment | GivenExperiment, rows: RowsByArmSeed) -> CheckerAudit | None:
    """What the checker says of controls, None for a task that has no checker."""
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
