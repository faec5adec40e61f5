"""`polychromic evaluate`."""

from __future__ import annotations

from pathlib import Path

from polychromic.cli.options import ExperimentFile, Out, Overrides, show_result


def evaluate(experiment: ExperimentFile, overrides: Overrides = None, out: Out = Path("runs")) -> None:
    """Sample the trained arms, measure and compare them."""
    from polychromic.experiment.folder import open_run_folder
    from polychromic.experiment.run import RunResult, as_experiment, compare_and_report, do_jobs

    chosen = as_experiment(experiment, overrides or ())
    folder = open_run_folder(chosen, out)
    do_jobs(chosen, folder, ("evaluate",))
    show_result(RunResult(folder, compare_and_report(chosen, folder)))
