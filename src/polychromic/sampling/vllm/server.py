"""Asks a `vllm serve` over HTTP: its completions endpoint, and its endpoints that load and unload adapters."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

from polychromic import stopping
from polychromic.errors import EngineError
from polychromic.sampling.vllm.engine import Draw, EngineRestartedError, Request, require_version
from polychromic.sampling.vllm.settings import VllmSettings

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds between tries
_KEY_VARIABLE = "VLLM_API_KEY"  # vLLM's own; a key in the experiment file would be copied into every run folder
_COME_BACK = {502, 503, 504}  # a proxy in front of a server that is down, or one that is being started

Answer = TypeVar("Answer")


class ServerEngine:
    """A vLLM that somebody else has started."""

    def __init__(self, settings: VllmSettings, source: str, names: Sequence[str]) -> None:
        """Looks at the server. source: `model.source`; names: those that a server of that model may have for it.

        Raises EngineError where it does not answer, is of another version, or serves another model.
        """
        assert settings.url is not None
        self.settings = settings
        self.place = f"sampling.url: {settings.url}"
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="vllm")
        require_version(str(self._patiently(lambda: self._ask("/version")).get("version")), self.place)
        self.model = self._served_model(source, names)

    def load_adapter(self, name: str, number: int, folder: Path) -> None:
        """Lets the server read the adapter's folder now; it counts adapters itself."""
        body = {"lora_name": name, "lora_path": str(folder)}
        try:
            self._restarting(lambda: self._ask("/v1/load_lora_adapter", body))
        except _RefusedError as refused:
            raise EngineError(f"{self.place}: {_why_not_loaded(refused, folder)}") from refused

    def forget_adapter(self, name: str) -> None:
        """Unloads the adapter; one that a restarted server never had is no fault."""
        try:
            self._restarting(lambda: self._ask("/v1/unload_lora_adapter", {"lora_name": name}))
        except (_RefusedError, EngineRestartedError):
            logger.debug("%s had no adapter %s to unload", self.place, name)

    def draw(self, requests: Sequence[Request], keys: Mapping[str, Any], adapter: str | None) -> list[list[Draw]]:
        """Draws for each request, several in flight: a request has one seed, so each prompt is one of its own."""
        common = {**keys, "model": adapter or self.model, "return_token_ids": True}

        def ask(request: Request) -> list[Draw]:
            body = {**common, "prompt": list(request.prompt_ids), "seed": request.seed}
            return _draws(self._ask("/v1/completions", body), self.place)

        try:
            return self._restarting(lambda: list(self._pool.map(ask, requests)))
        except _RefusedError as refused:
            if refused.status == 404 and adapter is not None:
                raise EngineRestartedError from refused  # it has forgotten the adapter
            raise EngineError(f"{self.place}: refuses to sample: {refused}") from refused

    def close(self) -> None:
        """Ends the threads; the server goes on."""
        self._pool.shutdown(cancel_futures=True)

    def _served_model(self, source: str, names: Sequence[str]) -> str:
        models = [one for one in self._ask("/v1/models").get("data", []) if not one.get("parent")]
        wanted = self.settings.served_model
        chosen = [one for one in models if wanted in (None, one.get("id"))]
        served = ", ".join(str(one.get("id")) for one in models) or "none"
        if len(chosen) != 1:
            called = f" called {wanted}" if wanted else ""
            raise EngineError(
                f"{self.place}: expected one base model{called}, and it serves {served}; "
                "name the one of model.source in sampling.served_model"
            )
        [model] = chosen
        if wanted is None and not {str(model.get("id")), str(model.get("root"))} & set(names):
            raise EngineError(
                f"{self.place}: serves {model.get('root') or model.get('id')}, and model.source is {source}; start it "
                "with that model, or name it in sampling.served_model where the two are the same"
            )
        return str(model["id"])

    def _restarting(self, ask: Callable[[], Answer]) -> Answer:
        """Asks; a server that does not answer is waited for, and what it was asked must be asked anew."""
        try:
            return ask()
        except _UnreachableError as error:
            logger.warning("%s: does not answer (%s); waiting for it", self.place, error)
            self._patiently(lambda: self._ask("/health"))
            raise EngineRestartedError from error

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Asks again with growing pauses while the server does not answer; raises EngineError after `retry_seconds`."""
        started, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                return ask()
            except _UnreachableError as error:
                waited = time.monotonic() - started
                if waited + pause > self.settings.retry_seconds:
                    raise EngineError(
                        f"{self.place}: does not answer ({error}), tried for {waited:.0f} s; start the server "
                        "(docs/engines.md) and run the same command again to continue"
                    ) from error
                stopping.stop_if_requested("what was done before is kept")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except _RefusedError as refused:
                raise EngineError(f"{self.place}: answers {refused}; is it the address of a `vllm serve`?") from refused

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns the answer's JSON, empty where it is none; raises _UnreachableError or _RefusedError. Without a body
        it is a GET request."""
        request, seconds = HttpRequest(f"{self.settings.url}{path}"), 30.0
        if body is not None:
            request.data, seconds = json.dumps(body).encode(), self.settings.request_seconds
            request.add_header("Content-Type", "application/json")
        if key := os.environ.get(_KEY_VARIABLE):
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urlopen(request, timeout=seconds) as response:  # the address is the user's own, http or https
                content = response.read()
        except HTTPError as error:
            detail = _detail(error.read())
            if error.code in _COME_BACK:
                raise _UnreachableError(f"HTTP {error.code}") from error
            raise _RefusedError(error.code, detail) from error
        except (URLError, OSError, HTTPException) as error:
            raise _UnreachableError(str(getattr(error, "reason", None) or error or type(error).__name__)) from error
        try:
            answer = json.loads(content)
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}


class _UnreachableError(Exception):
    """A server that is not there, or went away while it was asked."""


class _RefusedError(Exception):
    """A server that is there and says no."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail)
        self.status, self.detail = status, detail

    def __str__(self) -> str:
        return f"HTTP {self.status}: {self.detail}"


def _detail(content: bytes) -> str:
    """Returns the message of an error's body, in whichever of vLLM's forms it stands."""
    text = content.decode(errors="replace").strip()
    try:
        body = json.loads(text)
    except ValueError:
        return text.partition("\n")[0][:300]
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    return str(message).strip().partition("\n")[0][:300]


def _why_not_loaded(refused: _RefusedError, folder: Path) -> str:
    if refused.status == 404 and refused.detail == "Not Found":  # it has no such endpoint
        return "takes no adapters while it runs; start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
    if "max_lora_rank" in refused.detail:
        return f"does not take the adapter ({refused.detail}); start it with a larger --max-lora-rank"
    if "not enabled" in refused.detail or "enable_lora" in refused.detail:
        return f"serves no adapters ({refused.detail}); start it with --enable-lora"
    if str(folder) in refused.detail or "No adapter found" in refused.detail:
        return (
            f"cannot read the adapter in {folder} ({refused.detail}); name a folder that both see in "
            "sampling.adapter_folder"
        )
    return f"does not take the adapter: {refused}"


def _draws(answer: Mapping[str, Any], place: str) -> list[Draw]:
    try:
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        return [
            Draw(tuple(choice["token_ids"]), tuple(map(float, choice["logprobs"]["token_logprobs"])))
            for choice in choices
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(
            f"{place}: answers without token_ids and log-probabilities; expected the completions endpoint of vLLM"
        ) from error
