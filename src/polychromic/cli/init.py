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
    from polychromic.files import user_path

    path = user_path(path)
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists already; name another file")
    try:
        path.write_text(experiment_template(path.stem), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); name a file in a folder that is there and that you may "
            "write to"
        ) from error
    typer.echo(f"wrote {path}; edit it, then: polychromic run {path}")
