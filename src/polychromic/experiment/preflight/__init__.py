"""Checks a run before it costs anything."""

from polychromic.experiment.preflight.probe import Status
from polychromic.experiment.preflight.runner import CheckResult, PreflightReport, preflight

__all__ = ["CheckResult", "PreflightReport", "Status", "preflight"]
