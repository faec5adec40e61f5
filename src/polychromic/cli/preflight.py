"""`polychromic preflight`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from polychromic.cli.options import ExperimentFile, Out, Overrides


def preflight(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    out: Out = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Check in a minute what a run would find out in hours: model, data, checker, gradients, memory, time, cost."""
    from polychromic.experiment.preflight import preflight as check
    from polychromic.experiment.preflight.show import show_check
    from polychromic.experiment.run import as_experiment
    from polychromic.files import strict_json

    chosen = as_experiment(experiment, overrides or ())
    report = check(chosen, out / chosen.name, (lambda _: None) if as_json else show_check)
    if as_json:
        typer.echo(json.dumps(json.loads(strict_json(report.to_json())), indent=2))
    if report.failed:
        raise typer.Exit(1)
