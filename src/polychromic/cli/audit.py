"""`polychromic audit`."""

from __future__ import annotations

from typing import Annotated

import typer


def audit(
    objective: Annotated[
        str, typer.Option(help="An objective, such as coverage or polychromic.")
    ] = "coverage",
    set_size: Annotated[int, typer.Option(help="K, generations in a set.")] = 4,
    wrong_clusters: Annotated[
        str, typer.Option(help="Numbers of wrong answers to try, such as 1,3,6.")
    ] = "1,3,6",
    correct_modes: Annotated[int, typer.Option(help="How many different answers are right.")] = 1,
    diversity_weight: Annotated[
        float | None, typer.Option(help="λ of reward + λ objective; the objective alone if left out.")
    ] = None,
) -> None:
    """Say where an objective's optimum puts its probability: on right answers, or where being wrong pays."""
    from polychromic.errors import ConfigError
    from polychromic.objective.audit import audit as audit_objective

    try:
        found = [
            audit_objective(
                objective,  # type: ignore[arg-type]  # an unknown name is refused with the known ones
                set_size,
                int(wrong),
                correct_modes=correct_modes,
                diversity_weight=diversity_weight,
            )
            for wrong in wrong_clusters.split(",")
        ]
    except ValueError as error:
        raise ConfigError(f"audit: {error}") from error
    for one in found:
        typer.echo(
            f"{one.wrong_clusters} wrong clusters: P(correct) = {one.p_correct:.3f}, "
            f"{one.effective_modes:.2f} of {one.correct_modes} correct answers in use"
        )
        if one.warning:
            typer.echo(f"  warning: {one.warning}")
