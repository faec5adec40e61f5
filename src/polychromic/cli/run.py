"""`polychromic run`: the main job."""

from __future__ import annotations

from pathlib import Path

from polychromic.cli.options import ExperimentFile, Fresh, Out, Overrides, Yes, show_result


def run(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    fresh: Fresh = False,
    yes: Yes = False,
) -> None:
    """Train every arm and seed, evaluate, compare and report. Continues where an earlier start stopped; adds seeds,
    arms, prompts or samples to a finished run."""
    from polychromic.experiment.run import run as run_experiment

    show_result(run_experiment(experiment, overrides or (), out=out, fresh=fresh, yes=yes))
