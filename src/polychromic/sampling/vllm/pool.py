"""Opens engines, one at a time in a process: samplers of one base model share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from polychromic.errors import ConfigError, EngineError
from polychromic.models.loading import LanguageModel
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import resolve_source
from polychromic.processes import free_device_memory, is_launched
from polychromic.sampling.base import keep_open
from polychromic.sampling.vllm.engine import Engine, largest_rank, require_servable
from polychromic.sampling.vllm.handover import AdapterStore, ServedPolicy
from polychromic.sampling.vllm.settings import VllmSettings

if TYPE_CHECKING:
    from peft import LoraConfig

_TOLERANCE = {torch.float32: 0.002}
_HALF_PRECISION_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class _Opened:
    """An open engine: of which base and settings, and the largest rank of adapters that it takes (0: none)."""

    base: str
    settings: VllmSettings
    rank: int
    served: ServedPolicy


_opened: list[_Opened] = []


def served_policy(language_model: LanguageModel, settings: VllmSettings) -> ServedPolicy:
    """Returns the engine of this model that the process has open, or starts one and ends any other.

    Raises EngineError where it cannot be had, or does not serve adapters of the model's kind.
    """
    model = language_model.settings
    if model is None:
        raise ConfigError("sampling.engine vllm loads the base itself, and this model was not loaded by its settings")
    config: LoraConfig | None = getattr(language_model.model, "peft_config", {}).get("default")
    if config is not None:
        require_servable(config)
    rank = 0 if config is None else largest_rank(config)
    base = model.model_dump_json(exclude={"adapter"})
    for one in _opened:
        if one.base == base and one.settings == settings and one.rank >= rank:
            return one.served
    close_served()
    dtype = language_model.dtype
    tolerance = settings.probe_tolerance or _TOLERANCE.get(dtype, _HALF_PRECISION_TOLERANCE)  # type: ignore[arg-type]
    store = AdapterStore(settings.adapter_folder, shared=settings.url is not None)
    try:
        served = ServedPolicy(_engine(model, settings, rank), store, tolerance)
    except BaseException:
        store.close()
        raise
    _opened.append(_Opened(base, settings, rank, served))
    keep_open(close_served)
    return served


def close_served() -> None:
    """Ends the engines of this process."""
    while _opened:
        _opened.pop().served.close()


def _engine(model: ModelSettings, settings: VllmSettings, rank: int) -> Engine:
    if settings.url is not None:
        from polychromic.sampling.vllm.server import ServerEngine

        return ServerEngine(settings, model.source, [model.source, str(resolve_source(model.source))])
    if is_launched():
        raise EngineError(
            "sampling.engine vllm in process is for one process, and this is one of several that a launcher started; "
            "start a `vllm serve` and name it in sampling.url"
        )
    from polychromic.sampling.vllm.process import ProcessEngine

    free_device_memory()  # vLLM asks what is free of its share
    return ProcessEngine(model, rank, settings.options)
