"""From a run folder to its diagnosis: the experiment says what the arms are."""

from __future__ import annotations

from pathlib import Path

from polychromic.diagnosis import Diagnosis
from polychromic.diagnosis.floors import Floor
from polychromic.diagnosis.run import ArmFacts, diagnose, finished_updates
from polychromic.diagnosis.weights import Adapted, adapter_scaling, updates_by_module
from polychromic.errors import ConfigError
from polychromic.experiment.config import Arm, Experiment
from polychromic.experiment.floors import quality_key
from polychromic.experiment.folder import RunFolder, read_resolved
from polychromic.files import write_json


def open_finished_or_running(root: Path) -> tuple[Experiment, RunFolder]:
    """The experiment of a run folder. Raises ConfigError where the folder is none."""
    folder = RunFolder(root)
    return Experiment.from_mapping(read_resolved(folder.experiment), source=str(folder.experiment)), folder


def diagnose_run(experiment: Experiment, folder: RunFolder) -> Diagnosis:
    """Diagnose a run and write diagnosis.json. Raises ConfigError where no arm has begun to train."""
    diagnosis = diagnosis_of(experiment, folder)
    write_json(folder.diagnosis, diagnosis.to_json())
    return diagnosis


def diagnosis_of(experiment: Experiment, folder: RunFolder) -> Diagnosis:
    """What can be said of a run by now; nothing is written. Raises ConfigError where no arm has begun to train."""
    baseline = experiment.comparison.baseline
    names = [baseline, *(name for name in experiment.arms if name != baseline)]
    arms = [_facts(experiment.arm(name)) for name in names if not experiment.arm(name).untrained]
    headline = experiment.evaluation.sampling_parameters()[0].label
    diagnosis = diagnose(
        folder.root,
        arms,
        experiment.seeds,
        headline=headline,
        updates_of=lambda arm, seed: _updates(experiment, folder, arm, seed),
    )
    if not diagnosis.arms:
        raise ConfigError(
            f"{folder.root}: no arm has begun to train; `polychromic run` or `train` starts them"
        )
    return diagnosis


def _updates(experiment: Experiment, folder: RunFolder, facts: ArmFacts, seed: int) -> Adapted | None:
    """Of the finished adapter, or of the newest checkpoint of a job that is still training."""
    from polychromic.training.checkpoint import latest_checkpoint
    from polychromic.training.finished import adapter_digest

    job = folder.job(facts.name, seed)
    if (job / "training.json").exists():
        adapter_digest(
            job, may_be_gone=True
        )  # a diagnosis of damaged weights would be of nothing that was trained
    finished = finished_updates(job)
    checkpoint = None if finished else latest_checkpoint(job / "checkpoints")
    if checkpoint is None:
        return finished
    settings = experiment.arm(facts.name).model.adapter
    scaling = adapter_scaling(facts.start) if facts.start else settings.alpha / settings.rank
    return Adapted(updates_by_module(checkpoint.weights, scaling), checkpoint.step)


def _facts(arm: Arm) -> ArmFacts:
    start = arm.model.adapter.start_from
    return ArmFacts(
        arm.name,
        arm.training.signal,
        arm.diversity.weight,
        arm.training.temperature,
        arm.training.max_new_tokens,
        # A project may have moved since: then movement is told from the base.
        Path(start) if start and Path(start).is_dir() else None,
        _floor(arm),
    )


def _floor(arm: Arm) -> Floor | None:
    """What the arm's λ has to keep, None for an arm without a floor."""
    lowest = arm.diversity.lowest_quality
    return None if lowest is None else Floor(lowest, arm.diversity.follows_baseline, quality_key(arm))
