"""Runs the checks of preflight in order, shows them, and stops a run that they refuse."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from polychromic import stopping
from polychromic.errors import BudgetError, PolychromicError, PreflightError
from polychromic.experiment.config import Experiment
from polychromic.experiment.preflight import data, model, training
from polychromic.experiment.preflight.probe import CheckSkippedError, Finding, Probe, Status
from polychromic.experiment.resuming.provenance import threads_of_a_job
from polychromic.files import read_derived, read_jsonl, write_json
from polychromic.ledger import BudgetSettings, spent_seconds
from polychromic.plain_text import plain_text
from polychromic.run_folder import RunFolder
from polychromic.seeding import deterministic


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


Check = Callable[["Probe"], Finding]


def carry_out(
    checks: Sequence[tuple[str, Check]], probe: Probe, on_result: Callable[[CheckResult], None]
) -> PreflightReport:
    """Runs the checks in order. An error for people is a failed check, and the others still run."""
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
            number, name, finding.status, finding.result, finding.fix, seconds, finding.figures
        )
        results.append(result)
        on_result(result)
    return PreflightReport(tuple(results))


_MARKS: dict[Status, tuple[str, str]] = {
    "passed": ("✓", "green"),
    "warned": ("!", "yellow"),
    "failed": ("✗", "bold red"),
    "skipped": ("–", "dim"),
}


def show_check(check: CheckResult, console: Console | None = None) -> None:
    """Prints number, name, result, fix and time of a check. Text from data is never read as markup."""
    console = console or Console()
    mark, style = _MARKS[check.status]
    head = Text.assemble(
        (f"{check.number:>2} {mark} ", style), (check.name, "bold"), f"  {plain_text(check.result)}"
    )
    console.print(head.append(f"  ({check.seconds:.1f} s)", "dim"), soft_wrap=True)
    if check.fix:
        console.print(Text(f"     → {plain_text(check.fix)}", style), soft_wrap=True)


CHECKS: tuple[tuple[str, Check], ...] = (
    ("versions and device", model.versions_and_device),
    ("model", model.model_loads),
    ("answers begin and end", model.answers_begin_and_end),
    ("data", data.prompts_and_references),
    ("diversity measures", data.measures_order_known_groups),
    ("checker", data.checker_tells_good_from_bad),
    ("feasibility", data.feasibility),
    ("diversity gradient", training.diversity_gradient_reaches_the_weights),
    ("longest batch", model.longest_batch_fits),
    ("disk", model.run_fits_on_disk),
    ("trackers", training.trackers),
    ("time and money", training.time_and_money),
)


def preflight(
    experiment: Experiment, folder: Path, on_result: Callable[[CheckResult], None] = lambda _: None
) -> PreflightReport:
    """Carries out all checks for a run that would write to `folder`; nothing is written there."""
    probe = Probe(experiment, folder)
    with deterministic(threads_of_a_job(experiment)):  # times are those of a job
        return carry_out(CHECKS, probe, on_result)


def require_preflight(experiment: Experiment, folder: RunFolder) -> None:
    """Carries out the checks unless this folder has passed them; shows those that did not pass, writes preflight.json.

    Raises PreflightError that lists the failed checks with their fixes.
    """
    made = read_derived(folder.preflight)
    if made and made.get("passed"):
        return
    require_cap = partial(_require_cap, experiment.budget, read_jsonl(folder.ledger), time.monotonic())
    require_cap("before preflight's first check")

    def after_check(check: CheckResult) -> None:
        """Shows it if it is noteworthy, and ends here where the run was asked to stop or has spent its budget."""
        if check.status != "passed":
            show_check(check)
        stopping.stop_if_requested("the next start makes preflight's checks anew")
        require_cap(f"after preflight's check {check.number}, {check.name}")

    report = preflight(experiment, folder.root, after_check)
    write_json(folder.preflight, report.to_json())
    if report.failed:
        raise PreflightError(_failures(report))
    total = report.figures("time and money")
    Console().print(
        f"preflight: {len(report.checks)} checks in {report.seconds:.0f} s; the run takes "
        f"{total['text']} on this machine",
        highlight=False,
    )


def _require_cap(
    budget: BudgetSettings, rows: Sequence[Mapping[str, Any]], started: float, when: str
) -> None:
    """Raises BudgetError where earlier starts and this preflight have reached a cap: the checks cost what work
    costs."""
    seconds = time.monotonic() - started
    everything = [*rows, {"seconds": seconds}]
    reached = budget.exceeded(spent_seconds(everything), budget.spent_dollars(everything))
    if reached:
        raise BudgetError(f"{reached} {when}; nothing is left for the work. Raise the cap and run again")


def _failures(report: PreflightReport) -> str:
    listed = "\n".join(
        f"  {check.number} {check.name}: {check.result}{f' → {check.fix}' if check.fix else ''}"
        for check in report.failed
    )
    return (
        f"preflight: {len(report.failed)} of {len(report.checks)} checks failed, nothing was trained\n{listed}\n"
        "  (run.preflight=false starts without the checks)"
    )
