"""The keys of `sampling: {engine: vllm, …}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from polychromic.settings import Settings

_OURS = {
    "dtype": "model.dtype",
    "enable_lora": "the adapter",
    "enable_prefix_caching": "sampling",
    "logprobs_mode": "sampling",
    "max_lora_rank": "model.adapter.rank",
    "max_loras": "sampling",
    "model": "model.source",
    "revision": "model.revision",
    "seed": "the prompts' seeds",
    "tokenizer": "model.source",
    "trust_remote_code": "model.trust_remote_code",
}
"""Options of vLLM that the experiment decides, and what they follow from."""


class VllmSettings(Settings):
    """Says where vLLM is and how it is watched over (docs/engines.md)."""

    url: str | None = None
    """Address of a `vllm serve`, such as http://localhost:8000; without one vLLM is started by this process."""
    served_model: str | None = None
    """With `url`: the name that the server gives the base model, where it serves several."""
    adapter_folder: str | None = None
    """Folder that adapters are handed over in, read by a server too. /dev/shm, which is memory, where not stated."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Without `url`: passed on to `vllm.LLM`, such as {gpu_memory_utilization: 0.4, max_model_len: 4096}."""
    probe_tolerance: float | None = Field(default=None, gt=0)
    """Nats per token that vLLM's log-probabilities may lie from the trainer's on average before the run is stopped;
    0.002 with model.dtype float32 and 0.05 in half precision where not stated."""
    retry_seconds: float = Field(default=300.0, ge=0)
    """With `url`: seconds that a server which does not answer is tried again before the run is stopped."""
    request_seconds: float = Field(default=600.0, gt=0)
    """With `url`: the longest that one request may take."""
    concurrency: int = Field(default=64, ge=1)
    """With `url`: requests in flight, one a prompt."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"expected an address such as http://localhost:8000, got {url!r:.60}")
        return url.rstrip("/").removesuffix("/v1")

    @field_validator("adapter_folder")
    @classmethod
    def _is_absolute(cls, folder: str | None) -> str | None:
        if folder is not None and not Path(folder).is_absolute():
            raise ValueError(f"expected an absolute path, which the engine reads too, got {folder!r:.60}")
        return folder

    @field_validator("options")
    @classmethod
    def _leaves_the_experiment_alone(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key in sorted(set(options) & set(_OURS)):
            raise ValueError(f"{key} follows from {_OURS[key]}; state it there")
        return options

    @model_validator(mode="after")
    def _a_server_has_its_own_options(self) -> VllmSettings:
        if self.url is not None and self.options:
            raise ValueError("options are of vLLM in this process; a server takes its own when it is started")
        if self.url is None and self.served_model is not None:
            raise ValueError("served_model is of a server; it needs url")
        return self
