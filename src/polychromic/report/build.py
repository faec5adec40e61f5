"""Builds every report of a run folder: page, Markdown, LaTeX and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from polychromic.diagnosis import Diagnosis
from polychromic.evaluation import Comparison
from polychromic.evaluation.tables import Study
from polychromic.files import read_jsonl, write_bytes, write_text
from polychromic.ledger import arm_work, spent, work_table
from polychromic.plain_text import plain_text
from polychromic.report.about import About, Example
from polychromic.report.drawing import arm_colors
from polychromic.report.figures import comparison_figures
from polychromic.report.latex import results_latex
from polychromic.report.page import PageContent, render_page
from polychromic.report.poster import draw_poster
from polychromic.report.samples import explorer_data
from polychromic.report.text import markdown_report
from polychromic.report.training_figures import TrainingRows, training_figures
from polychromic.run_folder import RunFolder
from polychromic.training.artifacts import read_model_checks


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
    about: About | None = None,
    for_print: bool = False,
) -> Path:
    """Writes all reports below `root` and returns the page's path. The same inputs give the same bytes.

    `about` says what the run is of; an example without an answer gets the first answer of an arm that passes.
    `for_print` adds every figure as PDF and a slide for a talk (`figures/poster`), whose fonts take seconds to embed.

    `study` holds the values prompt by prompt and `prompt_texts` what was asked, by prompt id; the sample explorer
    shows both where they are given. Work whose price the ledger lacks is counted at `dollars_per_hour`.
    """
    ledger = read_jsonl(root / "ledger.jsonl")
    colors = arm_colors(comparison.arms, comparison.baseline, comparison.untrained)
    figures = comparison_figures(comparison, arm_work(ledger, dollars_per_hour), colors, study)
    curves = training_figures(training_rows(root, arms, seeds), colors)
    for figure in [*figures, *curves]:
        write_text(root / "figures" / f"{figure.name}.svg", figure.svg)
        write_text(root / "figures" / f"{figure.name}.csv", figure.data)
    samples = explorer_data(root, comparison, prompt_texts=prompt_texts or {}, study=study)
    about = about_with_answer(about or About(), samples, pass_threshold)
    page = PageContent(
        name=root.resolve().name,
        spent=spent(ledger, dollars_per_hour),
        figures=figures,
        curves=curves,
        colors=colors,
        work=work_table(ledger, dollars_per_hour),
        about=about,
        comparison=comparison,
        diagnosis=diagnosis,
        samples=samples,
        pass_threshold=pass_threshold,
        model_checks=[
            check for folder in sorted(root.glob("*/seed-*")) for check in read_model_checks(folder).values()
        ],
    )
    write_text(root / "report.html", render_page(page))
    write_text(root / "report.md", markdown_report(page))
    write_text(root / "results.tex", results_latex(comparison, about))
    if for_print:
        for figure in [*figures, *curves]:
            write_bytes(root / "figures" / f"{figure.name}.pdf", figure.drawn_as("pdf"))
        for form, content in draw_poster(page).items():
            write_bytes(root / "figures" / f"poster.{form}", content)
    return root / "report.html"


def training_rows(root: Path, arms: Sequence[str], seeds: Sequence[int]) -> TrainingRows:
    """Returns what every arm and seed logged while training; empty lists where there is nothing yet."""
    return {arm: {seed: read_jsonl(RunFolder(root).arm(arm, seed).metrics) for seed in seeds} for arm in arms}


def about_with_answer(about: About, samples: Mapping[str, Any], pass_threshold: float) -> About:
    """Fills in an example's missing answer: the first that passes, of the first arm that has any. Control characters
    become escapes."""
    example = about.example
    if example is None:
        return about
    if not example.answer:
        arms = next((prompt["arms"] for prompt in samples["prompts"] if prompt["text"] == example.prompt), {})
        example = replace(example, **_passing(arms, pass_threshold))
    return replace(
        about, example=Example(plain_text(example.prompt), plain_text(example.answer), plain_text(example.of))
    )


def _passing(arms: Mapping[str, Any], pass_threshold: float) -> dict[str, str]:
    for arm, groups in arms.items():
        for text, _, reward in (wording for group in groups for wording in group["wordings"]):
            if text and reward is not None and reward >= pass_threshold:
                return {"answer": text, "of": f"of {arm}, passes"}
    return {}
