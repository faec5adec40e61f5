"""Says in plain words what went on in a run: whether weights moved, what pulled on them, and what looks wrong."""

from polychromic.diagnosis.rules import Finding, Severity
from polychromic.diagnosis.run import ArmDiagnosis, Diagnosis, diagnose
from polychromic.diagnosis.traces import ArmEvidence, ArmFacts, ArmTrace

__all__ = ["ArmDiagnosis", "ArmEvidence", "ArmFacts", "ArmTrace", "Diagnosis", "Finding", "Severity", "diagnose"]
