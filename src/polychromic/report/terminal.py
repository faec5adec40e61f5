"""The comparison on the terminal: a rich table there, plain lines elsewhere."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polychromic.evaluation import Comparison
from polychromic.evaluation.rendering import (
    criteria_table,
    gains_table,
    means_table,
    overtaking_lines,
    signature_lines,
    summary_text,
    untrained_table,
)
from polychromic.plain_text import plain_text

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
    for caution in comparison.cautions:
        console.print(Text(plain_text(f"{caution.kind}: {caution.text}"), style="yellow"))
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
