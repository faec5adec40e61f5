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

    if path.exists():
        raise ConfigError(f"{path} exists already; name another file")
    path.write_text(experiment_template(path.stem), encoding="utf-8")
    typer.echo(f"wrote {path}; edit it, then: polychromic run {path}")
