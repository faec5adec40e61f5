"""Follows the gradient of quality and diversity, resumable at any step."""

from polychromic.training.artifacts import is_trained, write_ending
from polychromic.training.base import ArmRun, Artifacts, OnStep, Trainer, build_trainer
from polychromic.training.settings import DiversitySettings, LossFacts, TrainingSettings, loss_facts

__all__ = [
    "ArmRun",
    "Artifacts",
    "DiversitySettings",
    "LossFacts",
    "OnStep",
    "Trainer",
    "TrainingSettings",
    "build_trainer",
    "is_trained",
    "loss_facts",
    "write_ending",
]
