"""`polychromic init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path(
        "experiment.yaml"
    ),
) -> None:
    """Write a commented experiment file to start from."""
    from polychromic.errors import ConfigError
    from polychromic.experiment.template import experiment_template
    from polychromic.files import write_text

    if path.exists():
        raise ConfigError(f"{path} exists already; name another file")
    write_text(path, experiment_template(path.stem))
    typer.echo(f"wrote {path}; edit it, then: polychromic run {path}")
