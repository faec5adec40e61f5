"""Runs the checks of preflight in order, shows them, and stops a run that they refuse."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from polychromic import stopping
from polychromic.errors import BudgetError, PolychromicError, PreflightError
from polychromic.experiment.config import Experiment
from polychromic.experiment.preflight import data, model, training
from polychromic.experiment.preflight.probe import CheckSkippedError, Finding, Probe
from polychromic.experiment.preflight.results import CheckResult, PreflightReport, ShownChecks
from polychromic.experiment.progress.display import say
from polychromic.experiment.resuming.provenance import threads_of_a_job
from polychromic.files import read_derived, read_jsonl, write_json
from polychromic.generations import write_generations
from polychromic.ledger import BudgetSettings, spent_seconds
from polychromic.run_folder import RunFolder
from polychromic.seeding import deterministic

Check = Callable[["Probe"], Finding]
OnStart = Callable[[int, int, str], None]
"""Called before a check with its number, the number of checks and its name."""


@dataclass(frozen=True, slots=True)
class Row:
    """One check with its stage: a failed check lets the others of its stage speak, and makes later ones pointless."""

    stage: int
    name: str
    check: Check


def carry_out(
    checks: Sequence[Row], probe: Probe, on_result: Callable[[CheckResult], None], on_start: OnStart = lambda *_: None
) -> PreflightReport:
    """Runs the checks in order, up to the end of the first stage that has a failed one. An error for people is a
    failed check."""
    results: list[CheckResult] = []
    for number, row in enumerate(checks, start=1):
        of_earlier_stages = [result for result, of in zip(results, checks, strict=False) if of.stage < row.stage]
        failed = [result.name for result in of_earlier_stages if result.status == "failed"]
        started = time.perf_counter()
        if failed:
            finding = Finding("skipped", f"{NOT_RUN}: {failed[0]} failed")
        else:
            on_start(number, len(checks), row.name)
            finding = _finding(row.check, probe)
        seconds = time.perf_counter() - started
        result = CheckResult(number, row.name, finding.status, finding.result, finding.fix, seconds, finding.figures)
        results.append(result)
        on_result(result)
    return PreflightReport(tuple(results))


NOT_RUN = "not run"


def _finding(check: Check, probe: Probe) -> Finding:
    try:
        return check(probe)
    except CheckSkippedError as error:
        return Finding("skipped", str(error))
    except PolychromicError as error:
        return Finding("failed", str(error))


CHECKS: tuple[Row, ...] = (
    Row(1, "versions and device", model.versions_and_device),
    Row(1, "trackers", data.trackers),
    Row(1, "data", data.prompts_and_references),
    Row(1, "checker", data.checker_tells_good_from_bad),
    Row(2, "model", model.model_loads),
    Row(2, "answers begin and end", model.answers_begin_and_end),
    Row(2, "disk", model.run_fits_on_disk),
    Row(3, "longest batch", model.longest_batch_fits),
    Row(3, "other models", model.other_models),
    Row(4, "feasibility", data.feasibility),
    Row(4, "same answers", data.same_answers_are_found),
    Row(4, "diversity gradient", training.diversity_gradient_reaches_the_weights),
    Row(4, "diversity measures", data.measures_order_known_groups),
    Row(5, "time and money", training.time_and_money),
)
"""Cheap ones first: what needs no model, the model itself, its largest batch, what it generates, the sum of all."""


def preflight(
    experiment: Experiment,
    folder: Path,
    on_result: Callable[[CheckResult], None] = lambda _: None,
    on_start: OnStart = lambda *_: None,
) -> PreflightReport:
    """Carries out all checks for a run that would write to `folder`; nothing is written there."""
    return _checked(Probe(experiment, folder), on_result, on_start)


def _checked(probe: Probe, on_result: Callable[[CheckResult], None], on_start: OnStart) -> PreflightReport:
    with deterministic(threads_of_a_job(probe.experiment)):  # times are those of a job
        return carry_out(CHECKS, probe, on_result, on_start)


def require_preflight(experiment: Experiment, folder: RunFolder, console: Console | None = None) -> None:
    """Carries out the checks unless this folder has passed them; shows those that did not pass, writes preflight.json.

    The untrained model's generations are kept where the run needs the same. Raises PreflightError that lists the
    failed checks with their fixes.
    """
    made = read_derived(folder.preflight)
    if made and made.get("passed"):
        return
    require_cap = partial(_require_cap, experiment.budget, read_jsonl(folder.ledger), time.monotonic())
    require_cap("before preflight's first check")
    probe = Probe(experiment, folder.root)
    with ShownChecks(console) as shown:

        def after_check(check: CheckResult) -> None:
            """Shows it if it is noteworthy, and ends here where the run was asked to stop or has spent its budget."""
            shown.ended(check)
            stopping.stop_if_requested("the next start makes preflight's checks anew")
            require_cap(f"after preflight's check {check.number}, {check.name}")

        report = _checked(probe, after_check, shown.started)
    if not report.failed:
        _keep_generations(probe, folder)
    write_json(folder.preflight, report.to_json())
    if report.failed:
        raise PreflightError(_failures(report))
    total = report.figures("time and money")
    say(
        f"preflight: {len(report.checks)} checks in {report.seconds:.0f} s; the run takes {total['text']} on this "
        "machine",
        console,
    )


def _keep_generations(probe: Probe, folder: RunFolder) -> None:
    """Gives the run the generations that it would sample first, where it has none yet."""
    untrained, sampled = probe.experiment.untrained_arm, probe.sampled
    if untrained is None or sampled is None or not sampled.of_the_run:
        return
    path = folder.arm(untrained, probe.experiment.seeds[0]).generations
    if not path.exists():
        write_generations(path, sampled.rows)


def _require_cap(budget: BudgetSettings, rows: Sequence[Mapping[str, Any]], started: float, when: str) -> None:
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
    not_run = [check.name for check in report.checks if check.result.startswith(NOT_RUN)]
    rest = f"  not run, since that decides: {', '.join(not_run)}\n" if not_run else ""
    return (
        f"preflight: {len(report.failed)} of {len(report.checks)} checks failed, nothing was trained\n{listed}\n{rest}"
        "  (run.preflight=false starts without the checks)"
    )
