"""`polychromic report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polychromic.cli.options import RunFolderPath, show_result


def report(
    run_folder: RunFolderPath,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Serve the page to this machine, with live curves while the run goes on."
        ),
    ] = False,
    port: Annotated[int, typer.Option(help="With --watch: the port, 0 for any that is free.")] = 0,
) -> None:
    """Build the comparison and the page anew from a run's generations."""
    if watch:
        _serve(run_folder, port)
        return
    from polychromic.experiment.config import Experiment
    from polychromic.experiment.continuing import require_same_inputs
    from polychromic.experiment.folder import RunFolder, read_resolved
    from polychromic.experiment.run import RunResult, compare_and_report
    from polychromic.experiment.working import held_folder

    folder = RunFolder(run_folder)
    content, source = read_resolved(folder.experiment), str(folder.experiment)
    if "generations" in content:
        from polychromic.experiment.given import GivenExperiment, evaluate_given

        show_result(evaluate_given(GivenExperiment.from_mapping(content, source=source), folder))
        return
    chosen = Experiment.from_mapping(content, source=source)
    with held_folder(run_folder):
        require_same_inputs(chosen, folder)
        show_result(RunResult(folder, compare_and_report(chosen, folder)))


def _serve(run_folder: Path, port: int) -> None:
    """Until the user ends it; the run itself is only read."""
    from polychromic.experiment.watch import page_server

    with page_server(run_folder, port) as server:
        typer.echo(f"watching {run_folder} at {server.address} (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("")
