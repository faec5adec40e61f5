"""report.md: what the page says, for where a page cannot be opened. The answers themselves stand on the page alone."""

from __future__ import annotations

from collections.abc import Iterator

from polychromic.diagnosis import Diagnosis
from polychromic.evaluation import Comparison
from polychromic.evaluation.rendering import (
    criteria_table,
    escape_markdown,
    gains_table,
    means_table,
    overtaking_lines,
    to_markdown,
    untrained_table,
)
from polychromic.report.cells import comparison_detail
from polychromic.report.measures import signatures
from polychromic.report.opening import as_text, facts, no_cautions, plain_verdict
from polychromic.report.page import PageContent
from polychromic.report.samples import answers_a_prompt
from polychromic.report.training_figures import CURVES_NOTE


def markdown_report(page: PageContent) -> str:
    """Verdict, tables, warnings, figures, diagnosis, cost and methods of a finished comparison as Markdown."""
    parts = [f"# {escape_markdown(page.name)}"]
    if page.comparison:
        parts += _opening(page, page.comparison)
    parts += ["## What to see", *_figures(page)] if page.figures or page.curves else []
    if page.comparison:
        parts += [
            f"## All measures at {escape_markdown(page.comparison.headline)}",
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
    cautions = [f"- {escape_markdown(f'{one.kind}: {one.text}')}" for one in comparison.cautions]
    yield "## Before you believe it"
    yield "\n".join(cautions) or no_cautions(comparison)


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
