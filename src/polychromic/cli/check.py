"""`polychromic check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

_MARKS = {"right": "[green]✓[/]", "note": "[yellow]·[/]", "wrong": "[red]✗[/]"}


def check(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Hub id, folder, or another name that model.source takes.")
    ],
    adapter: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A saved PEFT adapter; without it a fresh LoRA adapter."),
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="As model.dtype.")
    ] = "float32",
    length: Annotated[int, typer.Option(min=16, help="Tokens of the longest prompt with its answer.")] = 256,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the model.")] = False,
) -> None:
    """Check that sampling, training and a plain forward pass agree on a model: run it before anything else."""
    from rich.console import Console
    from rich.markup import escape

    from polychromic.models.loading import load_language_model
    from polychromic.models.model_report import describe_model
    from polychromic.models.settings import ModelSettings

    settings = ModelSettings(source=model, dtype=dtype, trust_remote_code=trust_remote_code)
    language_model = load_language_model(settings, seed=0, adapter=adapter)
    console = Console()
    wrong = []
    for row in describe_model(language_model, length, trains=adapter is None):
        if row.status == "wrong":
            wrong.append(row.name)
        console.print(
            f"{_MARKS[row.status]} {row.name:<13} {escape(row.answer)}", highlight=False, soft_wrap=True
        )
    if wrong:
        console.print(f"[red]wrong: {', '.join(wrong)}[/]")
        raise typer.Exit(1)
