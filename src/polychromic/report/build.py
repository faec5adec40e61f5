"""Builds every report of a run folder: page, Markdown, LaTeX and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from polychromic.diagnosis import Diagnosis
from polychromic.evaluation import Comparison
from polychromic.evaluation.tables import Study
from polychromic.files import read_jsonl, write_bytes, write_text
from polychromic.ledger import arm_work, spent, work_table
from polychromic.report.figures import Figure, arm_colors, comparison_figures
from polychromic.report.page import PageContent, render_page
from polychromic.report.samples import explorer_data
from polychromic.report.text import markdown_report, results_latex
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
) -> Path:
    """Writes all reports below `root` and returns the page's path. The same inputs give the same bytes.

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
    """Returns what every arm and seed logged while training; empty lists where there is nothing yet."""
    return {arm: {seed: read_jsonl(RunFolder(root).arm(arm, seed).metrics) for seed in seeds} for arm in arms}


def _write_figures(folder: Path, figures: Sequence[Figure]) -> None:
    for figure in figures:
        write_text(folder / f"{figure.name}.svg", figure.svg)
        write_text(folder / f"{figure.name}.csv", figure.data)
        write_bytes(folder / f"{figure.name}.pdf", figure.pdf)
