"""Builds every report of a run folder: page, Markdown, LaTeX and the terminal's summary."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polychromic.diagnosis import Diagnosis
from polychromic.evaluation import Comparison
from polychromic.evaluation.tables import Study
from polychromic.files import read_jsonl, write_bytes, write_text
from polychromic.plain_text import plain_text
from polychromic.report.cells import comparison_detail
from polychromic.report.figures import Figure, arm_colors, comparison_figures
from polychromic.report.opening import as_text, facts, no_warnings, plain_verdict
from polychromic.report.page import PageContent, render_page
from polychromic.report.samples import answers_a_prompt, explorer_data
from polychromic.report.training_figures import CURVES_NOTE, TrainingRows, training_figures
from polychromic.report.view import (
    criteria_table,
    escape_markdown,
    gains_table,
    means_table,
    overtaking_lines,
    results_latex,
    signature_lines,
    signatures,
    summary_text,
    to_markdown,
    untrained_table,
)
from polychromic.report.work import arm_work, spent, work_table
from polychromic.run_folder import RunFolder
from polychromic.training.artifacts import read_model_checks


def markdown_report(page: PageContent) -> str:
    """Verdict, tables, warnings, figures, diagnosis, cost and methods of a finished comparison as Markdown."""
    parts = [f"# {escape_markdown(page.name)}"]
    if page.comparison:
        parts += _opening(page, page.comparison)
    parts += ["## What to see", *_figures(page)] if page.figures or page.curves else []
    if page.comparison:
        parts += [
            f"## All measures at {escape_markdown(page.comparison.primary_sampling)}",
            to_markdown(means_table(page.comparison)),
        ]
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
        findings = [f"{one.kind}: {one.sentence}. To mend it: {one.mend}." for one in arm.findings]
        lines = [*arm.summary, *(findings or ["Nothing looks wrong."])]
        listed = "\n".join(f"- {escape_markdown(line)}" for line in lines)
        yield f"### {escape_markdown(arm.arm)}\n\n{listed}"


def _methods(comparison: Comparison) -> Iterator[str]:
    """What the page tells of a number when it is pointed at."""
    told = [
        f"- {outcome.level}, {outcome.arm}, {outcome.criterion.text}: {comparison_detail(outcome.evidence.comparison)}"
        for level in comparison.verdict.levels
        for outcome in level.outcomes
        if outcome.evidence and outcome.evidence.comparison
    ]
    yield "\n".join(f"- {escape_markdown(line[2:])}" for line in told)
    yield "\n".join(f"- {escape_markdown(f'{key}: {made}')}" for key, made in signatures(comparison).items())


_STATUS_STYLES = {"met": "green", "not met": "red", "undecided": "yellow", "impossible": "magenta"}


def show_comparison(comparison: Comparison, console: Console | None = None) -> None:
    """Print verdict, criteria, means, warnings and signatures. Text from data is neither markup nor control codes."""
    console = console or Console()
    if not console.is_terminal:
        sys.stdout.write(summary_text(comparison))
        return
    console.print(Text(plain_text(comparison.verdict.sentence), style="bold"))
    console.print(Text(plain_text(comparison.verdict.question)))
    gains = [gains_table(comparison)] if comparison.frontier else []
    for rows in (criteria_table(comparison), *gains, untrained_table(comparison), means_table(comparison)):
        if rows:
            console.print(_rich_table(rows))
    for line in overtaking_lines(comparison):
        console.print(Text(plain_text(line)))
    for warning in comparison.warnings:
        console.print(Text(plain_text(f"{warning.kind}: {warning.text}"), style="yellow"))
    for line in signature_lines(comparison):
        console.print(Text(plain_text(line), style="dim"))


def status_style(cell: str) -> str:
    """The colour of a status; none for a demand that was missed by no clear change."""
    status, _, word = cell.partition(" (")
    return "" if status == "not met" and word == "no clear change)" else _STATUS_STYLES.get(status, "")


def _rich_table(rows: list[list[str]]) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for cell in rows[0]:
        table.add_column(Text(plain_text(cell)))
    for row in rows[1:]:
        table.add_row(*(Text(plain_text(cell), style=status_style(cell)) for cell in row))
    return table


def write_report(
    root: Path,
    comparison: Comparison,
    *,
    arms: Sequence[str],
    seeds: Sequence[int],
    pass_threshold: float,
    diagnosis: Diagnosis | None = None,
    study: Study | None = None,
    prompt_texts: Mapping[str, str] | None = None,
    dollars_per_hour: float | None = None,
) -> Path:
    """Write all reports below `root` and return the page's path. The same inputs give the same bytes.

    `study` holds the values prompt by prompt and `prompt_texts` what was asked, by prompt id; the sample explorer
    shows both where they are given. Work whose price the ledger lacks is counted at `dollars_per_hour`.
    """
    ledger = read_jsonl(root / "ledger.jsonl")
    colors = arm_colors(comparison.arms, comparison.baseline, comparison.untrained)
    figures = comparison_figures(comparison, arm_work(ledger, dollars_per_hour), colors, study)
    curves = training_figures(training_rows(root, arms, seeds), colors)
    _write_figures(root / "figures", [*figures, *curves])
    page = PageContent(
        name=root.resolve().name,
        spent=spent(ledger, dollars_per_hour),
        figures=figures,
        curves=curves,
        colors=colors,
        work=work_table(ledger, dollars_per_hour),
        comparison=comparison,
        diagnosis=diagnosis,
        samples=explorer_data(root, comparison, prompt_texts=prompt_texts or {}, study=study),
        pass_threshold=pass_threshold,
        model_checks=[
            check for folder in sorted(root.glob("*/seed-*")) for check in read_model_checks(folder).values()
        ],
    )
    write_text(root / "report.html", render_page(page))
    write_text(root / "report.md", markdown_report(page))
    write_text(root / "results.tex", results_latex(comparison))
    return root / "report.html"


def training_rows(root: Path, arms: Sequence[str], seeds: Sequence[int]) -> TrainingRows:
    """What every arm and seed logged while training; empty lists where there is nothing yet."""
    return {arm: {seed: read_jsonl(RunFolder(root).arm(arm, seed).metrics) for seed in seeds} for arm in arms}


def _write_figures(folder: Path, figures: Sequence[Figure]) -> None:
    for figure in figures:
        write_text(folder / f"{figure.name}.svg", figure.svg)
        write_text(folder / f"{figure.name}.csv", figure.data)
        write_bytes(folder / f"{figure.name}.pdf", figure.pdf)
