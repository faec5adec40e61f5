"""Finds out within seconds whether the model hub can be asked: its own client tries again for minutes."""

from __future__ import annotations

import os
import socket
import threading
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from polychromic.errors import ModelError

_SECONDS = 3.0
_PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def require_hub_or_copy(source: Path | str, revision: str | None = None) -> None:
    """Raises ModelError where a hub id is neither on this machine nor can be fetched.

    Where the hub does not answer and there is a copy, the hub is not asked again in this process. Folders pass.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(source, Path) or constants.HF_HUB_OFFLINE:
        return
    problem = hub_problem(constants.ENDPOINT)
    if not problem:
        return
    if isinstance(try_to_load_from_cache(source, "config.json", revision=revision or "main"), str):
        constants.HF_HUB_OFFLINE = True
        return
    raise ModelError(
        f"model.source: {source} is not on this machine, and {constants.ENDPOINT} cannot be reached ({problem}); "
        "connect to the network, or name a folder that holds the model"
    )


@cache
def hub_problem(endpoint: str) -> str:
    """Returns why no connection to the hub can be opened; "" where one can, or where a proxy is in between."""
    if any(os.environ.get(name) for name in _PROXIES):
        return ""
    place = urlsplit(endpoint)
    failures: list[str] = []

    def connect() -> None:
        try:
            port = place.port or (80 if place.scheme == "http" else 443)
            socket.create_connection((place.hostname or "", port), timeout=_SECONDS).close()
            failures.append("")
        except (OSError, ValueError) as error:
            failures.append(str(getattr(error, "strerror", None) or error))

    # Looking up a name has no limit of its own.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(_SECONDS)
    return failures[0] if failures else f"no answer in {_SECONDS:g} s"
