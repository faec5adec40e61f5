"""Reads an experiment: its arms, and every other section of the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from polychromic.evaluation.settings import ComparisonSettings, EvaluationSettings, load_stated_metrics
from polychromic.experiment.paths import with_absolute_paths
from polychromic.experiment.settings import PreflightSettings, RunSettings
from polychromic.experiment.yaml_file import Overrides, checked, describe_problems, read_yaml
from polychromic.files import user_path
from polychromic.ledger import BudgetSettings
from polychromic.models.settings import ModelSettings
from polychromic.objective import OBJECTIVES
from polychromic.run_folder import folder_name, require_folders_apart
from polychromic.sampling.base import SamplerSettings
from polychromic.settings import Sections, Settings
from polychromic.tasks.settings import TaskSettings
from polychromic.training.settings import ENGINES, DiversitySettings, LossFacts, TrainingSettings, loss_facts

FolderName = Annotated[str, AfterValidator(folder_name)]
UNTRAINED = "untrained"
"""The arm that `evaluation.untrained` adds to the arms of a file."""


class Arm(Settings):
    """One variant of the experiment, with all its sections filled in."""

    name: str
    model: ModelSettings
    training: TrainingSettings
    diversity: DiversitySettings
    untrained: bool = False
    """Evaluate the model as it is before training: the base, with the adapter that training would start from."""
    verbalized: int | None = Field(default=None, ge=2, le=20)
    """Ask the untrained model for this many different answers at once, each with its probability, and count each as a
    generation (Zhang et al., 2025, arXiv:2510.01171): diversity without training."""

    @property
    def loss(self) -> LossFacts:
        """Returns what `training.loss` means for this arm."""
        return loss_facts(self.training, self.diversity)

    @property
    def use_of_rewards(self) -> str:
        """Says what this arm reads its rewards for; empty where nothing is known to: a trainer of the user's own may
        read none, and an objective of theirs is asked when it is run."""
        training, diversity = self.training, self.diversity
        if self.untrained or training.engine not in ENGINES:
            return ""
        if self.loss.reads_rewards:
            return f"training.loss: {training.loss} learns from rewards"
        if training.early_stopping is not None:
            return "training.early_stopping follows the mean reward"
        objective = OBJECTIVES.get(diversity.objective)
        if diversity.is_active and objective is not None and objective.reads_rewards(diversity.gate):
            gate = f" with diversity.gate: {diversity.gate}" if "gates" in objective.reads else ""
            return f"diversity.objective: {objective.name}{gate} reads rewards"
        return ""

    @model_validator(mode="after")
    def _verbalised_is_untrained(self) -> Self:
        if self.verbalized is not None and not self.untrained:
            raise ValueError("verbalized sampling is an arm without training; add untrained: true")
        return self

    @model_validator(mode="after")
    def _sets_fit_into_groups(self) -> Self:
        """Checks that N ≥ K generations are sampled, and one more where the baseline leaves one out."""
        needed = self.diversity.set_size + (self.diversity.baseline == "leave_one_out")
        if self.diversity.is_active and self.loss.num_samples < needed:
            raise ValueError(
                f"diversity.set_size is {self.diversity.set_size} with baseline {self.diversity.baseline}, which needs "
                f"at least {needed} generations per prompt, got {self.loss.num_samples_key} = "
                f"{self.loss.num_samples}"
            )
        return self


class Experiment(Sections):
    """All sections that decide a run. `Experiment.from_file(path)` reads one; `arm(name)` resolves one arm."""

    name: FolderName
    task: TaskSettings
    model: ModelSettings
    training: TrainingSettings
    diversity: DiversitySettings = Field(default_factory=DiversitySettings)
    arms: dict[str, dict[str, Any]] = Field(min_length=2)
    """Arm name → the keys of `training`, `diversity` and `model` that this arm changes. One is the baseline."""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    sampling: SamplerSettings = Field(default_factory=SamplerSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)
    comparison: ComparisonSettings = Field(default_factory=ComparisonSettings)
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    run: RunSettings = Field(default_factory=RunSettings)
    preflight: PreflightSettings = Field(default_factory=PreflightSettings)

    @field_validator("arms", mode="before")
    @classmethod
    def _an_arm_without_keys_changes_nothing(cls, arms: Any) -> Any:
        """Takes `baseline:` with nothing behind it as it is meant."""
        if not isinstance(arms, Mapping):
            return arms
        return {name: {} if changes is None else changes for name, changes in arms.items()}

    @model_validator(mode="before")
    @classmethod
    def _untrained_arms_need_no_training(cls, content: Any) -> Any:
        """Fills in the training section where no arm is trained: it may be left out then."""
        arms = content.get("arms") if isinstance(content, Mapping) else None
        if not isinstance(arms, Mapping) or not arms or content.get("training") is not None:
            return content
        if all(isinstance(arm, Mapping) and arm.get("untrained") is True for arm in arms.values()):
            return {**content, "training": {"loss": "rl", "steps": 1}}
        return content

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"a seed is listed twice in {seeds}")
        return seeds

    @model_validator(mode="after")
    def _arms_resolve(self) -> Self:
        for name in self.arms:
            folder_name(name, place=f"arms.{name}: ")
            self.arm(name)
        require_folders_apart(self.arms, place="arms")
        if self.comparison.baseline not in self.arms:
            raise ValueError(
                f"comparison.baseline is {self.comparison.baseline!r}, which is not one of the arms {sorted(self.arms)}"
            )
        return self

    @model_validator(mode="after")
    def _criteria_are_measured(self) -> Self:
        self.comparison.require_measured(
            self.task, self.evaluation, samples=self.evaluation.num_samples, rewarded=self.task.has_checker
        )
        return self

    @model_validator(mode="after")
    def _rewards_have_a_checker(self) -> Self:
        """Checks that nothing is learnt from rewards where nobody gives any."""
        if self.task.has_checker:
            return self
        for arm in map(self.arm, self.arms):
            if arm.use_of_rewards:
                raise ValueError(
                    f"arms.{arm.name}: {arm.use_of_rewards}, and task.checker is not set, so that no answer has one; "
                    "name a checker, or learn from references (training.loss: sft) with diversity.objective: distance "
                    "and diversity.gate: none"
                )
        return self

    @model_validator(mode="after")
    def _name_of_the_untrained_model_is_free(self) -> Self:
        taken = [name for name in self.arms if name.lower() == UNTRAINED]  # some systems have one folder for both
        if self.untrained_arm and taken:
            raise ValueError(
                f"arms.{taken[0]}: the model before training is sampled under the name {UNTRAINED}; name the "
                "arm otherwise, or set evaluation.untrained: false"
            )
        return self

    @model_validator(mode="after")
    def _trl_corrects_its_own_samples(self) -> Self:
        """Checks that nobody expects a correction from an engine that samples and corrects by itself."""
        if self.sampling.importance_correction == "none":
            return self
        for arm in map(self.arm, self.arms):
            if arm.training.engine == "trl" and not arm.untrained:
                raise ValueError(
                    f"sampling.importance_correction: {self.sampling.importance_correction} has no effect on arm "
                    f"{arm.name!r}, which training.engine: trl trains and samples; leave it at none, and use TRL's own "
                    "training.engine_options.vllm_importance_sampling_correction"
                )
        return self

    @model_validator(mode="after")
    def _floors_have_a_baseline(self) -> Self:
        """Checks that a floor and the baseline that it follows see the same prompts at each step."""
        baseline = self.arm(self.comparison.baseline)
        for arm in map(self.arm, self.arms):
            if not arm.diversity.follows_baseline:
                continue
            ours, theirs = arm.training, baseline.training
            shared = set(arm.loss.floor_keys)
            same = ours.model_dump(include=shared) == theirs.model_dump(include=shared)
            if arm.name == baseline.name or baseline.untrained or not same:
                raise ValueError(
                    f"arms.{arm.name}.diversity.floor_margin is measured from the arm {baseline.name!r} step by step: "
                    "that must be another, trained arm with the same "
                    f"{' and '.join(f'training.{key}' for key in sorted(shared))}"
                )
        return self

    @property
    def trained_arms(self) -> list[str]:
        """Returns the arms of the file that are trained."""
        return [name for name in self.arms if not self.arm(name).untrained]

    @property
    def untrained_arm(self) -> str | None:
        """Returns the arm that stands for the model before training and is not judged; None where the file leaves it
        out, no arm is trained, or an arm of the file is the untrained model already."""
        is_stated = any(
            arm.untrained and arm.verbalized is None and arm.model == self.model for arm in map(self.arm, self.arms)
        )
        return UNTRAINED if self.evaluation.untrained and not is_stated and self.trained_arms else None

    @property
    def sampled_arms(self) -> list[str]:
        """Returns the arms of the file, and the untrained model."""
        return [*self.arms, *filter(None, [self.untrained_arm])]

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """Lists every (arm, seed) that is sampled: no training seed changes the untrained model, so it is sampled
        once."""
        return [
            (arm, seed) for arm in self.sampled_arms for seed in (self.seeds if arm in self.arms else self.seeds[:1])
        ]

    def arm(self, name: str) -> Arm:
        """Resolves the arm with every section filled in. Raises ConfigError where the arm's keys do not fit."""
        changes: dict[str, Any] = dict(self.arms[name]) if name in self.arms else {"untrained": True}
        flags = {key: changes.pop(key) for key in ("untrained", "verbalized") if key in changes}
        sections: dict[str, Any] = {key: getattr(self, key).model_dump() for key in ("model", "training", "diversity")}
        unknown = set(changes) - set(sections)
        if unknown:
            raise ValueError(
                f"arms.{name}.{sorted(unknown)[0]}: unknown key, expected model, training, diversity, untrained or "
                "verbalized"
            )
        for key, change in changes.items():
            if not isinstance(change, Mapping | None):
                raise ValueError(f"arms.{name}.{key}: expected the keys that this arm changes, got {change!r:.60}")
        merged: dict[str, Any] = {key: _merge(section, changes.get(key) or {}) for key, section in sections.items()}
        try:
            return Arm(name=name, **flags, **merged)
        except ValidationError as error:
            raise ValueError("; ".join(describe_problems(error, Arm, prefix=f"arms.{name}"))) from error

    @classmethod
    def from_file(cls, path: str | Path, overrides: Overrides = ()) -> Experiment:
        """Reads a YAML experiment file and dotted overrides: `training.steps=20`, several, or {"training.steps": 20}.

        Raises ConfigError that lists every problem with its key. Paths in the file become absolute, relative to
        the file's folder.
        """
        path = user_path(path)
        content = with_absolute_paths(read_yaml(path, overrides), path.resolve().parent)
        load_stated_metrics(content, str(path))
        return cls.from_mapping(content, source=str(path))

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], *, source: str = "experiment") -> Experiment:
        """Checks a mapping with the sections of an experiment file; `source` names it in messages."""
        return checked(cls, content, source)


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both_sections = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_sections else value
    return merged
