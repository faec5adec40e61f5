"""The protocol of a sampler, the sampling section of an experiment, and `build_sampler`.

A sampler of your own needs no change here: `sampling: {engine: mine.py:MySampler, …}` names what is called with the
language model, `max_decode_batch=` and the section's other keys, and returns a `Sampler`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import ConfigDict, model_validator

from polychromic.errors import ConfigError
from polychromic.models.chat import ThinkingMode, thinking_of_model
from polychromic.records import Generation, Prompt, SamplingParameters
from polychromic.registry import construct, is_import_path, resolve
from polychromic.settings import Settings

if TYPE_CHECKING:
    from polychromic.models.loading import LanguageModel


class Sampler(Protocol):
    """Draws generations from the policy as it stands."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        parameters: SamplingParameters,
        seeds: Sequence[int],
    ) -> list[list[Generation]]:
        """Draws generations for each prompt; `seeds[i]` alone decides the randomness of `prompts[i]`."""
        ...


def _local(language_model: LanguageModel, max_decode_batch: int) -> Sampler:
    from polychromic.sampling.local import LocalSampler

    return LocalSampler(language_model, max_decode_batch)


SAMPLERS: Mapping[str, Callable[..., Sampler]] = {"local": _local}
"""Builders of samplers, by name."""


class SamplerSettings(Settings):
    """The engine that draws generations, in training and in evaluation."""

    model_config = ConfigDict(extra="allow")

    engine: str = "local"
    """`local` (the process's own model), or your own as `path/to/file.py:name` or `module:name`; every further key of
    the section is passed on to it."""

    @model_validator(mode="after")
    def _engine_takes_the_keys(self) -> Self:
        if is_import_path(self.engine):
            return self
        if self.engine not in SAMPLERS:
            raise ValueError(
                f"engine {self.engine!r} is not known, expected one of {', '.join(SAMPLERS)}, path/to/file.py:name or "
                "module:name"
            )
        for key in self.model_extra or {}:
            raise ValueError(f"{key}: unknown key; engine {self.engine} takes no further keys")
        return self


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
    factory, kind = resolve(settings.engine, SAMPLERS, "sampler"), f"sampler {settings.engine}"
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
