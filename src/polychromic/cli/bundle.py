"""Verbs around a rented machine: bundle, pack, fetch, plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polychromic.cli.run import ExperimentFile, Fresh, Out, Overrides, RunFolderPath, Yes
from polychromic.files import user_path

if TYPE_CHECKING:
    from polychromic.experiment.config import Experiment
    from polychromic.experiment.planning.run_plan import RunPlan


def bundle(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the bundle is written.", parser=user_path)
    ] = Path(),
    include: Annotated[
        list[Path] | None,
        typer.Option(
            "--include",
            metavar="PATH",
            help="A file or folder that the experiment's own code opens by itself (repeatable).",
            parser=user_path,
        ),
    ] = None,
    emit: Annotated[
        Path | None,
        typer.Option(
            "--emit", metavar="SKY.yaml", help="Also write a SkyPilot task that runs the bundle.", parser=user_path
        ),
    ] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", metavar="NAME", help="With --emit: the bucket of the run folder.")
    ] = None,
) -> None:
    """Pack an experiment for another machine: code, locked versions, data with hashes, and a script that runs it. The
    same bytes every time; a secret in any file is refused."""
    from polychromic.errors import ConfigError
    from polychromic.experiment.bundle.pack import bundle_name, make_bundle
    from polychromic.experiment.run import as_experiment

    chosen = as_experiment(experiment, overrides or ())
    if storage is not None and emit is None:
        raise ConfigError("--storage names the bucket of a SkyPilot task; add --emit SKY.yaml")
    task = None if emit is None else _task(chosen, emit, out / bundle_name(chosen), storage)
    made = make_bundle(chosen, out, include or ())  # before the task is written, which names it
    if emit is not None and task is not None:
        _emit(chosen, emit, *task)
    typer.echo(f"{made.path}: {made.files} files, {made.bytes / 1e6:.1f} MB, sha256 {made.sha256}")
    if made.not_locked:
        typer.echo(f"not locked, for they are not installed here: {', '.join(made.not_locked)}")
    typer.echo(f"there: tar -xzf {made.path.name} && bash {chosen.name}/run.sh")


def _task(
    chosen: Experiment, emit: Path, bundle_path: Path, storage: str | None
) -> tuple[dict[str, Any], list[RunPlan]]:
    """Makes the SkyPilot task, which names the bundle beside it, with the plans that it comes from."""
    from polychromic.errors import ConfigError
    from polychromic.experiment.bundle.sky import fitting_plans, sky_task

    if emit.resolve().parent != bundle_path.resolve().parent:
        raise ConfigError(
            f"--emit {emit}: the task names the bundle beside it; write both to one folder with --out {emit.parent}"
        )
    plans = fitting_plans(chosen)
    return sky_task(chosen, bundle_path.name, plans, storage), plans


def _emit(chosen: Experiment, emit: Path, task: dict[str, Any], plans: list[RunPlan]) -> None:
    """Writes the task, and says what is planned."""
    from polychromic.experiment.bundle.sky import write_sky_task
    from polychromic.experiment.planning.run_plan import plan_lines, plan_notes

    write_sky_task(emit, task, plans)
    for line in (*plan_lines(plans[0]), *plan_notes(chosen)):
        typer.echo(line)
    cap, planned = chosen.budget.max_dollars, plans[0].dollars
    if cap is not None and planned is not None and planned > cap:
        typer.echo(f"warning: planned at ${planned:.2f}; the run will stop at budget.max_dollars = {cap:g}")
    typer.echo(f"{emit}: sky jobs launch {emit.name}")


def pack(run_folder: RunFolderPath) -> None:
    """Pack a run folder for the way home, with a hash of every file; checkpoints stay behind."""
    from polychromic.experiment.bundle.returned import pack_run

    typer.echo(f"to take home: {pack_run(run_folder)}")


def fetch(
    experiment: ExperimentFile,
    returned: Annotated[Path, typer.Argument(metavar="RETURNED", help="NAME.run.tar.gz, or the run folder itself.")],
    overrides: Overrides = None,
    out: Out = Path("runs"),
    fresh: Fresh = False,
    yes: Yes = False,
) -> None:
    """Take in a run that comes back from another machine: every hash is verified, and that it is this experiment's,
    before anything of it is used."""
    from polychromic.experiment.bundle.returned import fetch as take_in
    from polychromic.experiment.run import as_experiment

    folder = take_in(as_experiment(experiment, overrides or ()), returned, out, fresh=fresh, yes=yes)
    typer.echo(f"{folder.root} is whole; polychromic report {folder.root}")


def plan(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    on: Annotated[
        list[str] | None,
        typer.Option("--on", metavar="GPU", help="This device alone (repeatable), such as H100, in detail."),
    ] = None,
) -> None:
    """Compute memory, hours and dollars of a run on one GPU from formulas, before any machine is rented."""
    from polychromic.errors import ConfigError
    from polychromic.experiment.planning.run_plan import (
        overview_lines,
        plan_lines,
        plan_notes,
        plan_run,
        read_lengths,
    )
    from polychromic.experiment.planning.time import HARDWARE
    from polychromic.experiment.run import as_experiment

    unknown = [name for name in on or () if name not in HARDWARE]
    if unknown:
        raise ConfigError(f"--on {unknown[0]}: not known, expected one of {', '.join(HARDWARE)}")
    chosen = as_experiment(experiment, overrides or ())
    lengths = read_lengths(chosen)
    plans = [plan_run(chosen, HARDWARE[name], lengths) for name in on or HARDWARE]
    lines = [line for plan in plans for line in plan_lines(plan)] if on else overview_lines(plans)
    typer.echo("\n".join([*lines, *plan_notes(chosen)]))
