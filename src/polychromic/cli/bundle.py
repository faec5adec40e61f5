"""Verbs around a rented machine: bundle, pack, fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polychromic.cli.run import ExperimentFile, Fresh, Out, Overrides, RunFolderPath, Yes
from polychromic.files import user_path

BundleOut = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Where the bundle is written.", parser=user_path)
]
Include = Annotated[
    list[Path] | None,
    typer.Option(
        "--include",
        metavar="PATH",
        help="A file or folder that the experiment's own code opens by itself (repeatable).",
        parser=user_path,
    ),
]


def bundle(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    out: BundleOut = Path(),
    include: Include = None,
) -> None:
    """Pack an experiment for another machine: code, locked versions, data with hashes, and a script that runs it. The
    same bytes every time; a secret in any file is refused."""
    from polychromic.experiment.bundle.pack import make_bundle
    from polychromic.experiment.run import as_experiment

    chosen = as_experiment(experiment, overrides or ())
    made = make_bundle(chosen, out, include or ())
    typer.echo(f"{made.path}: {made.files} files, {made.bytes / 1e6:.1f} MB, sha256 {made.sha256}")
    if made.not_locked:
        typer.echo(f"not locked, for they are not installed here: {', '.join(made.not_locked)}")
    typer.echo(f"there: tar -xzf {made.path.name} && bash {chosen.name}/run.sh")


def pack(run_folder: RunFolderPath) -> None:
    """Pack a run folder for the way home, with a hash of every file; checkpoints stay behind."""
    from polychromic.experiment.bundle.returned import pack_run

    typer.echo(f"to take home: {pack_run(run_folder)}")


def fetch(
    experiment: ExperimentFile,
    returned: Annotated[
        Path, typer.Argument(metavar="RETURNED", help="NAME.run.tar.gz, or the run folder itself.")
    ],
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
