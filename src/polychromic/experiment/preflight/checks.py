"""What a check is: a named function on the probe that says what it found and, if need be, the mend."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from polychromic.errors import PolychromicError

if TYPE_CHECKING:
    from polychromic.experiment.preflight.probe import Probe

Status = Literal["passed", "warned", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has to say: the result with its numbers, and the mend where it did not pass."""

    status: Status
    result: str
    mend: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A finding with the check's number, name and time taken in seconds."""

    number: int
    name: str
    status: Status
    result: str
    mend: str
    seconds: float
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """All checks in order."""

    checks: tuple[CheckResult, ...]

    @property
    def failed(self) -> list[CheckResult]:
        """The checks that a run would not survive, or not be worth anything after."""
        return [check for check in self.checks if check.status == "failed"]

    @property
    def seconds(self) -> float:
        """Time taken by all checks."""
        return sum(check.seconds for check in self.checks)

    def figures(self, name: str) -> Mapping[str, Any]:
        """The numbers that the check of that name left, empty where it was skipped."""
        return next(check.figures for check in self.checks if check.name == name)

    def to_json(self) -> dict[str, Any]:
        """Plain mapping for preflight.json and `--json`."""
        return {
            "schema_version": 1,
            "passed": not self.failed,
            "checks": [asdict(one) for one in self.checks],
        }


class CheckSkippedError(PolychromicError):
    """A check that cannot say anything, because an earlier one has failed."""


Check = Callable[["Probe"], Finding]


def carry_out(
    checks: Sequence[tuple[str, Check]], probe: Probe, on_result: Callable[[CheckResult], None]
) -> PreflightReport:
    """Run the checks in order. An error for people is a failed check, not an end: the others still have their say."""
    results = []
    for number, (name, check) in enumerate(checks, start=1):
        started = time.perf_counter()
        try:
            finding = check(probe)
        except CheckSkippedError as error:
            finding = Finding("skipped", str(error))
        except PolychromicError as error:
            finding = Finding("failed", str(error))
        seconds = time.perf_counter() - started
        result = CheckResult(
            number, name, finding.status, finding.result, finding.mend, seconds, finding.figures
        )
        results.append(result)
        on_result(result)
    return PreflightReport(tuple(results))
