"""Tables and texts of a comparison that every report shows."""

from __future__ import annotations

import re

from polychromic.evaluation.comparison import Comparison
from polychromic.evaluation.criteria import Criterion, estimate, number, short_p, signed, signed_percent
from polychromic.evaluation.metrics import find_metric, split_at_k
from polychromic.evaluation.outcomes import CriterionOutcome, Evidence
from polychromic.evaluation.statistics.frontier import MatchedGain
from polychromic.evaluation.statistics.paired import PairedComparison

Table = list[list[str]]
"""Rows of plain, unescaped cells, the header first."""

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


def criteria_table(comparison: Comparison) -> Table:
    """One row a level, arm and criterion: baseline, arm, their lengths, change with interval, p and status."""
    header = [
        "level",
        "arm",
        "criterion",
        "baseline",
        "arm's value",
        "lengths",
        "change",
        f"{100 * comparison.resampling.confidence:g} % interval",
        "p (Holm)",
        "status",
    ]
    outcomes = [outcome for level in comparison.verdict.levels for outcome in level.outcomes]
    return [header, *(_criterion_row(outcome, lengths_text(comparison, outcome.arm)) for outcome in outcomes)]


def lengths_text(comparison: Comparison, arm: str) -> str:
    """Mean lengths of the baseline's texts and the arm's, "12.1 → 14.5": no diversity is to be read without them."""
    lengths = [comparison.mean(name, "tokens") for name in (comparison.baseline, arm)]
    return " → ".join("–" if one is None else f"{one.mean:.3g}" for one in lengths)


def means_table(comparison: Comparison) -> Table:
    """One row a metric with each arm's mean and interval at the primary sampling."""
    metrics = list(
        dict.fromkeys(one.metric for one in comparison.means if one.sampling == comparison.primary_sampling)
    )
    rows = [
        [find_metric(metric).name, *(_mean_cell(comparison, arm, metric) for arm in comparison.arms)]
        for metric in metrics
    ]
    return [["metric", *comparison.arms], *rows]


def gains_table(comparison: Comparison) -> Table:
    """One row a metric, arm and sampling setting: the gain over what the baseline reaches at the same quality.

    Only the header where the baseline was sampled in one way and so has no frontier.
    """
    header = [
        "at matched quality",
        "arm",
        "sampled at",
        "quality",
        "arm's value",
        "baseline's there",
        "gain",
        f"{100 * comparison.resampling.confidence:g} % interval",
        "note",
    ]
    return [header, *(_gain_row(gain) for gain in comparison.frontier)]


def untrained_table(comparison: Comparison) -> Table:
    """One row a metric of the criteria: the untrained model's mean, and how far each arm moved from it.

    Empty where the untrained model was not sampled.
    """
    found = {(one.metric, one.arm): one.comparison for one in comparison.against_untrained}
    if not found or comparison.untrained is None:
        return []
    arms = [arm for arm in comparison.arms if arm != comparison.untrained]
    rows = [
        [
            find_metric(metric).name,
            _mean_cell(comparison, comparison.untrained, metric),
            *(_moved(metric, found.get((metric, arm))) for arm in arms),
        ]
        for metric in dict.fromkeys(metric for metric, _ in found)
    ]
    return [["against the untrained model", comparison.untrained, *arms], *rows]


def overtaking_lines(comparison: Comparison) -> list[str]:
    """From which k on the untrained model finds more than each arm, a sentence an arm."""
    confidence = 100 * comparison.resampling.confidence
    return [one.sentence.format(confidence=confidence) for one in comparison.overtakings]


def results_latex(comparison: Comparison) -> str:
    """The tables of a paper: the criteria, what became of the untrained model, and all means."""
    tables = [criteria_table(comparison), untrained_table(comparison), means_table(comparison)]
    return "\n".join(to_latex(table) for table in tables if table)


def _moved(metric: str, found: PairedComparison | None) -> str:
    """A change from the untrained model with its interval and the word on it."""
    if found is None:
        return "–"
    relative = found.mean_b != 0.0
    written = signed_percent if relative else signed
    change = written(found.relative_difference if relative else found.difference)
    ends = (found.relative_ci_low, found.relative_ci_high) if relative else (found.ci_low, found.ci_high)
    return f"{change} ({written(ends[0])} to {written(ends[1])}), {found.change(find_metric(metric).sign)}"


def signature_lines(comparison: Comparison) -> list[str]:
    """How each measure of the means was made, one a line; numbers whose lines differ must not be compared."""
    shown = {one.metric for one in comparison.means if one.sampling == comparison.primary_sampling}
    made = [f"{key}: {signature}" for key, signature in comparison.signatures.items() if key in shown]
    return ["how each measure was made:", *made] if made else []


