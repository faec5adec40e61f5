"""Shows a comparison on the terminal: one block with the verdict, printed last; all tables before it on request."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from polychromic.evaluation import Comparison
from polychromic.evaluation.criteria import plural
from polychromic.plain_text import in_lines, plain_text
from polychromic.report import tables
from polychromic.report.text import printable
from polychromic.report.view import OutcomeView, as_text, capital, outcome_views, plain_verdict

_MOST_WARNINGS = 3
_GAP = "  "
_STATUS_STYLES = {"met": "green", "not met": "red", "undecided": "yellow", "impossible": "magenta"}


def show_comparison(comparison: Comparison, console: Console | None = None, *, details: bool = False) -> None:
    """Prints the verdict in plain words, each criterion and the warnings, the tables above them with `details`.

    Lines fit a terminal's width and no number is cut. Text from data is neither markup nor control codes.
    """
    console = console or Console()
    width = console.width if console.is_terminal else None
    if details:
        for line in detail_lines(comparison, width):
            console.print(Text(plain_text(line)), soft_wrap=True)
        console.print()
    for line, style in verdict_block(comparison, width, details=details):
        console.print(Text(plain_text(line), style), soft_wrap=True)
    console.file.flush()


def verdict_block(comparison: Comparison, width: int | None, *, details: bool = False) -> list[tuple[str, str]]:
    """Returns the lines of the block, each with its style."""
    styled = [(line, "bold") for line in in_lines(printable(as_text(plain_verdict(comparison))), width)]
    for view in outcome_views(comparison):
        styled += [(line, status_style(view.row[-1])) for line in _criterion_lines(view, comparison, width)]
    if alone := tables.only_arm_table(comparison):
        styled += [(line, "") for line in fitted(alone, width)]
    for line in tables.overtaking_lines(comparison) if comparison.untrained else []:
        styled += [(part, "") for part in in_lines(printable(f"{line}."), width, indent=4, first=2)]
    shown = comparison.warnings if details else comparison.warnings[:_MOST_WARNINGS]
    for warning in shown:
        text = printable(f"! {warning.kind}: {warning.text}")
        styled += [(line, "yellow") for line in in_lines(text, width, indent=4, first=2)]
    more = len(comparison.warnings) - len(shown)
    if more:
        styled.append((f"  ! {plural(more, 'more warning')}: on the page, or with -v", "yellow"))
    return styled


def _criterion_lines(view: OutcomeView, comparison: Comparison, width: int | None) -> list[str]:
    """Returns a criterion with its status, and below it the values with change, interval and p."""
    level, arm, criterion, baseline, value, _, change, interval, p_value, status = view.row
    levels = comparison.verdict.levels
    several = len({outcome.arm for of_level in levels for outcome in of_level.outcomes}) > 1
    head = f"{status}: {criterion}" + (f" ({arm})" if several else "") + (f" [{level}]" if len(levels) > 1 else "")
    confidence = f"{100 * comparison.resampling.confidence:g} % interval"
    numbers = ", ".join(part for part in (f"{baseline} → {value}", change) if part != "–")
    numbers += f" ({confidence} {interval})" if interval != "–" else ""
    numbers += f", p {p_value}" if p_value != "–" else ""
    return [
        *in_lines(printable(head), width, indent=4, first=2),
        *in_lines(printable(numbers), width, indent=6, first=6),
    ]


def detail_lines(comparison: Comparison, width: int | None) -> list[str]:
    """Returns all tables and signatures."""
    lines = [comparison.verdict.sentence, comparison.verdict.question, ""]
    shown = [tables.criteria_table(comparison), tables.means_table(comparison)]
    if comparison.frontier:
        shown.insert(1, tables.gains_table(comparison))
    if comparison.untrained:
        shown.insert(-1, tables.untrained_table(comparison))
    for table in [*shown, tables.sameness_table(comparison)]:
        if table:
            lines += [*fitted(table, width), ""]
    lines += [f"{capital(tables.means_basis(comparison))}.", ""]
    lines += [tables.SAMENESS_NOTE, ""] if comparison.sameness else []
    lines += tables.signature_lines(comparison)
    fitting: list[str] = []
    for line in lines:
        is_long = width is not None and len(line) > width
        fitting += in_lines(printable(line), width, indent=2, first=0) if is_long else [line]
    return fitting


def fitted(table: tables.Table, width: int | None) -> list[str]:
    """Returns a table as aligned lines; where they would be wider than the terminal, every row as a card of its own:
    the first cell, and below it each column's name with its value."""
    columns = range(len(table[0]))
    widths = [max(len(row[column]) for row in table) for column in columns]
    if width is None or sum(widths) + len(_GAP) * (len(widths) - 1) <= width:
        return [_GAP.join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in table]
    header, *rows = table
    name = max(len(cell) for cell in header[1:])
    lines = [header[0]]
    for row in rows:
        lines += in_lines(row[0], width, indent=4, first=2)
        for column in columns[1:]:
            head = f"    {header[column].ljust(name)}  "
            first, *others = in_lines(row[column], max(20, width - len(head))) if row[column] else [""]
            lines += [f"{head}{first}".rstrip(), *(" " * len(head) + other for other in others)]
    return lines


def status_style(cell: str) -> str:
    """Returns the colour of a status; none for a demand that was missed by no clear change."""
    status, _, word = cell.partition(" (")
    return "" if status == "not met" and word == "no clear change)" else _STATUS_STYLES.get(status, "")
