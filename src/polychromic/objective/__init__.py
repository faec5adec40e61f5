"""Set-level objectives as pure functions on arrays: advantages, losses, balance and audit.

Importing it needs numpy and scipy only; `polychromic.objective.losses` needs torch.
"""

from polychromic.objective.advantages import set_advantages, subset_mean
from polychromic.objective.balance import (
    FixedWeight,
    FloorController,
    Observation,
    ShareController,
    WeightController,
    gradient_cosine,
    gradient_share,
)

__all__ = [
    "FixedWeight",
    "FloorController",
    "Observation",
    "ShareController",
    "WeightController",
    "gradient_cosine",
    "gradient_share",
    "set_advantages",
    "subset_mean",
]
