"""Builds the page anew, or serves it while a run goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from polychromic.cli.run import RunFolderPath, Verbose, begin, show_result, stated_options


def report(
    context: typer.Context,
    run_folder: RunFolderPath,
    watch: Annotated[
        bool, typer.Option("--watch", help="Serve the page to this machine, with live curves while the run goes on.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --watch: the port, 0 for any that is free.")] = 0,
    figure: Annotated[
        bool,
        typer.Option("--figure", help="Add figures/poster as PNG, SVG and PDF for a talk, and every figure as PDF."),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Run the folder's own code where texts are checked or measured anew.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Build the comparison and the page anew from a run's generations. No checker is run on what has been checked."""
    _require_options_that_count(context, watch=watch)
    if watch:
        _serve(run_folder, port)
        return
    begin(f"report {run_folder}", verbose=verbose)
    from polychromic.experiment.config import Experiment
    from polychromic.experiment.resuming.continuing import require_same_inputs
    from polychromic.experiment.resuming.folder import held_folder, read_resolved
    from polychromic.experiment.run import RunResult, compare_and_report
    from polychromic.run_folder import RunFolder
    from polychromic.tasks.base import own_code

    folder = RunFolder(run_folder)
    content, source = read_resolved(folder.experiment), str(folder.experiment)
    if "generations" in content:
        from polychromic.experiment.external import ExternalExperiment, evaluate_external, require_same_files

        external = ExternalExperiment.from_mapping(content, source=source)
        require_same_files(external, folder)
        code = [*own_code(external.task), *external.evaluation.metrics]
        _ask_before_running(code, external.task.services, run_folder, yes=yes)
        show_result(evaluate_external(external, folder, for_print=figure), verbose=verbose)
        return
    chosen = Experiment.from_mapping(content, source=source)
    code = [*own_code(chosen.task.without_code()), *chosen.evaluation.metrics]
    _ask_before_running(code, chosen.task.services, run_folder, yes=yes)
    with held_folder(run_folder):
        require_same_inputs(chosen, folder)
        compared = compare_and_report(chosen, folder, run_code=False, for_print=figure)
    show_result(RunResult(folder, compared), verbose=verbose)


def _require_options_that_count(context: typer.Context, *, watch: bool) -> None:
    """Raises ConfigError for an option that would be passed over."""
    from polychromic.errors import ConfigError

    if watch and stated_options(context, "figure"):
        raise ConfigError("--figure and --watch: a page that is served writes no files; give one of them")
    if not watch and stated_options(context, "port"):
        raise ConfigError("--port is where --watch serves the page; add --watch")


def _ask_before_running(code: list[str], services: list[str], run_folder: Path, *, yes: bool) -> None:
    """Asks before code that a folder names checks or measures its texts anew, or a service is sent them with a key of
    the user's; the folder may be somebody else's."""
    from polychromic.errors import ConfigError

    if not (code or services) or yes:
        return
    by = [f"{' and '.join(code)}, which runs that code here"] if code else []
    by += [f"{' and '.join(services)}, which is sent them and the key that it names"] if services else []
    warning = f"{run_folder} has its texts checked or measured by {'; and by '.join(by)}"
    if not sys.stdin.isatty():
        raise ConfigError(f"{warning}; add --yes where you trust it")
    typer.confirm(f"{warning}. Run it?", abort=True)


def _serve(run_folder: Path, port: int) -> None:
    """Serves the page until the user ends it; the run itself is only read."""
    from polychromic.experiment.progress.watch import page_server

    with page_server(run_folder, port) as server:
        typer.echo(f"watching {run_folder} at {server.address} (Ctrl-C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("")
