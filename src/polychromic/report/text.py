"""Writes a comparison as Markdown; escapes so that text stays text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from polychromic.diagnosis import Diagnosis
from polychromic.evaluation import Comparison
from polychromic.report import tables
from polychromic.report.page import PageContent, rests_on
from polychromic.report.training_figures import CURVES_NOTE
from polychromic.report.view import as_text, capital, outcome_views, plain_verdict

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")
# HTML, and the bare addresses that some renderers turn into links.
_MARKDOWN_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "://": "&#58;//", "www.": "www&#46;"}


def to_markdown(table: tables.Table) -> str:
    """Returns a pipe table; cells are escaped so that they stay text."""
    rows = [[escape_markdown(cell) for cell in row] for row in table]
    rule = ["---"] * len(table[0])
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]]) + "\n"


def escape_markdown(text: str) -> str:
    """Returns text that Markdown (and the HTML in it) shows as it is, on one line."""
    escaped = printable(text)
    for special, entity in _MARKDOWN_ENTITIES.items():
        escaped = escaped.replace(special, entity)
    return _MARKDOWN_SPECIAL.sub(r"\\\1", escaped)


def printable(text: str) -> str:
    """Returns one line without control characters, bidirectional marks or lone surrogates."""
    return "".join(character if character.isprintable() else " " for character in text)


def markdown_report(page: PageContent) -> str:
    """Returns verdict, tables, warnings, figures, diagnosis, cost and methods of a finished comparison as Markdown."""
    parts = [f"# {escape_markdown(page.name)}"]
    if page.comparison:
        parts += _opening(page, page.comparison)
    parts += ["## What to see", *_figures(page)] if page.figures or page.curves else []
    if page.comparison:
        parts += [
            f"## All measures at {escape_markdown(page.comparison.primary_sampling)}",
            f"{escape_markdown(capital(tables.means_basis(page.comparison)))}.",
            to_markdown(tables.means_table(page.comparison)),
        ]
        if page.comparison.sameness:
            parts += [escape_markdown(tables.SAMENESS_NOTE), to_markdown(tables.sameness_table(page.comparison))]
    if page.diagnosis:
        parts += ["## What the training did", *_diagnosis(page.diagnosis)]
    if page.work[1:]:
        parts += ["## Time and money", to_markdown(page.work)]
    if page.comparison:
        parts += ["## How it was measured", *_methods(page.comparison)]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def _opening(page: PageContent, comparison: Comparison) -> Iterator[str]:
    yield f"**{escape_markdown(as_text(plain_verdict(comparison)))}**"
    if comparison.verdict.levels:
        yield escape_markdown(f"{comparison.verdict.sentence} {comparison.verdict.question}".rstrip())
    yield escape_markdown(as_text(rests_on(page, comparison), " · "))
    if alone := tables.only_arm_table(comparison):
        yield to_markdown(alone)
    elif comparison.verdict.levels:
        yield to_markdown(tables.criteria_table(comparison))
    if comparison.frontier:
        yield to_markdown(tables.gains_table(comparison))
    if comparison.untrained:
        moved = tables.untrained_table(comparison)
        yield to_markdown(moved) if moved else ""
        yield "\n".join(f"- {escape_markdown(line)}" for line in tables.overtaking_lines(comparison))
    warnings = [f"- {escape_markdown(f'{warning.kind}: {warning.text}')}" for warning in comparison.warnings]
    yield "## Before you believe it"
    yield "\n".join(warnings) or tables.no_warnings(comparison)


def _figures(page: PageContent) -> Iterator[str]:
    for number, figure in enumerate([*page.figures, *page.curves], start=1):
        caption = f"Figure {number}. {figure.title}. {figure.caption}"
        yield f"![{figure.title}](figures/{figure.name}.svg)\n\n{escape_markdown(caption)}"
    if page.curves:
        yield escape_markdown(f"Curves of the training: {CURVES_NOTE}")


def _diagnosis(diagnosis: Diagnosis) -> Iterator[str]:
    for arm in diagnosis.arms:
        findings = [f"{finding.kind}: {finding.sentence}. To fix it: {finding.fix}." for finding in arm.findings]
        lines = [*arm.summary, *(findings or ["Nothing looks wrong."])]
        listed = "\n".join(f"- {escape_markdown(line)}" for line in lines)
        yield f"### {escape_markdown(arm.arm)}\n\n{listed}"


def _methods(comparison: Comparison) -> Iterator[str]:
    """Yields what the page tells of a number when it is pointed at."""
    methods = [f"{', '.join(view.row[:3])}: {view.method}" for view in outcome_views(comparison) if view.method]
    yield "\n".join(f"- {escape_markdown(line)}" for line in methods)
    yield "\n".join(f"- {escape_markdown(f'{key}: {made}')}" for key, made in tables.signatures(comparison).items())
