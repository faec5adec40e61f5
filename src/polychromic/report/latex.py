"""Writes results.tex: the tables of a paper, with captions, intervals and labels to refer to."""

from __future__ import annotations

from collections.abc import Sequence

from polychromic.evaluation import Comparison
from polychromic.evaluation.criteria import plural
from polychromic.report.about import About
from polychromic.report.tables import Table, means_basis, means_table, untrained_table
from polychromic.report.text import printable
from polychromic.report.view import capital, outcome_views

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\textasciicircum{}",
    "_": r"\_", "~": r"\textasciitilde{}", "%": r"\%", "<": r"\textless{}", ">": r"\textgreater{}",
    # At the start of a row these would belong to the \\ before it, which takes a star and a length.
    "[": "{[}", "*": "{*}",
    "−": r"$-$", "–": "--", "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\to$", "λ": r"$\lambda$", "×": r"$\times$",
    "∞": r"$\infty$", "…": r"\ldots{}",
}  # fmt: skip


_HEAD = r"""% \usepackage{booktabs} in the preamble, then \input{results.tex}.
% Letters that pdfLaTeX does not know, such as names of arms in other scripts, need XeLaTeX or LuaLaTeX.
"""
_CRITERIA_SHARES = (0.25, 0.12, 0.11, 0.10, 0.19, 0.08, 0.15)
_NAMES_SHARE = 0.31
"""Shares of the line that columns take: stated for the criteria, else the first column's, the others being equal."""


def results_latex(comparison: Comparison, about: About | None = None) -> str:
    """Returns the tables of a paper: the criteria, what became of the untrained model, and all means."""
    confidence = f"{100 * comparison.resampling.confidence:g} % intervals"
    seeds = plural(max(len(seeds_of_arm) for seeds_of_arm in comparison.seeds.values()), "training seed")
    basis = (
        f"{plural(comparison.n_prompts, 'prompt')}, {seeds}, sampled at {comparison.primary_sampling}; "
        f"{confidence} in brackets"
    )
    of = f" ({about.subtitle})" if about and about.subtitle else ""
    tables = [
        _floating(
            _criteria_rows(comparison),
            "criteria",
            f"The stated criteria against {comparison.baseline}{of}: {basis}. "
            f"P-values are corrected (Holm). {comparison.verdict.question}",
            _CRITERIA_SHARES,
        ),
        _floating(
            _bracketed(untrained_table(comparison)),
            "untrained",
            f"What training made of the untrained model, relative change by arm: {basis}.",
        ),
        _floating(_bracketed(means_table(comparison)), "means", f"All measures, {means_basis(comparison)}: {basis}."),
    ]
    return _HEAD + "\n".join(table for table in tables if table)


def to_latex(table: Table, columns: str = "") -> str:
    r"""Returns a booktabs tabular (needs `\usepackage{booktabs}`); cells are escaped so that they stay text."""
    rows = [" & ".join(escape_latex(cell) for cell in row) + r" \\" for row in table]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns or 'l' * len(table[0])}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    """Returns text that LaTeX prints as it is, on one line."""
    return "".join(_LATEX.get(character, character) for character in printable(text))


def _floating(table: Table, label: str, caption: str, shares: Sequence[float] = ()) -> str:
    """Returns a table with caption and label, as wide as a line: longer cells are broken, never cut."""
    if not table:
        return ""
    n = len(table[0]) - 1
    shares = shares or [_NAMES_SHARE, *[(1 - _NAMES_SHARE) / n] * n]
    columns = "".join(rf"p{{\dimexpr {share:.3f}\linewidth-2\tabcolsep}}" for share in shares)
    return "\n".join(
        [
            r"\begin{table}[htb]",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}\sloppy",
            rf"\caption{{{escape_latex(caption)}}}",
            rf"\label{{tab:{label}}}",
            to_latex(table, rf"@{{}}{columns}@{{}}").rstrip("\n"),
            r"\end{table}",
            "",
        ]
    )


def _criteria_rows(comparison: Comparison) -> Table:
    """Returns the outcomes with change and interval in one cell, the level where there are several."""
    levels = len(comparison.verdict.levels) > 1
    header = ["criterion", "arm", comparison.baseline, "arm's value", "change", "p", "status"]
    rows = []
    for view in outcome_views(comparison):
        level, arm, criterion, baseline, value, _, change, interval, p_value, status = view.row
        named = f"{capital(level)}: {criterion}" if levels else criterion
        shown = f"{change} [{interval.replace(' to ', ', ')}]" if interval != "–" else change
        rows.append([named, arm, baseline, value, shown, p_value, status])
    return [header, *rows] if rows else []


def _bracketed(table: Table) -> Table:
    """Returns rows whose intervals are all written in brackets."""
    rows = [
        [row[0], *(cell.replace(" (", " [").replace(" to ", ", ").replace(")", "]") for cell in row[1:])]
        for row in table[1:]
    ]
    return [*table[:1], *rows]
