"""A check's result on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from polychromic.experiment.preflight.checks import CheckResult, Status
from polychromic.plain_text import plain_text

_MARKS: dict[Status, tuple[str, str]] = {
    "passed": ("✓", "green"),
    "warned": ("!", "yellow"),
    "failed": ("✗", "bold red"),
    "skipped": ("–", "dim"),
}


def show_check(check: CheckResult, console: Console | None = None) -> None:
    """Print number, name, result, mend and time of a check. Text from data is never read as markup."""
    console = console or Console()
    mark, style = _MARKS[check.status]
    head = Text.assemble(
        (f"{check.number:>2} {mark} ", style), (check.name, "bold"), f"  {plain_text(check.result)}"
    )
    console.print(head.append(f"  ({check.seconds:.1f} s)", "dim"), soft_wrap=True)
    if check.mend:
        console.print(Text(f"     → {plain_text(check.mend)}", style), soft_wrap=True)
