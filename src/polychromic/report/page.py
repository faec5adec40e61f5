"""report.html: one file that asks nothing of the network, for a finished comparison or a run that still goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from polychromic.diagnosis import Diagnosis
from polychromic.evaluation import Comparison
from polychromic.files import strict_json
from polychromic.report.cells import criteria_cells, means_cells
from polychromic.report.drawing import Figure, in_page
from polychromic.report.samples import packed


@dataclass(frozen=True, slots=True)
class PageContent:
    """Everything that the page shows. `comparison` and `samples` are None while there is none yet."""

    name: str
    spent: str
    n_seeds: int
    figures: Sequence[Figure]
    """What the evaluation found."""
    curves: Sequence[Figure]
    """What went on while training."""
    colors: dict[str, str]
    work: list[list[str]]
    comparison: Comparison | None = None
    diagnosis: Diagnosis | None = None
    samples: dict[str, Any] | None = None
    pass_threshold: float = 1.0
    progress: list[list[str]] = field(default_factory=list)
    """Rows of what is done and left of a run that goes on, the header first."""
    live: bool = False
    """Whether the page asks its server for news."""


def render_page(content: PageContent) -> str:
    """The page as HTML. The same content gives the same text."""
    comparison = content.comparison
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=content,
            comparison=comparison,
            criteria=criteria_cells(comparison) if comparison else [],
            means=means_cells(comparison) if comparison else [],
            figures=_embedded(content.figures),
            curves=_embedded(content.curves),
            diagnosis=content.diagnosis.arms if content.diagnosis else (),
            colors=_script_json(content.colors),
            samples=packed(content.samples) if content.samples else "",
        )
    )


def _embedded(figures: Sequence[Figure]) -> list[tuple[str, Any]]:
    """Caption and markup of each figure."""
    return [(figure.caption, _trusted(in_page(figure))) for figure in figures]


def _script_json(value: Any) -> Any:
    """JSON that cannot end the script element it stands in, whatever text it holds."""
    return _trusted(strict_json(value).replace("<", "\\u003c"))


def _trusted(markup: str) -> Any:
    from markupsafe import Markup

    return Markup(markup)


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    return Environment(
        loader=PackageLoader("polychromic.report", "assets"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
