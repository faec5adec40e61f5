"""The page of a run while it goes on: its curves and what is left, then the report itself once there is one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from polychromic.diagnosis import Diagnosis
from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment
from polychromic.experiment.cost import n_generations, run_cost
from polychromic.experiment.cost_text import duration
from polychromic.experiment.diagnose import diagnosis_of, open_finished_or_running
from polychromic.experiment.folder import RunFolder
from polychromic.files import read_derived, read_jsonl
from polychromic.report.build import training_rows
from polychromic.report.drawing import arm_colors
from polychromic.report.page import PageContent, render_page
from polychromic.report.serving import PageServer
from polychromic.report.training_figures import training_figures
from polychromic.report.work import spent, work_table


def page_server(root: Path, port: int = 0) -> PageServer:
    """A server of the run's page, ready to `serve_forever`. Raises ConfigError where the folder is no run, or the port
    is taken."""
    experiment, folder = open_finished_or_running(root)
    try:
        return PageServer(lambda: run_version(experiment, folder), lambda: run_page(experiment, folder), port)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "expected a number from 0 to 65535"
        raise ConfigError(f"--port {port}: {reason}; choose another, or 0 for any that is free") from error


def run_version(experiment: Experiment, folder: RunFolder) -> str:
    """A word that changes when there is something new to show."""
    files = [folder.report, folder.ledger, folder.heartbeat]
    for arm, seed in experiment.jobs:
        files += [folder.job(arm, seed) / "metrics.jsonl", folder.generations(arm, seed)]
    state = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.exists()]
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


def run_page(experiment: Experiment, folder: RunFolder) -> str:
    """The finished page where the run has ended, otherwise the live one."""
    if folder.report.exists() and not run_cost(experiment, folder).left:
        return folder.report.read_text(encoding="utf-8")
    ledger = read_jsonl(folder.ledger) + (read_derived(folder.heartbeat) or [])
    arms = list(experiment.arms)
    colors = arm_colors(experiment.sampled_arms, experiment.comparison.baseline, experiment.untrained_arm)
    return render_page(
        PageContent(
            name=folder.root.name,
            spent=spent(ledger, experiment.budget.dollars_per_hour),
            figures=[],
            curves=training_figures(training_rows(folder.root, arms, experiment.seeds), colors),
            colors=colors,
            work=work_table(ledger, experiment.budget.dollars_per_hour),
            diagnosis=_diagnosis(experiment, folder),
            progress=progress_table(experiment, folder),
            live=True,
        )
    )


def progress_table(experiment: Experiment, folder: RunFolder) -> list[list[str]]:
    """Steps trained and generations sampled of every arm and seed, and the time that is left as far as it is known."""
    settings = experiment.evaluation
    wanted = settings.prompts * settings.samples * len(settings.sampling)
    rows = []
    for arm, seed in experiment.jobs:
        metrics = read_jsonl(folder.job(arm, seed) / "metrics.jsonl")
        steps = "–" if experiment.arm(arm).untrained else str(metrics[-1]["step"] if metrics else 0)
        done = n_generations(folder, arm, seed)
        rows.append([arm, str(seed), steps, f"{done:,} of {wanted:,}"])
    cost = run_cost(experiment, folder)
    left = "not known yet" if cost.left_seconds is None else duration(cost.left_seconds)
    return [["arm", "seed", "steps", "generations"], *rows, ["left", "", "", left]]


def _diagnosis(experiment: Experiment, folder: RunFolder) -> Diagnosis | None:
    try:
        return diagnosis_of(experiment, folder)
    except ConfigError:  # nothing has been trained yet
        return None
