"""What went on in a run, in plain words: whether weights moved, what pulled on them, and what looks wrong."""

from polychromic.diagnosis.rules import Finding, Severity
from polychromic.diagnosis.run import ArmDiagnosis, Diagnosis, diagnose
from polychromic.diagnosis.traces import ArmTrace

__all__ = ["ArmDiagnosis", "ArmTrace", "Diagnosis", "Finding", "Severity", "diagnose"]
