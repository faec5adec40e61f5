"""Defines the command line. Heavy libraries are imported inside the verbs: `--help` answers at once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from polychromic import __version__
from polychromic.cli.bundle import bundle, fetch, pack, plan
from polychromic.cli.init import init
from polychromic.cli.look import audit, check, cost, diagnose
from polychromic.cli.report import report
from polychromic.cli.run import evaluate, preflight, run, train
from polychromic.cli.tune import tune
from polychromic.errors import PolychromicError, StoppedError, in_words
from polychromic.plain_text import log_plainly, plain_text
from polychromic.processes import launcher_place

app = typer.Typer(
    name="polychromic",
    help="Fine-tune language models that give many different good answers, and prove that they do.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
_STOPPED = "stopped; run the same command again to continue"


def _stopped_in_words(verb: Callable[..., None]) -> Callable[..., None]:
    """Says that a verb was stopped by Ctrl-C, and how to go on: typer would end it without a word."""

    @wraps(verb)
    def spoken(*arguments: Any, **options: Any) -> None:
        try:
            verb(*arguments, **options)
        except KeyboardInterrupt:
            typer.echo(_STOPPED, err=True)
            raise typer.Exit(130) from None

    return spoken


for verb in (
    run, check, preflight, train, evaluate, report, diagnose, cost, audit, init, plan, bundle, pack, fetch, tune,
):  # fmt: skip
    app.command()(_stopped_in_words(verb))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more of what is done.")] = False,
) -> None:
    log_plainly(logging.INFO if verbose else logging.WARNING)


def _open_streams() -> None:
    """Reads nothing from and writes nothing to streams that the caller has closed (`<&-`), which Python has as None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def main() -> None:
    """Runs the command line: errors for people are one message and exit code 1; a second start continues after
    Ctrl-C."""
    _open_streams()
    # Progress bars of loading libraries would tear ours, and the tokenizer's threads cannot survive a fork.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with in_words():
            if not launcher_place()[0]:
                app()
            # The first process reads the arguments; the others train along, and of other verbs it is the only one.
            elif {"run", "train"} & set(sys.argv[1:]):
                from polychromic.experiment.cluster.launched import follow

                follow()
    except StoppedError as stopped:
        typer.echo(plain_text(str(stopped)), err=True)
        sys.exit(stopped.exit_code)
    except PolychromicError as error:
        logging.getLogger(__name__).info("what led to it:", exc_info=error.__cause__)
        typer.echo(plain_text(f"error: {error}"), err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo(_STOPPED, err=True)
        sys.exit(130)
