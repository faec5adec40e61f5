"""report.html: one file that asks nothing of the network, for a finished comparison or a run that still goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polychromic.diagnosis import Diagnosis
from polychromic.evaluation import Comparison
from polychromic.files import strict_json
from polychromic.report import tables
from polychromic.report.about import About
from polychromic.report.drawing import Figure, in_page, page_color
from polychromic.report.samples import answers_a_prompt, grouped_by_spelling, has_rewards, packed_parts
from polychromic.report.training_figures import CURVES_NOTE
from polychromic.report.view import Cell, plain_verdict, sameness_in_words


@dataclass(frozen=True, slots=True)
class PageContent:
    """Holds everything that the page shows. `comparison` and `samples` are None while there is none yet."""

    name: str
    spent: str
    figures: Sequence[Figure]
    """Figures of the evaluation."""
    curves: Sequence[Figure]
    """Figures of training."""
    colors: dict[str, str]
    work: list[list[str]]
    about: About = field(default_factory=About)
    """Facts about the run that it shows."""
    comparison: Comparison | None = None
    diagnosis: Diagnosis | None = None
    samples: dict[str, Any] | None = None
    pass_threshold: float = 1.0
    progress: list[list[str]] = field(default_factory=list)
    """Rows of what is done and left of a run that goes on, the header first."""
    model_checks: Sequence[Mapping[str, Any]] = ()
    """Checks of the models themselves, in every stage of every arm and seed."""
    live: bool = False
    """True where the page asks its server for news."""


def render_page(content: PageContent) -> str:
    """Returns the page as HTML. The same content gives the same text."""
    comparison = content.comparison
    numbered = [
        (number, figure, _trusted(in_page(figure)))
        for number, figure in enumerate([*content.figures, *content.curves], start=1)
    ]
    samples, parts = packed_parts(content.samples) if content.samples else ("", [])
    colors = {arm: page_color(color) for arm, color in content.colors.items()}
    return content.about.short(
        _environment()
        .get_template("report.html.j2")
        .render(
            page=content,
            comparison=comparison,
            verdict=plain_verdict(comparison) if comparison else [],
            facts=rests_on(content, comparison) if comparison else [],
            tables=tables,
            told_apart_by=sameness_in_words(comparison) if comparison else "",
            figures=numbered[: len(content.figures)],
            curves=numbered[len(content.figures) :],
            curves_note=CURVES_NOTE,
            diagnosis=content.diagnosis.arms if content.diagnosis else (),
            arm_colors=colors,
            # JSON that cannot end the script element it stands in, whatever text it holds.
            colors=_trusted(strict_json(colors).replace("<", "\\u003c")),
            samples=samples,
            has_rewards=has_rewards(content.samples) if content.samples else False,
            by_spelling=grouped_by_spelling(content.samples) if content.samples else False,
            parts=parts,
        )
    )


def rests_on(page: PageContent, comparison: Comparison) -> list[Cell]:
    """Returns what the verdict rests on and what it took."""
    n_answers = answers_a_prompt(page.samples) if page.samples else ""
    return tables.facts(
        comparison, n_answers=n_answers, spent=page.spent, work=page.work, model_checks=page.model_checks
    )


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
