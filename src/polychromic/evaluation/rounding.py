"""Where floating-point noise must not pass for a difference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDING = 1e-12


def has_spread(x: Floats) -> bool:
    """Whether values differ by more than rounding: spread of a thousand equal means is noise, not information."""
    return x.size > 1 and bool(np.ptp(x) > ROUNDING * np.abs(x).max())


def without_noise(x: Floats) -> Floats:
    """Values with those that are 0 up to rounding (against the largest) set to 0, such as a sum of ±1/3."""
    return np.where(np.abs(x) > ROUNDING * np.abs(x).max(initial=0.0), x, 0.0)
