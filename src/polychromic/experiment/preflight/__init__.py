"""Checks a run before it costs anything."""

from polychromic.experiment.preflight.runner import preflight

__all__ = ["preflight"]
