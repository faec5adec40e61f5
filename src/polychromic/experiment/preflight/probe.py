"""Makes what checks look at, each once, within preflight's time: the model, its first generations and first steps."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from polychromic.errors import EngineError, ModelError, PolychromicError
from polychromic.evaluation.measure import SameAnswers
from polychromic.evaluation.tables import SampledTable
from polychromic.experiment.compare import mean_over_prompts, measure_sampled
from polychromic.experiment.config import Arm, Experiment
from polychromic.models.loading import LanguageModel, load_language_model
from polychromic.models.selfcheck import ModelCheck, check_on_prompts
from polychromic.processes import free_device_memory
from polychromic.records import Prompt
from polychromic.seeding import child_seed
from polychromic.tasks.base import Task, build_task
from polychromic.tasks.equivalence import equivalence_of

if TYPE_CHECKING:
    from polychromic.experiment.preflight.generations import ProbeGenerations
    from polychromic.experiment.preflight.training import ProbedArm


@dataclass
class TimeLimit:
    """Counts down from the start of preflight; `minutes` is the experiment's `preflight.minutes`."""

    minutes: float
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def left(self) -> float:
        """Returns the seconds that are left, 0 where the time is over."""
        return max(0.0, self.started + 60.0 * self.minutes - self.clock())

    def share(self, part: float) -> float:
        """Returns the seconds that a check may take whose part of the whole is `part`: no more than are left."""
        return min(part * 60.0 * self.minutes, self.left)

    def most(self, wanted: int, seconds_each: float, part: float) -> int:
        """Returns how many of `wanted` fit into a part of the time, at least one."""
        if seconds_each <= 0.0:
            return wanted
        return max(1, min(wanted, int(self.share(part) / seconds_each)))

    def lowered(self, did: int, wanted: int, noun: str) -> str:
        """Says what was lowered, such as "; 4 of 20 prompts, to keep preflight.minutes = 2"; "" where nothing was."""
        return "" if did >= wanted else f"; {did} of {wanted} {noun}, to keep preflight.minutes = {self.minutes:g}"


Status = Literal["passed", "warned", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's result with its numbers, and the fix where it did not pass."""

    status: Status
    result: str
    fix: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


class CheckSkippedError(PolychromicError):
    """A check that cannot say anything, because an earlier one has failed."""


@dataclass
class Probe:
    """An experiment being looked at before it runs. Everything heavy is made once, when first asked for."""

    experiment: Experiment
    folder: Path
    """The folder that the run will write to."""
    limit: TimeLimit = field(init=False)
    model_failure: str = ""
    engine_failure: str = ""
    model_checks: dict[str, ModelCheck] = field(default_factory=dict)
    """By arm, of the models loaded so far."""

    def __post_init__(self) -> None:
        self.limit = TimeLimit(self.experiment.preflight.minutes)

    @cached_property
    def task(self) -> Task:
        """Reads the experiment's task."""
        return build_task(self.experiment.task)

    @cached_property
    def baseline(self) -> Arm:
        """Returns the arm that all others are compared with."""
        return self.experiment.arm(self.experiment.comparison.baseline)

    @cached_property
    def trained_arms(self) -> list[Arm]:
        """Lists the arms that are trained."""
        return [self.experiment.arm(name) for name in self.experiment.trained_arms]

    @property
    def workers(self) -> int:
        """Counts the jobs that run side by side."""
        return min(self.experiment.run.workers, len(self.experiment.jobs))

    @cached_property
    def arms(self) -> dict[str, ProbedArm]:
        """Makes the first steps of every trained arm."""
        from polychromic.experiment.preflight.training import probe_arms

        with self._asking_the_engine():
            return probe_arms(self)

    @contextmanager
    def _asking_the_engine(self) -> Iterator[None]:
        """Lets an engine that cannot be had fail one check: the others would wait for it as long, to say the same."""
        if self.engine_failure:
            raise CheckSkippedError("needs the engine")
        try:
            yield
        except EngineError as error:
            self.engine_failure = str(error)
            raise

    @property
    def language_model(self) -> LanguageModel:
        """Loads the baseline arm's model as training would start with it.

        Raises ModelError at first and CheckSkippedError from then on where it cannot be loaded.
        """
        if self.model_failure:
            raise CheckSkippedError("needs the model")
        try:
            return self._language_model
        except ModelError as error:
            self.model_failure = str(error)
            raise

    @cached_property
    def _language_model(self) -> LanguageModel:
        return self.load(self.baseline)

    @cached_property
    def arms_of_other_models(self) -> list[Arm]:
        """Lists one arm for each model that arms start from besides the baseline's."""
        first = {}
        for arm in map(self.experiment.arm, self.experiment.sampled_arms):
            first.setdefault(arm.model.model_dump_json(), arm)
        return [arm for arm in first.values() if arm.model != self.baseline.model]

    def seen_from(self, arm: Arm) -> Probe:
        """Returns a probe that looks at an arm's model as this one looks at the baseline's."""
        comparison = self.experiment.comparison.model_copy(update={"baseline": arm.name})
        other = Probe(self.experiment.model_copy(update={"comparison": comparison}), self.folder)
        other.task, other.limit = self.task, self.limit
        return other

    def let_go(self) -> None:
        """Frees the memory of the model; it is loaded again when it is next asked for."""
        if self.__dict__.pop("_language_model", None) is not None:
            gc.collect()  # its modules refer to each other
            free_device_memory()

    def load(self, arm: Arm) -> LanguageModel:
        """Loads an arm's model as training would start with it, computed in the way that was found to agree on it."""
        seed = child_seed(self.experiment.name, "adapter", self.experiment.seeds[0]) % 2**31
        language_model = load_language_model(arm.model, seed=seed)
        training = arm.training
        self.model_checks[arm.name] = check_on_prompts(
            language_model,
            self.task.prompts("train") if self.trained_arms else self.evaluation_prompts,
            max_new_tokens=training.max_new_tokens,
            reference_tokens=arm.loss.reference_tokens,
            trains=True,
        )
        return language_model

    @cached_property
    def evaluation_prompts(self) -> list[Prompt]:
        """Returns the prompts that the run is going to be judged on."""
        settings = self.experiment.evaluation
        return self.task.prompts(settings.split)[: settings.num_prompts]

    @cached_property
    def generations(self) -> ProbeGenerations:
        """Samples the untrained model for a few prompts."""
        from polychromic.experiment.preflight.generations import sample_untrained

        with self._asking_the_engine():
            return sample_untrained(self)

    @property
    def sampled(self) -> ProbeGenerations | None:
        """Returns the generations where some check has asked for them, and None before."""
        return self.__dict__.get("generations")

    def metric(self, key: str) -> float:
        """Averages over the probe prompts a metric that needs no embedder, nan where it is not known."""
        return mean_over_prompts(self._measured, key)

    @cached_property
    def _measured(self) -> SampledTable:
        same = SameAnswers(equivalence_of(self.task), self.generations.prompts)
        return measure_sampled(self.experiment, self.task, self.generations.rows, same)
