"""Diagnoses a run, finished or running, and serves its page while it runs."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from polychromic.diagnosis import ArmFacts, Diagnosis, diagnose
from polychromic.diagnosis.run import finished_updates
from polychromic.diagnosis.traces import Floor
from polychromic.diagnosis.weights import Adapted, Scaling, updates_by_module
from polychromic.errors import ConfigError
from polychromic.experiment.about import about_run
from polychromic.experiment.config import Arm, Experiment
from polychromic.experiment.costs import num_samples, run_cost
from polychromic.experiment.resuming.folder import read_resolved
from polychromic.files import read_derived, read_jsonl, write_json
from polychromic.ledger import duration, spent, work_table
from polychromic.report.build import training_rows
from polychromic.report.drawing import arm_colors
from polychromic.report.page import PageContent, render_page
from polychromic.report.server import PageServer
from polychromic.report.training_figures import training_figures
from polychromic.run_folder import RunFolder
from polychromic.tasks.base import build_task


def open_finished_or_running(root: Path) -> tuple[Experiment, RunFolder]:
    """Opens the experiment of a run folder. Raises ConfigError where the folder is none, or compares files."""
    folder = RunFolder(root)
    content = read_resolved(folder.experiment)
    if "generations" in content:
        raise ConfigError(
            f"{root} is a comparison of files of generations, in which nothing is trained; `polychromic report {root}` "
            "builds its page"
        )
    return Experiment.from_mapping(content, source=str(folder.experiment)), folder


def diagnose_run(experiment: Experiment, folder: RunFolder) -> Diagnosis:
    """Diagnoses a run and writes diagnosis.json. Raises ConfigError where no arm has begun to train."""
    diagnosis = diagnosis_of(experiment, folder)
    write_json(folder.diagnosis, diagnosis.to_json())
    return diagnosis


def diagnosis_of(experiment: Experiment, folder: RunFolder) -> Diagnosis:
    """Diagnoses a run as far as it is; nothing is written. Raises ConfigError where no arm has begun to train."""
    baseline = experiment.comparison.baseline
    names = [baseline, *(name for name in experiment.arms if name != baseline)]
    arms = [_facts(experiment.arm(name)) for name in names if not experiment.arm(name).untrained]
    primary_sampling = experiment.evaluation.sampling_parameters()[0].label
    diagnosis = diagnose(
        folder.root,
        arms,
        experiment.seeds,
        primary_sampling=primary_sampling,
        updates_of=lambda arm, seed: _updates(experiment, folder, arm, seed),
    )
    if not diagnosis.arms:
        raise ConfigError(f"{folder.root}: no arm has begun to train; `polychromic run` or `train` starts them")
    return diagnosis


def _updates(experiment: Experiment, folder: RunFolder, facts: ArmFacts, seed: int) -> Adapted | None:
    """Reads the updates of the finished adapter, or of the newest checkpoint of a job that is still training."""
    from polychromic.training.artifacts import adapter_digest
    from polychromic.training.checkpoint import latest_checkpoint

    place = folder.arm(facts.name, seed)
    if place.ending.exists():  # a diagnosis of damaged weights would be of nothing that was trained
        adapter_digest(place.root, may_be_gone=True)
    finished = finished_updates(place)
    checkpoint = None if finished else latest_checkpoint(place.checkpoints)
    if checkpoint is None:
        return finished
    settings = experiment.arm(facts.name).model.adapter
    own = Scaling(settings.alpha, settings.alpha_pattern, settings.use_rslora)
    scaling = Scaling.of_adapter(facts.start) if facts.start else own
    return Adapted(updates_by_module(checkpoint.weights, scaling), checkpoint.step)


def _facts(arm: Arm) -> ArmFacts:
    start, lowest = arm.model.adapter.start_from, arm.diversity.lowest_quality
    return ArmFacts(
        arm.name,
        arm.training.loss,
        arm.diversity.weight,
        arm.training.temperature,
        arm.training.max_new_tokens,
        # A project may have moved since: then movement is told from the base.
        Path(start) if start and Path(start).is_dir() else None,
        None if lowest is None else Floor(lowest, arm.diversity.follows_baseline, arm.loss.quality_key),
        learns_from_rewards=not arm.loss.reads_references,
    )


def page_server(root: Path, port: int = 0) -> PageServer:
    """Opens a server of the run's page, ready to `serve_forever`. Raises ConfigError where the folder is no run, or the
    port is taken."""
    experiment, folder = open_finished_or_running(root)
    try:
        return PageServer(lambda: run_version(experiment, folder), lambda: run_page(experiment, folder), port)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "expected a number from 0 to 65535"
        raise ConfigError(f"--port {port}: {reason}; choose another, or 0 for any that is free") from error


def run_version(experiment: Experiment, folder: RunFolder) -> str:
    """Returns a word that changes when there is something new to show."""
    files = [folder.report, folder.ledger, folder.heartbeat]
    for arm, seed in experiment.jobs:
        files += [folder.arm(arm, seed).metrics, folder.arm(arm, seed).generations]
    state = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.exists()]
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


def run_page(experiment: Experiment, folder: RunFolder) -> str:
    """Renders the finished page where the run has ended, otherwise the live one."""
    if folder.report.exists() and not run_cost(experiment, folder).left:
        return folder.report.read_text(encoding="utf-8")
    diagnosis = None
    with suppress(ConfigError):  # nothing has been trained yet
        diagnosis = diagnosis_of(experiment, folder)
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
            about=about_run(experiment, folder, build_task(experiment.task.without_code())),
            diagnosis=diagnosis,
            progress=progress_table(experiment, folder),
            live=True,
        )
    )


def progress_table(experiment: Experiment, folder: RunFolder) -> list[list[str]]:
    """Tabulates steps trained and generations sampled of every arm and seed, and the time that is left where it is
    known."""
    settings = experiment.evaluation
    wanted = settings.num_prompts * settings.num_samples * len(settings.sampling)
    rows = []
    for arm, seed in experiment.jobs:
        metrics = read_jsonl(folder.arm(arm, seed).metrics)
        steps = "–" if experiment.arm(arm).untrained else str(metrics[-1]["step"] if metrics else 0)
        done = num_samples(folder, arm, seed)
        rows.append([arm, str(seed), steps, f"{done:,} of {wanted:,}"])
    cost = run_cost(experiment, folder)
    left = "not known yet" if cost.left_seconds is None else duration(cost.left_seconds) if cost.left else "nothing"
    return [["arm", "seed", "steps", "generations"], *rows, ["left", "", "", left]]