def summary_text(comparison: Comparison) -> str:
    """The verdict, the tables, the warnings and the signatures as plain lines without control characters."""
    lines = [comparison.verdict.sentence, comparison.verdict.question, ""]
    lines += _aligned(criteria_table(comparison))
    if comparison.frontier:
        lines += ["", *_aligned(gains_table(comparison))]
    if comparison.untrained:
        lines += ["", *_aligned(untrained_table(comparison)), *overtaking_lines(comparison)]
    lines += ["", *_aligned(means_table(comparison))]
    lines += ["", *(f"{warning.kind}: {warning.text}" for warning in comparison.warnings)]
    lines += ["", *signature_lines(comparison)]
    return "\n".join(_printable(line).rstrip() for line in lines).rstrip() + "\n"


def to_markdown(table: Table) -> str:
    """A pipe table; cells are escaped so that they stay text."""
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
    """Text that Markdown (and the HTML in it) shows as it is, on one line."""
    escaped = _printable(text)
    for special, entity in _MARKDOWN_ENTITIES.items():
        escaped = escaped.replace(special, entity)
    return _MARKDOWN_SPECIAL.sub(r"\\\1", escaped)


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is, on one line."""
    return "".join(_LATEX.get(character, character) for character in _printable(text))


def _gain_row(gain: MatchedGain) -> list[str]:
    return [
        find_metric(gain.metric).name,
        gain.arm,
        gain.sampling,
        f"{find_metric(gain.quality_metric).name} {gain.quality:.3g}",
        number(gain.diversity),
        number(gain.baseline_diversity),
        signed(gain.gain),
        f"{signed(gain.low)} to {signed(gain.high)}",
        _gain_note(gain),
    ]


def _gain_note(gain: MatchedGain) -> str:
    if gain.reached_by:
        return f"the baseline at {gain.reached_by} is as good and as diverse"
    if gain.position == "within":
        return ""
    word = "at least" if gain.position == "above" else "at most"
    return f"{word}: its quality is {gain.position} all of the baseline's"


def _criterion_row(outcome: CriterionOutcome, lengths: str) -> list[str]:
    evidence = outcome.evidence
    return [
        outcome.level,
        outcome.arm,
        outcome.criterion.text,
        number(evidence.mean_baseline) if evidence else "–",
        number(evidence.mean_arm) if evidence else "–",
        lengths,
        *(_change_cells(outcome.criterion, evidence) if evidence else ("–", "–")),
        short_p(outcome.p_adjusted),
        outcome.label,
    ]


def _change_cells(criterion: Criterion, evidence: Evidence) -> tuple[str, str]:
    """The change and its interval, in the unit in which the criterion asks: relative, or absolute for a margin."""
    absolute = criterion.direction == "not_worse" or not evidence.mean_baseline
    written = signed if absolute else signed_percent
    change = written(evidence.difference if absolute else evidence.relative)
    comparison = evidence.comparison
    if comparison is None:
        return change, "–"
    low, high = comparison.relative_ci_low, comparison.relative_ci_high
    if absolute:
        low, high = comparison.ci_low, comparison.ci_high
    return change, f"{written(low)} to {written(high)}"


def _mean_cell(comparison: Comparison, arm: str, metric: str) -> str:
    mean = comparison.mean(arm, metric)
    if mean is None:
        return "–"
    return estimate(mean.mean, mean.low, mean.high)


def _aligned(table: Table) -> list[str]:
    if not table:
        return []
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]


def _printable(text: str) -> str:
    """One line without control characters, bidirectional marks or lone surrogates."""
    return "".join(character if character.isprintable() else " " for character in text)


def how_made(comparison: Comparison, key: str) -> str:
    """Returns the signature with which somebody else gets the same number; empty where its meaning says all."""
    stated = find_metric(key).signature.format(same=comparison.clusters)
    return stated if split_at_k(key) else comparison.signatures.get(key, stated)


def signatures(comparison: Comparison) -> dict[str, str]:
    """Every signature of the comparison's measures at the primary sampling, those at k once for all k."""
    found: dict[str, str] = {}
    for key in dict.fromkeys(
        one.metric for one in comparison.means if one.sampling == comparison.primary_sampling
    ):
        made = how_made(comparison, key)
        at_k = split_at_k(key)
        if at_k is not None:
            found.setdefault(f"{at_k[0]}@k", made.rsplit("|", 1)[0])
        elif made:
            found[key] = made
    return found
