"""How far a fitted mix may be trusted, judged by what earlier fits would have saved on the batches after them.

Where signal is rare a fit learns mostly noise, and leave_one_out is the better baseline; the past tells which it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from polychromic.objective.hypergeometric import FloatArray


@dataclass(frozen=True)
class TrackRecord:
    """Sums over batches, each of which met a fit that knew only the batches before it.

    A batch's second moment is quadratic in the mix, cᵀAc − 2cᵀt + const. From the prior p a step a·d towards the fit
    p + d changes it by a²·dᵀAd − 2a·dᵀ(t − Ap).
    """

    slope: float = 0.0
    """Σ dᵀ(t − Ap)"""
    curvature: float = 0.0
    """Σ dᵀAd"""
    squared_savings: float = 0.0
    """Σ s², s = 2dᵀ(t − Ap) − dᵀAd: what following the fit all the way would have saved."""

    @property
    def trust(self) -> float:
        """How far to go from the prior to the next fit, 0 to 1; 0 without a record.

        The step that would have been best in the past (stacking of out-of-sample forecasts), times 0 where the savings
        stand less than one of their standard errors above zero, and 1 from two on.
        """
        savings = 2 * self.slope - self.curvature
        if savings <= 0 or self.squared_savings <= 0 or self.curvature <= 0:
            return 0.0
        best_step = min(1.0, self.slope / self.curvature)
        clearness = savings / math.sqrt(self.squared_savings) - 1.0
        return best_step * min(1.0, max(0.0, clearness))

    def after(
        self,
        direction_M: FloatArray,
        prior_M: FloatArray,
        matrix_MM: FloatArray,
        target_M: FloatArray,
        decay: float,
    ) -> Self:
        """With one batch's equations added, which met a fit at prior + direction."""
        slope = float(direction_M @ (target_M - matrix_MM @ prior_M))
        curvature = float(direction_M @ matrix_MM @ direction_M)
        return type(self)(
            decay * self.slope + slope,
            decay * self.curvature + curvature,
            decay * self.squared_savings + (2 * slope - curvature) ** 2,
        )
