"""Set objectives in TRL's GRPOTrainer, from a reward function to a trainer, and what they would do to any run.

`group_reward` needs no TRL to be imported; `SetGRPOTrainer` and `watch_diversity` do (docs/integrations.md).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from polychromic.errors import ConfigError
from polychromic.integrations.answers import Answers
from polychromic.integrations.trl.rewards import group_reward
from polychromic.training.settings import DiversitySettings

if TYPE_CHECKING:
    from polychromic.integrations.trl.callback import watch_diversity
    from polychromic.integrations.trl.trainer import SetGRPOTrainer

__all__ = ["Answers", "DiversitySettings", "SetGRPOTrainer", "group_reward", "watch_diversity"]

_NEED_TRL = {"SetGRPOTrainer": "trainer", "watch_diversity": "callback"}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TRL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_NEED_TRL[name]}"), name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{name} needs TRL 1.16 or later, and {error.name} is missing: pip install 'polychromic[trl]'"
        ) from error
