"""Checks that the wanted trackers can be written to."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from urllib.parse import urlsplit

from polychromic.experiment.preflight.probe import Finding, Probe

_TRACKER_MODULES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}
_REACH_SECONDS = 5.0


def trackers(probe: Probe) -> Finding:
    """Checks that the wanted trackers are installed and their service answers; metrics.jsonl is always written."""
    names = probe.experiment.run.tracking
    if not names:
        return Finding("passed", "metrics.jsonl only; no tracker asked for")
    missing = [name for name in names if find_spec(_TRACKER_MODULES[name]) is None]
    if missing:
        return Finding(
            "failed",
            f"run.tracking: {', '.join(missing)} not installed",
            f"pip install 'polychromic[{','.join(missing)}]', or leave it out",
        )
    result = f"{', '.join(names)} installed"
    if "wandb" not in names:
        return Finding("passed", f"{result}; written on this machine")
    return _wandb(result)


def _wandb(result: str) -> Finding:
    """Tries to reach Weights & Biases, the one tracker that needs a service."""
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled") or (mode is None and "WANDB_API_KEY" not in os.environ):
        why = f"WANDB_MODE={mode}" if mode else "no WANDB_API_KEY"
        return Finding("passed", f"{result}; wandb logs offline ({why})")
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return Finding("passed", f"{result}; wandb is behind a proxy and was not tried")
    address = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    place = urlsplit(address)
    try:
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname or "", port), timeout=_REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        return Finding(
            "warned",
            f"{result}; {address} cannot be reached ({error})",
            "set WANDB_MODE=offline and `wandb sync` later; metrics.jsonl is written either way",
        )
    return Finding("passed", f"{result}; {address} answers")
