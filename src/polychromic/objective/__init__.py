"""Set-level objectives as pure functions on arrays: advantages, losses, balance and audit.

Importing it needs numpy and scipy only; `polychromic.objective.losses` needs torch, and
`polychromic.objective.audit` takes scipy's optimisers.
"""

from polychromic.objective.advantages import set_advantages, subset_mean
from polychromic.objective.fitted import (
    BaselineEquations,
    FittedBaseline,
    TrackRecord,
    baseline_equations,
    cross_fitted_coefficients,
    softmax_gram,
    surprisal_gram,
)
from polychromic.objective.registry import OBJECTIVES, Objective, find_objective, objective, sampled_subsets
from polychromic.objective.weighting import (
    FixedWeight,
    FloorController,
    Observation,
    ShareController,
    WeightController,
    gradient_cosine,
    gradient_share,
)

__all__ = [
    "OBJECTIVES",
    "BaselineEquations",
    "FittedBaseline",
    "FixedWeight",
    "FloorController",
    "Objective",
    "Observation",
    "ShareController",
    "TrackRecord",
    "WeightController",
    "baseline_equations",
    "cross_fitted_coefficients",
    "find_objective",
    "gradient_cosine",
    "gradient_share",
    "objective",
    "sampled_subsets",
    "set_advantages",
    "softmax_gram",
    "subset_mean",
    "surprisal_gram",
]
