"""Says what a trainer is given and what it leaves; builds trainers by name or by import path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from polychromic.errors import ConfigError
from polychromic.models.chat import ThinkingMode
from polychromic.models.settings import ModelSettings
from polychromic.registry import resolve
from polychromic.run_folder import ArmFolder
from polychromic.sampling.base import SamplerSettings
from polychromic.tasks.base import Task
from polychromic.training.settings import ENGINES, DiversitySettings, LossFacts, TrainingSettings, loss_facts

OnStep = Callable[[int, int, Mapping[str, float]], None]
"""Called after every step with (steps done, steps in all, metrics)."""


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed: everything that training needs to know."""

    experiment: str
    arm: str
    seed: int
    folder: Path
    task: Task
    model: ModelSettings
    training: TrainingSettings
    diversity: DiversitySettings
    tracking: tuple[str, ...] = ()
    baseline_quality: tuple[float, ...] = ()
    """Quality of the baseline arm at each step of this seed, nan where it was not measured: what
    `diversity.floor_margin` is measured from."""
    thinking: ThinkingMode = "auto"
    """Treatment of the text that the model writes while it thinks."""
    sampling: SamplerSettings = field(default_factory=SamplerSettings)
    is_measured_from: bool = False
    """True where another arm's floor follows this arm, which then measures the quality that floors compare."""

    @property
    def facts(self) -> LossFacts:
        """Returns what its loss means."""
        return loss_facts(self.training, self.diversity)

    @property
    def measures_held_out(self) -> bool:
        """Tells whether the cross-entropy of validation references is measured."""
        return self.facts.measures_held_out(self.diversity, is_measured_from=self.is_measured_from)

    @property
    def adapter(self) -> Path:
        """Returns where the trained adapter goes; it exists only when training has finished."""
        return ArmFolder(self.folder).adapter


@dataclass(frozen=True)
class Artifacts:
    """Names what training leaves: the adapter's folder, which `training.json` beside it declares finished."""

    adapter: Path


class Trainer(Protocol):
    """Fills the folder of one arm and seed as docs/run-folder.md says."""

    def train(self, run: ArmRun, on_step: OnStep | None = None) -> Artifacts:
        """Trains until done, or goes on from what the folder holds. Raises TrainingError with the cause."""
        ...


def build_trainer(name: str) -> Trainer:
    """Returns the trainer of that name, or one of the user's own by import path; a class is built without arguments.

    Raises ConfigError where there is none of that name, its packages are missing, or it has no `train`.
    """
    found = find_trainer(name)
    trainer = found() if isinstance(found, type) else found
    if not callable(getattr(trainer, "train", None)):
        raise ConfigError(f"trainer {name!r} has no method train(run, on_step)")
    return trainer


def find_trainer(name: str) -> Any:
    """Returns the object or class of that name, not built yet. Raises ConfigError where there is none, or its packages
    are missing."""
    trainer = resolve(ENGINES.get(name, name), ENGINES, "trainer")
    if name in ENGINES:
        getattr(trainer, "require_packages", lambda: None)()
    return trainer
