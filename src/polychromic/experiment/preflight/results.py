"""Holds what the checks of preflight found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from polychromic.experiment.preflight.probe import Status


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
        return {
            "schema_version": 2,
            "passed": not self.failed,
            "checks": [asdict(check) for check in self.checks],
        }
