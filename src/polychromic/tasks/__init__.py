"""Prompts with the judgement that goes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polychromic.tasks.execution import Execution, run_isolated

__all__ = ["Execution", "run_isolated"]


def __getattr__(name: str) -> Any:
    """Import public names on first use: most tasks start no process."""
    if name in __all__:
        from polychromic.tasks import execution

        return getattr(execution, name)
    raise AttributeError(f"module 'polychromic.tasks' has no attribute {name!r}")
