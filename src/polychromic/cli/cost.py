"""`polychromic cost`."""

from __future__ import annotations

import typer

from polychromic.cli.options import RunFolderPath


def cost(run_folder: RunFolderPath) -> None:
    """Say what a run has cost, what is left to do, and what a percent of gain costs."""
    from polychromic.experiment.cost import run_cost
    from polychromic.experiment.cost_text import cost_lines
    from polychromic.experiment.diagnose import open_finished_or_running

    experiment, folder = open_finished_or_running(run_folder)
    for line in cost_lines(run_cost(experiment, folder)):
        typer.echo(line)
