"""A diagnosis on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from polychromic.diagnosis.run import Diagnosis
from polychromic.plain_text import plain_text

_STYLES = {"fault": "bold red", "warning": "yellow"}


def show_diagnosis(name: str, diagnosis: Diagnosis, console: Console | None = None) -> None:
    """Print each arm's summary, then its findings with their mends. Text from data is no markup and no control code."""
    console = console or Console()
    console.print(Text(plain_text(name), style="bold underline"))
    for arm in diagnosis.arms:
        console.print(Text(plain_text(f"\n{arm.arm}"), style="bold"))
        for sentence in arm.summary:
            console.print(Text(plain_text(f"  {sentence}")), soft_wrap=True)
        if not arm.findings:
            console.print(Text("  nothing looks wrong", style="green"))
        for number, finding in enumerate(arm.findings, start=1):
            style = _STYLES[finding.severity]
            console.print(
                Text(plain_text(f"  {number}. {finding.kind}: {finding.sentence}"), style), soft_wrap=True
            )
            console.print(Text(plain_text(f"     → {finding.mend}")), soft_wrap=True)
