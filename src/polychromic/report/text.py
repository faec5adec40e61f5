"""Writes a comparison as plain text, Markdown and LaTeX, and on the terminal; escapes so that text stays text."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from rich import table as rich_table
from rich.console import Console
from rich.text import Text

from polychromic.diagnosis import Diagnosis
from polychromic.evaluation import Comparison
from polychromic.plain_text import plain_text
from polychromic.report.page import PageContent
from polychromic.report.samples import answers_a_prompt
from polychromic.report.tables import (
    SAMENESS_NOTE,
    Table,
    criteria_table,
    facts,
    gains_table,
    means_table,
    no_warnings,
    overtaking_lines,
    sameness_table,
    signature_lines,
    signatures,
    untrained_table,
)
from polychromic.report.training_figures import CURVES_NOTE
from polychromic.report.view import as_text, outcome_views, plain_verdict

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")
# HTML, and the bare addresses that some renderers turn into links.
_MARKDOWN_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "://": "&#58;//", "www.": "www&#46;"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "^": r"\textasciicircum{}",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "%": r"\%",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    # At the start of a row these would belong to the \\ before it, which takes a star and a length.
    "[": "{[}",
    "*": "{*}",
    "−": r"$-$",
    "–": "--",
    "≥": r"$\geq$",
    "→": r"$\to$",
}


def to_markdown(table: Table) -> str:
    """Returns a pipe table; cells are escaped so that they stay text."""
    rows = [[escape_markdown(cell) for cell in row] for row in table]
    rule = ["---"] * len(table[0])
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]]) + "\n"


def to_latex(table: Table) -> str:
    r"""A booktabs tabular (needs `\usepackage{booktabs}`); cells are escaped so that they stay text."""
    rows = [" & ".join(escape_latex(cell) for cell in row) + r" \\" for row in table]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * len(table[0])}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escape_markdown(text: str) -> str:
    """Returns text that Markdown (and the HTML in it) shows as it is, on one line."""
    escaped = _printable(text)
    for special, entity in _MARKDOWN_ENTITIES.items():
        escaped = escaped.replace(special, entity)
    return _MARKDOWN_SPECIAL.sub(r"\\\1", escaped)


def escape_latex(text: str) -> str:
    """Returns text that LaTeX prints as it is, on one line."""
    return "".join(_LATEX.get(character, character) for character in _printable(text))


def results_latex(comparison: Comparison) -> str:
    """Returns the tables of a paper: the criteria, what became of the untrained model, and all means."""
    tables = [criteria_table(comparison), untrained_table(comparison), means_table(comparison)]
    return "\n".join(to_latex(table) for table in tables if table)


def summary_text(comparison: Comparison) -> str:
    """Returns the verdict, the tables, the warnings and the signatures as plain lines without control characters."""
    lines = [comparison.verdict.sentence, comparison.verdict.question, ""]
    lines += _aligned(criteria_table(comparison))
    if comparison.frontier:
        lines += ["", *_aligned(gains_table(comparison))]
    if comparison.untrained:
        lines += ["", *_aligned(untrained_table(comparison)), *overtaking_lines(comparison)]
    lines += ["", *_aligned(means_table(comparison))]
    if comparison.sameness:
        lines += ["", *_aligned(sameness_table(comparison)), SAMENESS_NOTE]
    lines += ["", *(f"{warning.kind}: {warning.text}" for warning in comparison.warnings)]
    lines += ["", *signature_lines(comparison)]
    return "\n".join(_printable(line).rstrip() for line in lines).rstrip() + "\n"


def _aligned(table: Table) -> list[str]:
    if not table:
        return []
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]


def _printable(text: str) -> str:
    """Returns one line without control characters, bidirectional marks or lone surrogates."""
    return "".join(character if character.isprintable() else " " for character in text)


def show_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Prints verdict, criteria, means, warnings and signatures. Text from data is neither markup nor control codes."""
    console = console or Console()
    if not console.is_terminal:
        sys.stdout.write(summary_text(comparison))
        return
    console.print(Text(plain_text(comparison.verdict.sentence), style="bold"))
    console.print(Text(plain_text(comparison.verdict.question)))
    gains = [gains_table(comparison)] if comparison.frontier else []
    others = (table(comparison) for table in (untrained_table, means_table, sameness_table))
    for rows in (criteria_table(comparison), *gains, *others):
        if rows:
            console.print(_rich_table(rows))
    for line in overtaking_lines(comparison):
        console.print(Text(plain_text(line)))
    for warning in comparison.warnings:
        console.print(Text(plain_text(f"{warning.kind}: {warning.text}"), style="yellow"))
    for line in signature_lines(comparison):
        console.print(Text(plain_text(line), style="dim"))


