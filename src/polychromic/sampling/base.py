"""The protocol of a sampler, the sampling section of an experiment, and `build_sampler`.

A sampler of your own needs no change here: `sampling: {engine: mine.py:MySampler, …}` names what is called with the
language model, `max_decode_batch=` and the section's other keys, and returns a `Sampler`.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from polychromic.errors import ConfigError
from polychromic.models.chat import ThinkingMode, thinking_of_model
from polychromic.objective.importance import ImportanceLevel
from polychromic.records import Generation, Prompt, SamplingParameters
from polychromic.registry import construct, is_import_path, resolve
from polychromic.sampling.vllm.settings import VllmSettings
from polychromic.settings import Settings

if TYPE_CHECKING:
    from polychromic.models.loading import LanguageModel


class Sampler(Protocol):
    """Draws generations from the policy as it stands: one that keeps a copy of it elsewhere brings that up to date.

    It may also have `take_metrics() -> dict[str, float]`, which training logs after every step (`taken_metrics`).
    """

    def sample(
        self, prompts: Sequence[Prompt], num_samples: int, parameters: SamplingParameters, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        """Draws generations for each prompt; `seeds[i]` alone decides the randomness of `prompts[i]`."""
        ...


@dataclass(frozen=True, slots=True)
class SamplerKind:
    """An engine of the package: what makes its sampler, and the settings of the keys that it takes."""

    build: Callable[..., Sampler]
    keys: type[Settings] | None = None


def _local(language_model: LanguageModel, max_decode_batch: int) -> Sampler:
    from polychromic.sampling.local import LocalSampler

    return LocalSampler(language_model, max_decode_batch)


def _vllm(language_model: LanguageModel, max_decode_batch: int, **keys: Any) -> Sampler:
    from polychromic.sampling.vllm.sampler import VllmSampler

    return VllmSampler.opened(language_model, VllmSettings(**keys))  # it has a scheduler of its own


SAMPLERS: Mapping[str, SamplerKind] = {"local": SamplerKind(_local), "vllm": SamplerKind(_vllm, VllmSettings)}
"""The engines, by name."""


class SamplerSettings(Settings):
    """The engine that draws generations, in training and in evaluation."""

    model_config = ConfigDict(extra="allow")

    engine: str = "local"
    """`local` (the process's own model), `vllm` (docs/engines.md), or your own as `path/to/file.py:name` or
    `module:name`; every further key of the section is passed on to it."""
    importance_correction: Literal["none", "truncated"] = "none"
    """`truncated` weighs the policy gradient by π/μ, the trained policy over the engine's, where the two differ."""
    importance_level: ImportanceLevel = "generation"
    """The span whose tokens' ratios are multiplied: exactness against variance (docs/engines.md)."""
    importance_cap: float = Field(default=2.0, ge=1)
    """The largest weight; what lies above is cut to it."""

    @model_validator(mode="before")
    @classmethod
    def _fills_in_the_engines_keys(cls, content: Any) -> Any:
        """Checks the keys of a registered engine and adds its defaults, so that a resolved file says them all."""
        if not isinstance(content, Mapping):
            return content
        engine = content.get("engine", "local")
        kind = SAMPLERS.get(engine) if isinstance(engine, str) else None
        if kind is None:
            return content
        further = {key: value for key, value in content.items() if key not in cls.model_fields}
        if kind.keys is None:
            for key in further:
                raise ValueError(f"{key}: unknown key; engine {engine} takes no further keys")
            return content
        return {**content, **checked_keys(kind.keys, further, engine).model_dump(mode="json")}

    @model_validator(mode="after")
    def _engine_is_known(self) -> Self:
        if self.engine not in SAMPLERS and not is_import_path(self.engine):
            raise ValueError(
                f"engine {self.engine!r} is not known, expected one of {', '.join(SAMPLERS)}, path/to/file.py:name or "
                "module:name"
            )
        return self


def checked_keys(kind: type[Settings], keys: Mapping[str, Any], engine: str) -> Settings:
    """Returns the settings that an engine's keys make; raises ValueError with each problem behind its key."""
    try:
        return kind.model_validate(keys)
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False):
            place = ".".join(map(str, problem["loc"]))
            message = problem["msg"].removeprefix("Value error, ")
            if problem["type"] == "extra_forbidden":
                message = f"unknown key; engine {engine} takes {', '.join(kind.model_fields)}"
            problems.append(f"{place}: {message}" if place else message)
        raise ValueError("; ".join(problems)) from error


_open = ExitStack()


def keep_open(close: Callable[[], None]) -> None:
    """Remembers how an engine that samplers of this process share is ended, at the latest when the process ends."""
    _open.callback(close)


def close_engines() -> None:
    """Ends the engines that samplers of this process share; a sampler made later starts one again."""
    _open.close()


atexit.register(close_engines)


def taken_metrics(sampler: Sampler) -> dict[str, float]:
    """Returns what a sampler measured since it was last asked, by the names of metrics.jsonl; empty for one that
    measures nothing.
    """
    take: Callable[[], dict[str, float]] | None = getattr(sampler, "take_metrics", None)
    return take() if take is not None else {}


def build_sampler(
    settings: SamplerSettings,
    language_model: LanguageModel,
    *,
    max_decode_batch: int,
    thinking: ThinkingMode,
    verbalized: int | None = None,
) -> Sampler:
    """Makes the sampler of a loaded model: what it hands out, and so what is checked and measured, are answers.

    max_decode_batch: sequences decoded at once. verbalized: how many answers one reply is asked for.
    Raises ConfigError where an engine of the user's own cannot be made, and ModelError as `VerbalizedSampler` does.
    """
    entry, kind = resolve(settings.engine, SAMPLERS, "sampler"), f"sampler {settings.engine}"
    factory = entry.build if isinstance(entry, SamplerKind) else entry
    keys: dict[str, Any] = {"max_decode_batch": max_decode_batch, **(settings.model_extra or {})}
    sampler = construct(factory, kind, language_model, **keys)
    if not hasattr(sampler, "sample"):
        raise ConfigError(f"{kind} makes a {type(sampler).__name__}, which has no method sample")
    mode = thinking_of_model(thinking, language_model.tokenizer, language_model.chat_options)
    if mode.strips:
        from polychromic.sampling.local import AnswerSampler

        sampler = AnswerSampler(sampler, mode)
    if verbalized is not None:
        from polychromic.sampling.verbalized import VerbalizedSampler

        sampler = VerbalizedSampler(sampler, language_model.tokenizer, verbalized)
    return sampler
