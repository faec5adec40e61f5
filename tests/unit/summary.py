"""Writes all details that the terminal shows of a comparison as one text."""

from polychromic.report.terminal import detail_lines, verdict_block
from polychromic.report.text import printable


def summary_text(comparison):
    block = [line for line, _ in verdict_block(comparison, None, details=True)]
    lines = [*detail_lines(comparison, None), "", *block]
    return "\n".join(printable(line).rstrip() for line in lines).rstrip() + "\n"
