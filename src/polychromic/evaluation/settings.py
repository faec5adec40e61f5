"""Checks the sections `evaluation` and `comparison` of an experiment file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from polychromic.diversity.tokens import tokenizer_of
from polychromic.errors import ConfigError
from polychromic.evaluation.counting.curves import split_at_k
from polychromic.evaluation.criteria import (
    DEFAULT_LEVELS,
    Criterion,
    CriterionDirection,
    Levels,
    contradictions,
    impossible_criteria,
)
from polychromic.evaluation.metrics import CHECKER, EMBEDDER, JUDGE, THINKING, declare_metric, find_metric, load_metrics
from polychromic.records import SamplingParameters
from polychromic.registry import is_import_path
from polychromic.settings import Settings
from polychromic.tasks.settings import TaskSettings


def load_stated_metrics(content: Mapping[str, Any], source: str) -> None:
    """Runs the code of the metrics that an experiment file names, so that its criteria can be checked against them.

    `content` is the file's mapping, not validated yet; what has another form is left to validation. Raises ConfigError
    that names `source` and the key where a metric cannot be loaded.
    """
    evaluation = content.get("evaluation")
    names = evaluation.get("metrics") if isinstance(evaluation, Mapping) else None
    if isinstance(names, list):
        try:
            load_metrics([name for name in names if isinstance(name, str) and is_import_path(name)])
        except ConfigError as error:
            raise ConfigError(f"{source}: evaluation.metrics: {error}") from error


class SamplingSettings(Settings):
    """Says how answers are sampled at evaluation."""

    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, lt=1)


class EvaluationSettings(Settings):
    """Holds what is sampled from every trained arm, and how it is measured."""

    split: Literal["validation", "test"] = "test"
    num_prompts: int = Field(default=200, ge=1)
    """Number of prompts of the split, from its start; all of them where it has fewer."""
    num_samples: int = Field(default=64, ge=2)
    """Generations a prompt for each sampling setting."""
    max_new_tokens: int = Field(default=64, ge=1)
    untrained: bool = True
    """Samples the untrained model too, once, and shows it beside the trained arms; no verdict is given on it."""
    sampling: list[SamplingSettings] = Field(default_factory=lambda: [SamplingSettings()], min_length=1)
    """The first one is the primary sampling that the criteria are judged at; the others draw the frontier."""
    embedder: str | None = None
    """Measures semantic distance and Vendi score with this embedder; none by default."""
    tokens: str = "auto"
    """Units of text that lexical measures count: `words`, `characters`, `unicode`, `model`, `code` (Python) or
    `code:LANGUAGE`; `auto` chooses by the task and by the script of the baseline's texts."""
    metrics: list[str] = Field(default_factory=list)
    """Metrics of your own, as `path/to/file.py:name` or `module:name`: measured on every arm, shown, and known to
    criteria."""
    max_decode_batch: int = Field(default=256, ge=1)
    """Sequences decoded at once, at least the `num_samples` of one prompt. Bounds memory."""

    @field_validator("metrics")
    @classmethod
    def _metrics_are_import_paths(cls, metrics: list[str]) -> list[str]:
        for name in metrics:
            declare_metric(name)
        return metrics

    @field_validator("tokens")
    @classmethod
    def _known_units(cls, tokens: str) -> str:
        if tokens.partition(":")[0] not in ("auto", "words", "characters", "unicode", "model", "code"):
            raise ValueError(
                f"{tokens!r} is not known, expected auto, words, characters, unicode, model, code or code:LANGUAGE"
            )
        if tokens not in ("auto", "model"):
            tokenizer_of(tokens)
        return tokens

    @field_validator("sampling")
    @classmethod
    def _each_setting_once(cls, sampling: list[SamplingSettings]) -> list[SamplingSettings]:
        if len({settings.model_dump_json() for settings in sampling}) < len(sampling):
            raise ValueError("the same sampling setting is listed twice")
        return sampling

    def sampling_parameters(self) -> list[SamplingParameters]:
        """Returns the sampling settings as the sampler takes them, the primary one first."""
        return [
            SamplingParameters(sampling.temperature, sampling.top_p, sampling.min_p, self.max_new_tokens)
            for sampling in self.sampling
        ]