_STATUS_STYLES = {"met": "green", "not met": "red", "undecided": "yellow", "impossible": "magenta"}


def status_style(cell: str) -> str:
    """Returns the colour of a status; none for a demand that was missed by no clear change."""
    status, _, word = cell.partition(" (")
    return "" if status == "not met" and word == "no clear change)" else _STATUS_STYLES.get(status, "")


def _rich_table(rows: list[list[str]]) -> rich_table.Table:
    table = rich_table.Table(header_style="bold", box=None, pad_edge=False)
    for cell in rows[0]:
        table.add_column(Text(plain_text(cell)))
    for row in rows[1:]:
        table.add_row(*(Text(plain_text(cell), style=status_style(cell)) for cell in row))
    return table


def markdown_report(page: PageContent) -> str:
    """Returns verdict, tables, warnings, figures, diagnosis, cost and methods of a finished comparison as Markdown."""
    parts = [f"# {escape_markdown(page.name)}"]
    if page.comparison:
        parts += _opening(page, page.comparison)
    parts += ["## What to see", *_figures(page)] if page.figures or page.curves else []
    if page.comparison:
        parts += [
            f"## All measures at {escape_markdown(page.comparison.primary_sampling)}",
            to_markdown(means_table(page.comparison)),
        ]
        if page.comparison.sameness:
            parts += [escape_markdown(SAMENESS_NOTE), to_markdown(sameness_table(page.comparison))]
    if page.diagnosis:
        parts += ["## What the training did", *_diagnosis(page.diagnosis)]
    if page.work[1:]:
        parts += ["## Time and money", to_markdown(page.work)]
    if page.comparison:
        parts += ["## How it was measured", *_methods(page.comparison)]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def _opening(page: PageContent, comparison: Comparison) -> Iterator[str]:
    n_answers = answers_a_prompt(page.samples) if page.samples else ""
    rests_on = facts(
        comparison, n_answers=n_answers, spent=page.spent, work=page.work, model_checks=page.model_checks
    )
    yield f"**{escape_markdown(as_text(plain_verdict(comparison)))}**"
    yield escape_markdown(f"{comparison.verdict.sentence} {comparison.verdict.question}".rstrip())
    yield escape_markdown(as_text(rests_on, " · "))
    yield to_markdown(criteria_table(comparison))
    if comparison.frontier:
        yield to_markdown(gains_table(comparison))
    if comparison.untrained:
        moved = untrained_table(comparison)
        yield to_markdown(moved) if moved else ""
        yield "\n".join(f"- {escape_markdown(line)}" for line in overtaking_lines(comparison))
    warnings = [f"- {escape_markdown(f'{one.kind}: {one.text}')}" for one in comparison.warnings]
    yield "## Before you believe it"
    yield "\n".join(warnings) or no_warnings(comparison)


def _figures(page: PageContent) -> Iterator[str]:
    for number, figure in enumerate([*page.figures, *page.curves], start=1):
        caption = f"Figure {number}. {figure.title}. {figure.caption}"
        yield f"![{figure.title}](figures/{figure.name}.svg)\n\n{escape_markdown(caption)}"
    if page.curves:
        yield escape_markdown(f"Curves of the training: {CURVES_NOTE}")


def _diagnosis(diagnosis: Diagnosis) -> Iterator[str]:
    for arm in diagnosis.arms:
        findings = [f"{one.kind}: {one.sentence}. To fix it: {one.fix}." for one in arm.findings]
        lines = [*arm.summary, *(findings or ["Nothing looks wrong."])]
        listed = "\n".join(f"- {escape_markdown(line)}" for line in lines)
        yield f"### {escape_markdown(arm.arm)}\n\n{listed}"


def _methods(comparison: Comparison) -> Iterator[str]:
    """Yields what the page tells of a number when it is pointed at."""
    told = [f"{', '.join(view.row[:3])}: {view.method}" for view in outcome_views(comparison) if view.method]
    yield "\n".join(f"- {escape_markdown(line)}" for line in told)
    yield "\n".join(f"- {escape_markdown(f'{key}: {made}')}" for key, made in signatures(comparison).items())
