"""Refuses to go on where the sampled baseline already rules out what the file asks for."""

from __future__ import annotations

import logging

import numpy as np

from polychromic.diversity import MeasureSettings
from polychromic.errors import ConfigError
from polychromic.evaluation.criteria import impossible_criteria
from polychromic.evaluation.group_metrics import MeasureOptions
from polychromic.evaluation.measure import SameAnswers, measure_rows
from polychromic.experiment.compare import text_units
from polychromic.experiment.config import Experiment
from polychromic.generations import scan_generations
from polychromic.run_folder import RunFolder
from polychromic.tasks.base import build_task

logger = logging.getLogger(__name__)


def refuse_impossible_criteria(experiment: Experiment, folder: RunFolder) -> None:
    """Raises ConfigError where the sampled baseline rules out a criterion that the file states and work is left to do.

    Default criteria that are ruled out are only warned about, since nobody asked for them, and all are with
    `comparison.if_impossible: report`. Metrics that need an embedder are left to the comparison.
    """
    if not _work_is_left(experiment, folder):
        return
    levels = experiment.comparison.levels()
    criteria = [criterion for level in levels.values() for criterion in level]
    sentences = impossible_criteria(criteria, baseline_means(experiment, folder))
    if not sentences:
        return
    comparison = experiment.comparison
    text = f"the baseline arm {comparison.baseline!r} rules out what comparison asks for: {'; '.join(sentences)}"
    if (comparison.minimum or comparison.strong) and comparison.if_impossible == "stop":
        raise ConfigError(
            f"{text}. State another criterion (or a harder task), or go on with comparison.if_impossible=report; "
            "what was done is kept"
        )
    logger.warning("%s; it is reported as impossible", text)


def baseline_means(experiment: Experiment, folder: RunFolder) -> dict[str, float]:
    """Averages the criteria's metrics at the primary sampling over the seeds sampled so far; empty without any."""
    primary_sampling = experiment.evaluation.sampling_parameters()[0].label
    task = build_task(experiment.task)
    same = SameAnswers.of(task, experiment.evaluation.split)
    metrics = {criterion.metric for level in experiment.comparison.levels().values() for criterion in level}
    means_by_metric: dict[str, list[float]] = {}
    for seed in experiment.seeds:
        # Damaged rows of seeds whose turn has not come yet are sampled again then.
        rows = scan_generations(folder.arm(experiment.comparison.baseline, seed).generations).rows
        rows = [row for row in rows if row.sampling.label == primary_sampling]
        if not rows:
            continue
        tokens = text_units(experiment, task, [row.text for row in rows]).tokens
        options = MeasureOptions(task.pass_threshold, measures=MeasureSettings(tokens=tokens))
        sampled = measure_rows(rows, options, same=same).sampled[primary_sampling]
        for key in metrics:
            values_P = sampled.metric(key)
            if values_P is not None and not np.isnan(values_P).all():
                means_by_metric.setdefault(key, []).append(float(np.nanmean(values_P)))
    return {key: float(np.mean(means)) for key, means in means_by_metric.items()}


def _work_is_left(experiment: Experiment, folder: RunFolder) -> bool:
    others = [arm for arm in experiment.arms if arm != experiment.comparison.baseline]
    places = [folder.arm(arm, seed) for arm in others for seed in experiment.seeds]
    return any(not place.generations.exists() and not place.is_trained for place in places)
