"""Writes an experiment file to start from: for a person's own data, or an example that ships."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polychromic.cli.run import stated_options


def init(
    context: typer.Context,
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="The file to write; named after the data if left out.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="Prompts: JSON lines, JSON, CSV, Parquet, a folder of the datasets library, or a hub name.",
        ),
    ] = None,
    check: Annotated[
        str | None, typer.Option("--check", metavar="FILE.py:NAME", help="Your function check(prompt, text) -> 0 to 1.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", metavar="ID", help="A hub id or a folder of a causal language model.")
    ] = "smollm2-135m-instruct",
    prompt_key: Annotated[
        str | None, typer.Option("--prompt-key", metavar="KEY", help="Key of the prompt, if not recognised.")
    ] = None,
    reference_key: Annotated[
        str | None, typer.Option("--reference-key", metavar="KEY", help="Key of the good answers.")
    ] = None,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="Time for training and evaluation, here.")] = 2.0,
    example: Annotated[
        str | None, typer.Option("--example", metavar="NAME", help="Write an example: quickstart, replies, code.")
    ] = None,
) -> None:
    """Write an experiment file that runs: for your data (--data), or an example that ships (--example)."""
    from polychromic.errors import ConfigError
    from polychromic.files import user_path

    if data is not None and example is not None:
        raise ConfigError("--data and --example: give one of them")
    path = user_path(path) if path else None
    if data is None:
        for option in stated_options(context, "check", "model", "prompt_key", "reference_key", "minutes"):
            hint = "; an example has its own: change model.source in the file" if option == "--model" else ""
            raise ConfigError(f"{option} belongs to --data FILE, which is missing{hint}")
        from polychromic.experiment.starting.start import write_example

        path = write_example(example or "quickstart", path, typer.echo)
    else:
        typer.echo(f"reading {data}")
        from polychromic.experiment.starting.start import Request, start_experiment
        from polychromic.tasks.data.formats import Keys

        path = path or Path(f"{Path(data.partition(':')[0]).stem}.yaml")
        request = Request(data, path, model, check, Keys(prompt_key, reference_key), minutes)
        start_experiment(request, typer.echo)
    typer.echo(f"next: polychromic run {path}")
