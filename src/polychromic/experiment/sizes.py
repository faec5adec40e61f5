"""Lowers the sizes that an experiment states to what its data has."""

from __future__ import annotations

import logging
from contextlib import suppress

from polychromic.errors import PolychromicError
from polychromic.experiment.config import Experiment
from polychromic.tasks.base import build_task

logger = logging.getLogger(__name__)


def within_data(experiment: Experiment) -> Experiment:
    """Returns the experiment with `evaluation.num_prompts` lowered to the prompts that the evaluated split has, and
    says so in a line. What cannot be read, or has no prompts at all, is left to those who need it and say why."""
    settings = experiment.evaluation
    n_prompts = 0
    with suppress(PolychromicError):
        n_prompts = len(build_task(experiment.task.without_code()).prompts(settings.split))
    if not 0 < n_prompts < settings.num_prompts:
        return experiment
    if "num_prompts" in settings.model_fields_set:
        logger.warning(
            "evaluation.num_prompts is %d, and the %s split has %d: %s evaluated",
            settings.num_prompts,
            settings.split,
            n_prompts,
            "it is" if n_prompts == 1 else "all of them are",
        )
    return experiment.model_copy(
        update={"evaluation": settings.model_copy(update={"num_prompts": n_prompts})}
    )
