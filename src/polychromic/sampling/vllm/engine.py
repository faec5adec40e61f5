"""Defines requests and answers of an engine, in process or by URL, and refuses what it could not follow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from polychromic.errors import EngineError
from polychromic.records import SamplingParameters

if TYPE_CHECKING:
    from peft import LoraConfig

OLDEST_VERSION, NEWEST_VERSION = (0, 32), (1, 0)
"""Versions of vLLM from the first that was tested to before the second, which may be another library."""
_OLDEST, _NEWEST = (".".join(map(str, version)) for version in (OLDEST_VERSION, NEWEST_VERSION))
REQUIREMENT = f"vllm>={_OLDEST},<{_NEWEST}"
COLDEST = 0.01
"""The lowest temperature of vLLM, which it takes for any lower one that it is asked for."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt; `seed` alone decides the randomness of its draws."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Draw:
    """Sampled tokens, the stop token included, with their log-probabilities as they were sampled."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


class EngineRestartedError(Exception):
    """An engine that has come back without the adapters it was given."""


class Engine(Protocol):
    """A running vLLM."""

    place: str
    """Its name in messages."""

    def load_adapter(self, name: str, number: int, folder: Path) -> None:
        """Takes up the adapter in `folder`, under a number that it never had before.

        Raises EngineError where it cannot serve it, EngineRestartedError where it came back in between.
        """
        ...

    def forget_adapter(self, name: str) -> None:
        """Lets go of an adapter that is not asked for again."""
        ...

    def draw(self, requests: Sequence[Request], keys: Mapping[str, Any], adapter: str | None) -> list[list[Draw]]:
        """Draws for each request in the way of `keys` (`sampling_keys`), from the base model where `adapter` is None.

        Raises EngineError where it is not there, EngineRestartedError where it came back in between.
        """
        ...

    def close(self) -> None:
        """Ends what this process started."""
        ...


def sampling_keys(parameters: SamplingParameters, n: int, stop_ids: frozenset[int]) -> dict[str, Any]:
    """Returns the keys, the same for `vllm.SamplingParams` and the completions endpoint, that draw n generations as
    `sampling.local` does.

    All are stated: a server fills in what is not from the model's generation_config.json. Raises EngineError for
    parameters that vLLM would not follow.
    """
    if parameters.others:
        named = ", ".join(f"{name}={value}" for name, value in parameters.others)
        raise EngineError(f"sampling engine vllm: {named} is of another tool and is not sampled with; leave it out")
    if parameters.temperature < COLDEST:
        raise EngineError(
            f"sampling engine vllm: a temperature of {parameters.temperature:g} would be sampled at {COLDEST}, the "
            "lowest that vLLM has; raise it, or use sampling.engine: local"
        )
    return {
        "n": n,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "top_k": 0,  # all tokens
        "min_p": parameters.min_p,
        "max_tokens": parameters.max_new_tokens,
        "min_tokens": 0,
        # The tokenizer's own end is among ours where it counts.
        "ignore_eos": True,
        "stop_token_ids": sorted(stop_ids),
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "watermarking": False,
        "logprobs": 0,  # of the sampled token alone
    }


def tells_logprobs(parameters: SamplingParameters) -> bool:
    """Returns whether vLLM's log-probabilities are those of the tempered policy: with a cut tail they are of what is
    left.
    """
    return parameters.top_p == 1.0 and parameters.min_p == 0.0


def require_servable(config: LoraConfig) -> None:
    """Raises EngineError that names the keys of `model.adapter` that vLLM has no counterpart for."""
    unserved = {
        "bias": config.bias != "none",
        "modules_to_save": bool(config.modules_to_save),
        "trainable_token_indices": bool(config.trainable_token_indices),
        "use_dora": bool(config.use_dora),
    }
    if named := [f"model.adapter.{key}" for key, stated in unserved.items() if stated]:
        raise EngineError(
            f"sampling engine vllm serves plain LoRA, without {' and '.join(named)}; leave that out, or use "
            "sampling.engine: local"
        )


def largest_rank(config: LoraConfig) -> int:
    """Returns the largest rank of an adapter's modules."""
    return max([config.r, *(config.rank_pattern or {}).values()])


def require_version(version: str, place: str) -> None:
    """Raises EngineError where a version of vLLM is out of the range that is known to work."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    found = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if not OLDEST_VERSION <= found < NEWEST_VERSION:
        raise EngineError(
            f"{place}: vLLM {version}, expected at least {_OLDEST} and below {_NEWEST}; pip install '{REQUIREMENT}'"
        )