class CriterionSettings(Settings):
    """One stated criterion: a metric, a direction and how far it must move against the baseline."""

    metric: str
    direction: CriterionDirection = "higher"
    relative_change: float | None = None
    """Least relative change in the stated direction, such as 0.12; 0 asks for any change."""
    margin: float | None = None
    """With `not_worse`: the largest absolute loss that still counts as no worse."""
    alpha: float = 0.05
    over_seeds: bool | None = None
    """Tests the difference against the spread of training seeds; where not stated it must from three
    seeds on."""

    @model_validator(mode="after")
    def _is_a_criterion(self) -> Self:
        self.criterion()
        return self

    def criterion(self) -> Criterion:
        """Returns the criterion as the evaluation takes it; raises ValueError where its parts do not fit together."""
        return Criterion(**self.model_dump())


class ComparisonSettings(Settings):
    """The comparison of arms: the baseline, the criteria that count as success, and how seeds are paired."""

    baseline: str = "baseline"
    minimum: list[CriterionSettings] | None = None
    """The criteria an arm must meet; the project's defaults where neither level is stated."""
    strong: list[CriterionSettings] | None = None
    baseline_values: dict[str, float] = Field(default_factory=dict)
    """Values that the baseline reaches, by metric key: a criterion that this rules out is refused on reading."""
    if_impossible: Literal["stop", "report"] = "stop"
    """Once the baseline is sampled and leaves no room for a stated criterion: `stop` before more is spent, or go on and
    `report` the criterion as impossible."""
    match_seeds: Literal["name", "order"] = "name"
    """Pairing of the seeds of two arms: those of one name, or, for generations made elsewhere, the first with the
    first and so on."""

    @model_validator(mode="after")
    def _criteria_are_possible(self) -> Self:
        for key in self.baseline_values:
            find_metric(key)
        for name, level in (("minimum", self.minimum), ("strong", self.strong)):
            problems = contradictions([setting.criterion() for setting in level or ()])
            if problems:
                raise ValueError(f"{name}: {'; '.join(problems)}")
        criteria = [criterion for level in self.levels().values() for criterion in level]
        impossible = impossible_criteria(criteria, self.baseline_values)
        if impossible:
            raise ValueError(f"{'; '.join(impossible)}; state another criterion, or a harder task")
        return self

    def levels(self) -> Levels:
        """Returns the stated criteria by level, the deciding one first."""
        stated = {"minimum": self.minimum, "strong": self.strong}
        chosen = {name: [setting.criterion() for setting in level] for name, level in stated.items() if level}
        return chosen or DEFAULT_LEVELS

    def require_measured(
        self, task: TaskSettings, evaluation: EvaluationSettings, *, samples: int | None = None, rewarded: bool = True
    ) -> None:
        """Raises ValueError where a stated criterion is on a metric that task and evaluation do not measure; `samples`
        is the number of generations per prompt where it is known, `rewarded` says that answers get rewards."""
        unmeasured = []
        for key in dict.fromkeys(
            criterion.metric for level in (self.minimum, self.strong) for criterion in level or ()
        ):
            needs, (_, k) = find_metric(key).needs, split_at_k(key) or ("", 0)
            if samples is not None and k > samples:
                unmeasured.append(f"{key} needs {k} generations per prompt, and evaluation.num_samples is {samples}")
            if needs.startswith(CHECKER) and not rewarded:
                unmeasured.append(f"{key} needs task.checker, and none is named")
            if needs == EMBEDDER and evaluation.embedder is None:
                unmeasured.append(f"{key} needs evaluation.embedder, such as minilm")
            if needs == JUDGE and not task.has_judge:
                unmeasured.append(f"{key} needs task.judge, a second checker")
            if needs == THINKING and task.thinking != "apart":
                unmeasured.append(f"{key} needs task.thinking: apart")
        if unmeasured:
            raise ValueError(f"comparison: {'; '.join(unmeasured)}; add it, or state another criterion")
