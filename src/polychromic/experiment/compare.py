"""From the generations of a run to its comparison."""

from __future__ import annotations

from polychromic.errors import DataError
from polychromic.evaluation.collect import read_generations
from polychromic.evaluation.compare import Comparison, compare
from polychromic.evaluation.measure import measure_arms
from polychromic.experiment.config import Experiment
from polychromic.experiment.folder import RunFolder
from polychromic.experiment.tasks import build_task


def compare_run(experiment: Experiment, folder: RunFolder) -> Comparison:
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
    settings = experiment.evaluation
    embedder = None
    if settings.embedder is not None:
        from polychromic.diversity.embedder import load_embedder

        embedder = load_embedder(settings.embedder)
    tables = measure_arms(
        rows,
        pass_threshold=build_task(experiment.task).pass_threshold,
        cluster_distance=settings.cluster_distance,
        embedder=embedder,
        workers=experiment.run.workers,
    )
    return compare(
        tables,
        baseline=experiment.comparison.baseline,
        criteria=experiment.comparison.levels(),
        headline=settings.sampling_parameters()[0].label,
    )
