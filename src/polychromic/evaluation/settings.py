"""Checks the `evaluation` section of an experiment file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from polychromic.diversity.tokens import tokenizer_of
from polychromic.errors import ConfigError
from polychromic.evaluation.metrics import declare_metric, load_metrics
from polychromic.records import SamplingParameters
from polychromic.registry import is_import_path
from polychromic.settings import Settings


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
    """Sequences decoded at once. Bounds memory."""

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
