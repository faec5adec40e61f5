"""From the generations of a run to its comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polychromic.errors import DataError
from polychromic.evaluation.audit_checker import CheckerAudit, audit_checker
from polychromic.evaluation.cautions import Caution
from polychromic.evaluation.collect import read_generations
from polychromic.evaluation.compare import Comparison, compare
from polychromic.evaluation.equal_length import at_equal_length
from polychromic.evaluation.measure import measure_arms
from polychromic.evaluation.study import Study
from polychromic.experiment.config import Experiment
from polychromic.experiment.continuing import late_changes
from polychromic.experiment.folder import RunFolder
from polychromic.experiment.references import METRIC as PERPLEXITY
from polychromic.experiment.references import read_perplexities
from polychromic.experiment.tasks import build_task
from polychromic.records import GenerationRow
from polychromic.tasks.base import Task

if TYPE_CHECKING:
    from polychromic.experiment.given import GivenExperiment

_AUDITED_PROMPTS = 100

RowsByArmSeed = Mapping[tuple[str, int], Sequence[GenerationRow]]
ExtraByArmSeed = Mapping[tuple[str, int], Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparison, and the values prompt by prompt that it was made from."""

    comparison: Comparison
    study: Study


def compare_run(experiment: Experiment, folder: RunFolder) -> Compared:
    """Measure what every arm and seed generated and compare the arms.

    Raises DataError where an arm and seed has no generations yet.
    """
    rows = {
        (arm, seed): read_generations(folder.generations(arm, seed))
        for arm in experiment.arms
        for seed in experiment.seeds
    }
    missing = [f"{arm}/seed-{seed}" for (arm, seed), found in rows.items() if not found]
    if missing:
        raise DataError(
            f"{folder.root}: no generations of {', '.join(missing)}; `polychromic run` or `evaluate` makes them"
        )
    headline = experiment.evaluation.sampling_parameters()[0].label
    extra = {
        key: {PERPLEXITY: values} for key in rows if (values := read_perplexities(folder.references(*key)))
    }
    notes, chosen_late = late_changes(experiment, folder)
    return compare_rows(
        experiment,
        rows,
        build_task(experiment.task),
        headline=headline,
        extra=extra,
        notes=notes,
        chosen_late=chosen_late,
    )


def compare_rows(
    experiment: Experiment | GivenExperiment,
    rows: RowsByArmSeed,
    task: Task,
    *,
    headline: str,
    extra: ExtraByArmSeed | None = None,
    notes: Sequence[Caution] = (),
    chosen_late: Sequence[str] = (),
) -> Compared:
    """Measure rows as the experiment says, compare its arms, and ask what its checker is worth."""
    settings = experiment.evaluation
    embedder = None
    if settings.embedder is not None:
        from polychromic.diversity.embedder import load_embedder

        embedder = load_embedder(settings.embedder)
    tables = measure_arms(
        rows,
        pass_threshold=task.pass_threshold,
        cluster_distance=settings.cluster_distance,
        embedder=embedder,
        extra=extra,
        workers=experiment.run.workers,
    )
    comparison = compare(
        tables,
        baseline=experiment.comparison.baseline,
        criteria=experiment.comparison.levels(),
        headline=headline,
        audit=_audit(task, experiment, rows),
        equal_length=at_equal_length(
            rows,
            baseline=experiment.comparison.baseline,
            headline=headline,
            workers=experiment.run.workers,
        ),
        notes=notes,
        chosen_late=chosen_late,
    )
    return Compared(comparison, Study.of(tables))


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
