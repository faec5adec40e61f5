"""Keeps the adapter that an engine serves in step with the trained one, and probes after every hand-over that it is.

That an engine silently answers without the adapter, or with an earlier one, is the failure most often told of systems
that sample in one place and train in another. Rewards still come in, so nothing but log-probabilities shows it.
The engine reads adapters from memory-backed storage.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from polychromic.errors import EngineError
from polychromic.models.adapters import replaced_weights, save_adapter
from polychromic.models.loading import LanguageModel
from polychromic.records import SamplingParameters
from polychromic.sampling.vllm.engine import Engine, Request
from polychromic.sampling.vllm.probe import BASE, Prober, ProbeResult, adapter_weights, trial_weights, weights_digest

_MEMORY = Path("/dev/shm")
_PREFIX, _LOCK = "polychromic-adapters-", ".lock"


class AdapterStore:
    """A folder in memory for the adapters of one engine; what killed processes left beside it is removed."""

    def __init__(self, parent: str | None, *, shared: bool) -> None:
        """Makes it. parent: where, memory where None; shared: whether other users' processes read it."""
        memory = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        place = Path(parent) if parent else memory
        try:
            _remove_abandoned(place)
            self.root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        except OSError as error:
            raise EngineError(
                f"sampling.adapter_folder: {place} cannot be written ({error.strerror}); name a folder that can"
            ) from error
        if shared:
            self.root.chmod(0o755)
        self._lock = (self.root / _LOCK).open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def save(self, language_model: LanguageModel, name: str) -> Path:
        """Writes the model's adapter as it is now and returns its folder."""
        folder = self.root / name
        save_adapter(language_model.model, folder)  # type: ignore[arg-type]
        return folder

    def remove(self, name: str) -> None:
        """Deletes the folder of an adapter."""
        shutil.rmtree(self.root / name, ignore_errors=True)

    def clear(self) -> None:
        """Deletes the folders of all adapters."""
        for folder in self.root.iterdir():
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Deletes all."""
        shutil.rmtree(self.root, ignore_errors=True)
        self._lock.close()


def _remove_abandoned(place: Path) -> None:
    """Removes folders whose process is gone: memory they take up is never given back otherwise."""
    for folder in place.glob(f"{_PREFIX}*"):
        try:
            with (folder / _LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # held, another user's, or not locked yet
            continue


logger = logging.getLogger(__name__)

_EARLIER = "the adapter before"
_TRIAL_SCALES = (0.02, 0.06, 0.2, 0.6)
_TRIAL_EFFECT = 0.1  # nats per token that a trial adapter should change
_TRIAL_SHARE = 0.1  # how far from all of its effect the engine's may lie


class ServedPolicy:
    """An engine with the adapter that it was given last. Samplers of one process share it."""

    def __init__(self, engine: Engine, store: AdapterStore, tolerance: float) -> None:
        self.engine = engine
        self.store = store
        self.tolerance = tolerance
        self._number = 0
        self._tried: set[frozenset[str]] = set()  # names of weights, none of the base alone
        self._metrics: dict[str, float] = {}
        self._weights: dict[str, torch.Tensor] = {}
        self._digest = self._name = ""

    def follow(
        self, language_model: LanguageModel, requests: Sequence[Request], parameters: SamplingParameters
    ) -> str | None:
        """Hands the model's adapter over where it has changed since, probes it, and returns its name; None of a base.

        requests: whose prompts the probe takes, at the temperature of `parameters`. Raises EngineError where the engine
        answers for another policy.
        """
        prober = Prober(self.engine, language_model, requests, parameters)
        weights = adapter_weights(language_model)
        self._try_base(prober)
        if not weights:
            return None
        self._try_adapter(prober, weights)
        digest = weights_digest(weights)
        if digest == self._digest:
            return self._name
        started = time.perf_counter()
        earlier, earlier_weights = self._name, self._weights
        name = self._hand_over(language_model)
        handed = time.perf_counter()
        rivals = {_EARLIER: earlier_weights} if earlier_weights.keys() == weights.keys() else {}
        result = prober.compare(name, rivals=rivals)
        if fault := result.fault(self.tolerance):
            raise EngineError(
                f"{self.engine.place}: after the hand-over of an adapter {fault} (largest difference "
                f"{result.worst:.3g}). Nothing was trained on its answers; use sampling.engine: local, or raise "
                "sampling.probe_tolerance where half precision explains it"
            )
        self.note("engine/handover_seconds", handed - started)
        self.note("engine/probe_seconds", time.perf_counter() - handed)
        self.note("engine/probe_mismatch", result.mismatch)
        if not np.isnan(result.share):
            self.note("engine/probe_share", result.share)
        if earlier:
            self.engine.forget_adapter(earlier)
            self.store.remove(earlier)
        self._digest, self._name = digest, name
        self._weights = {key: tensor.clone() for key, tensor in weights.items()}
        return name

    def forget(self) -> None:
        """Takes note that the engine has lost what it was given, and may be another one now."""
        self.store.clear()
        self._digest = self._name = ""
        self._weights = {}
        self._tried.clear()

    def note(self, name: str, value: float) -> None:
        """Keeps a number for the step's metrics."""
        self._metrics[name] = value

    def take_metrics(self) -> dict[str, float]:
        """Returns the numbers noted since it was last asked."""
        taken, self._metrics = self._metrics, {}
        return taken

    def close(self) -> None:
        """Ends the engine and deletes the adapters."""
        self.engine.close()
        self.store.close()

    def _hand_over(self, language_model: LanguageModel) -> str:
        """Gives the engine the adapter under a new name and number: what it has cached under an earlier one, keys and
        values of prompts among it, is never taken for this one's.
        """
        self._number += 1
        name = f"{self.store.root.name}-{self._number}"
        folder = self.store.save(language_model, name)
        self.engine.load_adapter(name, self._number, folder)
        return name

    def _try_base(self, prober: Prober) -> None:
        """Checks of a new engine that its base is the trainer's."""
        if self._tried:
            return
        base = prober.compare(None)
        if fault := base.fault(self.tolerance):
            raise EngineError(
                f"{self.engine.place}: answers for another base model than model.source ({fault}); "
                f"{_way_to_the_same_base(prober.language_model)}"
            )
        logger.info("%s: base within %.1e nats per token of the trainer's", self.engine.place, base.mismatch)
        self._tried.add(frozenset())

    def _try_adapter(self, prober: Prober, weights: Mapping[str, torch.Tensor]) -> None:
        """Checks that the engine applies an adapter with these weights at full strength.

        A fresh adapter changes nothing, so this takes one that does: the trained one with noise in it.
        """
        names = frozenset(weights)
        if names in self._tried:
            return
        model = prober.language_model
        prober.draw(None)
        for scale in _TRIAL_SCALES:
            with replaced_weights(model.model, trial_weights(weights, scale)):
                if prober.effect() >= _TRIAL_EFFECT:
                    name = self._hand_over(model)
                    self._require_full_strength(prober.compare(name))
                    break
        else:
            raise EngineError(
                f"{self.engine.place}: no noise in the adapter changed the trainer's own log-probabilities, so that it "
                "cannot be told whether the engine applies it; check model.adapter.target_modules"
            )
        self.engine.forget_adapter(name)
        self.store.remove(name)
        self._tried.add(names)

    def _require_full_strength(self, result: ProbeResult) -> None:
        if abs(result.share - 1.0) <= _TRIAL_SHARE:
            logger.info("%s: applies %.1f%% of a trial adapter", self.engine.place, 100 * result.share)
            return
        seen = "nothing that can be told" if np.isnan(result.share) else f"{result.share:.0%}"
        raise EngineError(
            f"{self.engine.place}: {seen} of a trial adapter's effect is seen in its log-probabilities (they lie "
            f"{result.mismatch:.3g} nats per token from the trainer's); it answers for {BASE}, or applies adapters at "
            "another scale or to other modules, so that training would not be of what it samples"
        )


def _way_to_the_same_base(language_model: LanguageModel) -> str:
    settings = language_model.settings
    if settings is not None and settings.quantization != "none":
        return (
            f"model.quantization is {settings.quantization}, which rounds the trainer's base and not the engine's; "
            "where vLLM can, let it do the same (sampling.options: {quantization: bitsandbytes}, or --quantization "
            "bitsandbytes of a server), or use sampling.engine: local"
        )
    return "start it with the same weights and dtype, and with --logprobs-mode processed_logprobs"
