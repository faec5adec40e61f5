"""Checks a run before it costs anything."""

from polychromic.experiment.preflight.probe import Status
from polychromic.experiment.preflight.results import CheckResult, PreflightReport
from polychromic.experiment.preflight.runner import preflight

__all__ = ["CheckResult", "PreflightReport", "Status", "preflight"]
