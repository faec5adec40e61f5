"""Holds prompts with the judgement that goes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polychromic.tasks.base import Task
    from polychromic.tasks.checking.sandbox import Execution, run_isolated

__all__ = ["Execution", "Task", "run_isolated"]


def __getattr__(name: str) -> Any:
    """Imports public names on first use: most tasks start no process."""
    if name in __all__:
        from polychromic.tasks import base
        from polychromic.tasks.checking import sandbox

        return getattr(base if name == "Task" else sandbox, name)
    raise AttributeError(f"module 'polychromic.tasks' has no attribute {name!r}")
