"""From a run folder to its diagnosis: the experiment says what the arms are."""

from __future__ import annotations

from pathlib import Path

from polychromic.diagnosis import Diagnosis
from polychromic.diagnosis.run import ArmFacts, diagnose
from polychromic.errors import ConfigError
from polychromic.experiment.config import Arm, Experiment
from polychromic.experiment.folder import RunFolder, read_resolved
from polychromic.files import write_json


def open_finished_or_running(root: Path) -> tuple[Experiment, RunFolder]:
    """The experiment of a run folder. Raises ConfigError where the folder is none."""
    folder = RunFolder(root)
    if not folder.experiment.is_file():
        raise ConfigError(f"{root}: not a run folder (experiment.yaml is missing)")
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
    diagnosis = diagnose(folder.root, arms, experiment.seeds, headline=headline)
    if not diagnosis.arms:
        raise ConfigError(
            f"{folder.root}: no arm has begun to train; `polychromic run` or `train` starts them"
        )
    return diagnosis


def _facts(arm: Arm) -> ArmFacts:
    return ArmFacts(
        arm.name,
        arm.training.signal,
        arm.diversity.weight,
        arm.training.temperature,
        arm.training.max_new_tokens,
    )
