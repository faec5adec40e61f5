"""`polychromic train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polychromic.cli.options import ExperimentFile, Fresh, Out, Overrides, Yes


def train(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm (repeatable).")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Only this seed (repeatable).")] = None,
    out: Out = Path("runs"),
    fresh: Fresh = False,
    yes: Yes = False,
) -> None:
    """Train arms without evaluating them."""
    from polychromic.errors import ConfigError
    from polychromic.experiment.run import as_experiment, do_jobs, working_folder

    chosen = as_experiment(experiment, overrides or ())
    unknown = set(arm or ()) - set(chosen.arms)
    if unknown:
        raise ConfigError(f"--arm {sorted(unknown)[0]}: no such arm; the file has {', '.join(chosen.arms)}")
    others = set(seed or ()) - set(chosen.seeds)
    if others:
        listed = ", ".join(map(str, chosen.seeds))
        raise ConfigError(
            f"--seed {min(others)}: no such seed; the file has {listed} (the override seeds=[...] changes them)"
        )
    with working_folder(chosen, out, fresh=fresh, yes=yes) as folder:
        do_jobs(chosen, folder, ("train",), arms=arm, seeds=seed)
    typer.echo(f"adapters are in {folder.root}")
