"""Checks of preflight, what they look at, and how they are shown."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from rich.console import Console
from rich.text import Text

from polychromic.diversity import MeasureSettings
from polychromic.errors import ModelError, PolychromicError
from polychromic.evaluation.collect import CollectionPlan, collect
from polychromic.evaluation.group_metrics import MeasureOptions
from polychromic.evaluation.measure import measure_rows
from polychromic.evaluation.tables import SampledTable
from polychromic.experiment.compare import text_units
from polychromic.experiment.config import Arm, Experiment
from polychromic.models.loading import LanguageModel, load_language_model
from polychromic.models.selfcheck import ModelCheck, check_on_prompts
from polychromic.plain_text import plain_text
from polychromic.records import GenerationRow, Prompt, SamplingParameters
from polychromic.sampling.base import Sampler, build_sampler
from polychromic.seeding import child_seed
from polychromic.tasks.base import Task, build_task

if TYPE_CHECKING:
    from polychromic.experiment.preflight.gradients import ProbedArm

Status = Literal["passed", "warned", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has to say: the result with its numbers, and the mend where it did not pass."""

    status: Status
    result: str
    mend: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A finding with the check's number, name and time taken in seconds."""

    number: int
    name: str
    status: Status
    result: str
    mend: str
    seconds: float
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PreflightReport:
    """All checks in order."""

    checks: tuple[CheckResult, ...]

    @property
    def failed(self) -> list[CheckResult]:
        """The checks that a run would not survive, or not be worth anything after."""
        return [check for check in self.checks if check.status == "failed"]

    @property
    def seconds(self) -> float:
        """Time taken by all checks."""
        return sum(check.seconds for check in self.checks)

    def figures(self, name: str) -> Mapping[str, Any]:
        """The numbers that the check of that name left, empty where it was skipped."""
        return next(check.figures for check in self.checks if check.name == name)

    def to_json(self) -> dict[str, Any]:
        """Plain mapping for preflight.json and `--json`."""
        return {
            "schema_version": 1,
            "passed": not self.failed,
            "checks": [asdict(one) for one in self.checks],
        }


class CheckSkippedError(PolychromicError):
    """A check that cannot say anything, because an earlier one has failed."""


Check = Callable[["Probe"], Finding]


def carry_out(
    checks: Sequence[tuple[str, Check]], probe: Probe, on_result: Callable[[CheckResult], None]
) -> PreflightReport:
    """Run the checks in order. An error for people is a failed check, not an end: the others still have their say."""
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
            number, name, finding.status, finding.result, finding.mend, seconds, finding.figures
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
    """Print number, name, result, mend and time of a check. Text from data is never read as markup."""
    console = console or Console()
    mark, style = _MARKS[check.status]
    head = Text.assemble(
        (f"{check.number:>2} {mark} ", style), (check.name, "bold"), f"  {plain_text(check.result)}"
    )
    console.print(head.append(f"  ({check.seconds:.1f} s)", "dim"), soft_wrap=True)
    if check.mend:
        console.print(Text(f"     → {plain_text(check.mend)}", style), soft_wrap=True)


PROBE_PROMPTS = 20
PROBE_SAMPLES = 16
_QUICK_SECONDS = 5.0  # what is over sooner is done again: the first time also warms up caches and allocator


@dataclass(frozen=True, slots=True)
class ProbeGenerations:
    """What the untrained model said, and how long sampling and checking took."""

    rows: list[GenerationRow]
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens sampled."""
        return sum(row.n_tokens for row in self.rows)


@dataclass
class Probe:
    """An experiment being looked at before it runs. Everything heavy is made once, when first asked for."""

    experiment: Experiment
    folder: Path
    """Where the run is going to write."""
    model_failure: str = ""
    model_checks: dict[str, ModelCheck] = field(default_factory=dict)
    """By arm, of the models loaded so far."""

    @cached_property
    def task(self) -> Task:
        """The experiment's task, its files read."""
        return build_task(self.experiment.task)

    @cached_property
    def baseline(self) -> Arm:
        """The arm that all others are compared with."""
        return self.experiment.arm(self.experiment.comparison.baseline)

    @cached_property
    def trained_arms(self) -> list[Arm]:
        """The arms that are trained at all."""
        return [arm for arm in map(self.experiment.arm, self.experiment.arms) if not arm.untrained]

    @property
    def workers(self) -> int:
        """Jobs that run side by side."""
        return min(self.experiment.run.workers, len(self.experiment.jobs))

    @cached_property
    def arms(self) -> dict[str, ProbedArm]:
        """First steps of every trained arm."""
        from polychromic.experiment.preflight.gradients import probe_arms

        return probe_arms(self)

    @property
    def language_model(self) -> LanguageModel:
        """The baseline arm's model as training would start with it.

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

    def load(self, arm: Arm) -> LanguageModel:
        """An arm's model as training would start with it, computed in the way that was found to agree on it."""
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
        """The prompts that the run is going to be judged on."""
        settings = self.experiment.evaluation
        return self.task.prompts(settings.split)[: settings.num_prompts]

    @cached_property
    def generations(self) -> ProbeGenerations:
        """Generations of the untrained model for a few validation prompts: the test split is not looked at."""
        settings = self.experiment.evaluation
        primary_sampling = settings.sampling_parameters()[0]
        prompts = self.task.prompts("validation")[:PROBE_PROMPTS] or self.evaluation_prompts[:PROBE_PROMPTS]
        plan = CollectionPlan(
            prompts=tuple(prompts),
            samples=min(PROBE_SAMPLES, settings.num_samples),
            sampling_settings=(primary_sampling,),
            names=(self.experiment.name, "preflight"),
            max_decode_batch=settings.max_decode_batch,
        )
        sampler = build_sampler(
            self.experiment.sampling,
            self.language_model,
            max_decode_batch=settings.max_decode_batch,
            thinking=self.experiment.task.thinking,
        )
        sampler.sample(prompts[:1], 1, SamplingParameters(max_new_tokens=2), [0])  # the first call is slow
        found = self._collected(plan, sampler)
        if found.seconds < _QUICK_SECONDS:
            found = min(found, self._collected(plan, sampler), key=lambda one: one.seconds)
        return found

    def _collected(self, plan: CollectionPlan, sampler: Sampler) -> ProbeGenerations:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            rows = collect(plan, lambda: sampler, self.task, Path(folder) / "generations.jsonl")
            return ProbeGenerations(rows, time.perf_counter() - started)

    def metric(self, key: str) -> float:
        """Mean over the probe prompts of a metric that needs no embedder, nan where it is not known."""
        values = self._measured.metric(key)
        return math.nan if values is None or np.isnan(values).all() else float(np.nanmean(values))

    @cached_property
    def _measured(self) -> SampledTable:
        units = text_units(self.experiment, self.task, [row.text for row in self.generations.rows])
        options = MeasureOptions(
            self.task.pass_threshold,
            self.experiment.evaluation.cluster_distance,
            measures=MeasureSettings(tokens=units.tokens),
        )
        return next(iter(measure_rows(self.generations.rows, options).sampled.values()))
