"""What few training seeds leave uncertain: how much wider an interval over prompts becomes for new seeds too.

The model is crossed: x_sp = μ + seed_s + prompt_p + noise_sp, with new seeds and new prompts in mind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_SEEDS = 3
"""From so many training seeds on a difference is judged against their spread unless a criterion says otherwise."""


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """How far the means of training seeds lie apart.

    `error` is the standard error of their mean, noise within prompts included; `shared` the share of the variance over
    prompts that all seeds have in common, which `error` does not include. `n_seeds` 1 means that nothing is known.
    """

    n_seeds: int
    error: float
    shared: float

    @classmethod
    def of(cls, x_SP: Floats) -> SeedSpread:
        """From values [seeds, prompts]."""
        n_seeds, n_prompts = x_SP.shape
        if n_seeds < 2 or n_prompts < 2:
            return cls(n_seeds, 0.0, 1.0)
        mean_S, mean_P = x_SP.mean(axis=1), x_SP.mean(axis=0)
        residual_SP = x_SP - mean_S[:, None] - mean_P + x_SP.mean()
        noise = float((residual_SP**2).sum()) / ((n_seeds - 1) * (n_prompts - 1))
        of_prompts = n_seeds * float(mean_P.var(ddof=1))
        shared = max(1.0 - noise / of_prompts, 0.0) if of_prompts > 0.0 else 0.0
        return cls(n_seeds, math.sqrt(float(mean_S.var(ddof=1)) / n_seeds), shared)

    def widen(self, of_prompts: float, alpha: float) -> float:
        """Distance from the mean to an interval's end over prompts and seeds, from that over prompts alone.

        Student's distance of the seeds (S − 1 degrees of freedom, exact where seeds scatter normally and prompts have
        nothing in common) and the prompts' shared part add as squares (Zou and Donner 2008, Construction of Confidence
        Limits about Effect Measures, equation 6). Never less than over prompts alone, so that three seeds that agree
        by chance do not make a result more certain than its prompts do.
        """
        from scipy.special import stdtrit

        if self.n_seeds < 2 or not self.error:
            return of_prompts
        of_seeds = float(stdtrit(self.n_seeds - 1, 1.0 - alpha / 2)) * self.error
        return max(of_prompts, math.sqrt(self.shared * of_prompts**2 + of_seeds**2))
