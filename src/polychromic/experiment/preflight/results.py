"""Holds what the checks of preflight found, and shows it: the check that runs by name, and of those that ended what is
worth a word."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.status import Status as Spinner
from rich.text import Text

from polychromic.experiment.preflight.probe import Status
from polychromic.experiment.progress.display import say, width_of
from polychromic.plain_text import in_lines, plain_text


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A finding with the check's number, name and time taken in seconds."""

    number: int
    name: str
    status: Status
    result: str
    fix: str
    seconds: float
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """All checks in order."""

    checks: tuple[CheckResult, ...]

    @property
    def failed(self) -> list[CheckResult]:
        """Lists the checks that a run would not survive, or not be worth anything after."""
        return [check for check in self.checks if check.status == "failed"]

    @property
    def seconds(self) -> float:
        """Sums the time taken by all checks."""
        return sum(check.seconds for check in self.checks)

    def figures(self, name: str) -> Mapping[str, Any]:
        """Returns the numbers that the check of that name left, empty where it was skipped."""
        return next(check.figures for check in self.checks if check.name == name)

    def to_json(self) -> dict[str, Any]:
        """Returns a plain mapping for preflight.json and `--json`."""
        return {"schema_version": 2, "passed": not self.failed, "checks": [asdict(check) for check in self.checks]}


_MARKS: dict[Status, tuple[str, str]] = {
    "passed": ("✓", "green"),
    "warned": ("!", "yellow"),
    "failed": ("✗", "bold red"),
    "skipped": ("–", "dim"),
}
_NAMED_FROM = 1.0  # seconds: quicker checks that passed are not worth a line in a log


def show_check(check: CheckResult, console: Console | None = None) -> None:
    """Prints number, name, result, fix and time of a check. Text from data is never read as markup."""
    console = console or Console()
    mark, style = _MARKS[check.status]
    time = f" ({check.seconds:.1f} s)" if check.status != "skipped" else ""
    width = width_of(console)
    number = f"{check.number:>2} {mark} "
    first, *others = in_lines(f"{number}{check.name}: {plain_text(check.result)}{time}", width, indent=5, first=0)
    head = Text(first)
    head.stylize(style, 0, len(number))
    head.stylize("bold", len(number), len(number) + len(check.name))
    console.print(head, *(Text(line) for line in others), sep="\n", soft_wrap=True)
    if check.fix:
        for line in in_lines(f"→ {plain_text(check.fix)}", width, indent=5):
            console.print(Text(line, style), soft_wrap=True)


class ShownChecks:
    """Names the running check on a terminal, and prints those that did not pass; in a log one line for each."""

    def __init__(self, console: Console | None = None, *, every: bool = False) -> None:
        self.every = every
        self.console = console or Console()
        self._spinner: Spinner | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._spinner = self.console.status("preflight")
            self._spinner.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._spinner is not None:
            self._spinner.stop()

    def started(self, number: int, n: int, name: str) -> None:
        """Names the check that runs now, one of n."""
        if self._spinner is not None:
            self._spinner.update(f"preflight {number}/{n}: {name} …")

    def ended(self, check: CheckResult) -> None:
        """Prints a check that did not pass; every one where asked for, and with --verbose; in a log a line for those
        that took long."""
        shows_all = self.every or logging.getLogger("polychromic").isEnabledFor(logging.INFO)
        if shows_all or check.status in ("warned", "failed"):
            show_check(check, self.console)
        elif not self.console.is_terminal and check.status == "passed" and check.seconds >= _NAMED_FROM:
            say(f"preflight {check.number} {check.name}: passed ({check.seconds:.1f} s)", self.console)
