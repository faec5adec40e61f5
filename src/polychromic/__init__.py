"""Polychromic: fine-tune language models that give many different good answers, and prove that they do."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polychromic.experiment.config import Experiment
    from polychromic.experiment.result import RunResult
    from polychromic.experiment.run import run

__version__ = "0.1.0"
__all__ = ["Experiment", "RunResult", "__version__", "run"]

_HOMES = {
    "Experiment": "polychromic.experiment.config",
    "RunResult": "polychromic.experiment.result",
    "run": "polychromic.experiment.run",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use: `import polychromic` alone needs neither torch nor pydantic."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'polychromic' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
