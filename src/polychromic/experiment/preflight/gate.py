"""What stands between `run` and the work: the checks, once for each run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console

from polychromic import stopping
from polychromic.errors import BudgetError, PreflightError
from polychromic.experiment.budget import BudgetSettings
from polychromic.experiment.config import Experiment
from polychromic.experiment.folder import RunFolder
from polychromic.experiment.ledger import spent_dollars, spent_seconds
from polychromic.experiment.preflight.checks import CheckResult, PreflightReport
from polychromic.experiment.preflight.run import preflight
from polychromic.experiment.preflight.show import show_check
from polychromic.files import read_derived, read_jsonl, write_json


def require_preflight(experiment: Experiment, folder: RunFolder) -> None:
    """Carry out the checks unless this folder has passed them; show those that did not pass, write preflight.json.

    Raises PreflightError that lists the failed checks with their mends.
    """
    made = read_derived(folder.preflight)
    if made and made.get("passed"):
        return
    require_cap = partial(_require_cap, experiment.budget, read_jsonl(folder.ledger), time.monotonic())
    require_cap("before preflight's first check")

    def after_check(check: CheckResult) -> None:
        """Show it if it is noteworthy, and end here where the run was asked to stop or has spent its budget."""
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
    """Raise BudgetError where earlier starts and this preflight have reached a cap: the checks cost what work costs."""
    seconds = time.monotonic() - started
    everything = [*rows, {"seconds": seconds}]
    reached = budget.exceeded(spent_seconds(everything), spent_dollars(everything, budget))
    if reached:
        raise BudgetError(f"{reached} {when}; nothing is left for the work. Raise the cap and run again")


def _failures(report: PreflightReport) -> str:
    listed = "\n".join(
        f"  {one.number} {one.name}: {one.result}{f' → {one.mend}' if one.mend else ''}"
        for one in report.failed
    )
    return (
        f"preflight: {len(report.failed)} of {len(report.checks)} checks failed, nothing was trained\n{listed}\n"
        "  (run.preflight=false starts without the checks)"
    )
