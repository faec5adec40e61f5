"""The minute that saves a day: what would go wrong in a run is found before it costs anything."""

from polychromic.experiment.preflight.checks import CheckResult, PreflightReport, Status
from polychromic.experiment.preflight.run import preflight

__all__ = ["CheckResult", "PreflightReport", "Status", "preflight"]
