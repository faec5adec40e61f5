"""Draws one slide for a talk: the verdict in words, two figures, the numbers with their intervals, what it is of."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from polychromic.evaluation import Comparison
from polychromic.evaluation.criteria import plural
from polychromic.report.drawing import Figure, Format, new_canvas, plain, render, style
from polychromic.report.page import PageContent
from polychromic.report.view import as_text, plain_verdict, view_outcome

_WIDTH, _HEIGHT = 13.333, 7.5  # inches of a slide, 16:9
_TEXT_WIDTH = 104  # characters of a line of the verdict
_FOOTER_WIDTH = 150
_MOST_NUMBERS = 4
_WANTED = ("distinct_correct", "pass", "frontier", "paired-differences", "cost-gain")
"""Figures that a slide shows, the best first."""


def draw_poster(page: PageContent) -> dict[Format, bytes]:
    """Returns the slide in every format. Raises ValueError for a page without a comparison."""
    if page.comparison is None:
        raise ValueError("there is nothing to show before every arm is sampled: the page has no comparison")
    comparison = page.comparison
    figures = [figure for name in _WANTED for figure in page.figures if figure.name == name][:2]
    with style():
        import matplotlib as mpl

        with mpl.rc_context({"font.size": 13}):
            canvas = new_canvas(_WIDTH, _HEIGHT)
            canvas.get_layout_engine().set(w_pad=0.25, h_pad=0.12)
            canvas.patch.set_facecolor("white")
            rows = canvas.subfigures(4, 1, height_ratios=[1.9, 4.6, 1.3, 0.5])
            _heading(rows[0], page, comparison)
            _panels(rows[1], figures)
            _numbers(rows[2], comparison)
            _text(rows[3], 0.02, 0.5, textwrap.shorten(_footer(page, comparison), _FOOTER_WIDTH), size=10, alpha=0.7)
    return {form: render(canvas, form) for form in ("png", "svg", "pdf")}


def _heading(part: Any, page: PageContent, comparison: Comparison) -> None:
    _text(part, 0.02, 0.86, page.name, size=13, weight="bold", alpha=0.7)
    verdict = "\n".join(
        textwrap.wrap(as_text(plain_verdict(comparison)).replace(" %", "\u00a0%"), _TEXT_WIDTH, max_lines=4)
    )
    _text(part, 0.02, 0.68, verdict, size=17)


def _panels(part: Any, figures: Sequence[Figure]) -> None:
    for axes, figure in zip(part.subplots(1, max(1, len(figures)), squeeze=False)[0], figures, strict=False):
        figure.paint(axes)
        axes.set_title(figure.title, loc="left", pad=34, fontsize=14, fontweight="bold")


def _numbers(part: Any, comparison: Comparison) -> None:
    """Writes the criteria of the arm that decides: change, interval and status."""
    levels = comparison.verdict.levels
    outcomes = levels[0].of_arm(levels[0].best_arm)[:_MOST_NUMBERS] if levels else ()
    for place, outcome in enumerate(outcomes):
        cells = view_outcome(comparison, outcome).cells
        x = 0.02 + place / max(1, len(outcomes)) * 0.97
        change, interval = cells[5].text, cells[6].text
        _text(part, x, 0.95, change, size=24, weight="bold")
        _text(part, x, 0.48, f"{outcome.criterion.text}: {outcome.label}", size=12)
        if interval != "–":
            confidence = f"{100 * comparison.resampling.confidence:g}"
            _text(part, x, 0.22, f"{interval} ({confidence} % interval)", size=11, alpha=0.7)


def _footer(page: PageContent, comparison: Comparison) -> str:
    facts = dict(page.about.facts)
    seeds = max(len(seeds_of_arm) for seeds_of_arm in comparison.seeds.values())
    parts = [
        page.about.subtitle,
        f"{plural(comparison.n_prompts, 'prompt')}, {plural(seeds, 'seed')}, sampled at {comparison.primary_sampling}",
        ", ".join(facts.get("code", "").split(", ")[:2]),
    ]
    return page.about.short(" · ".join(part for part in parts if part))


def _text(part: Any, x: float, y: float, text: str, *, size: float, **options: Any) -> None:
    part.text(x, y, plain(text), fontsize=size, va="top", ha="left", **options)
