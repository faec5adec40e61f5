"""How small an effect a comparison can see, and how many prompts a given effect would need."""

from __future__ import annotations

import math
from functools import lru_cache

_MOST_PROMPTS = 10_000_000


@lru_cache(maxsize=256)
def detectable_effect(n_prompts: int, alpha: float, power: float) -> float:
    """Least mean, in standard deviations of the paired differences, that a two-sided t-test sees with this power.

    nan with fewer than two prompts. Source: statsmodels `TTestPower`; Cohen 1988, section 2.3.
    """
    from statsmodels.stats.power import TTestPower

    if n_prompts < 2:
        return math.nan
    return float(TTestPower().solve_power(nobs=n_prompts, alpha=alpha, power=power, alternative="two-sided"))


def prompts_needed(effect: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Prompts at which a two-sided paired t-test sees `effect` (mean over standard deviation) with this power.

    None for an effect of 0, of nan, or one that ten million prompts would not show.
    """
    from scipy.stats import norm
    from statsmodels.stats.power import TTestPower

    effect = abs(effect)
    of_normal = float(norm.isf(alpha / 2) + norm.ppf(power))
    if not effect * math.sqrt(_MOST_PROMPTS) > of_normal:
        return None
    # Student's tails ask for a few prompts more than the normal distribution does.
    n_prompts = max(2, int((of_normal / effect) ** 2))
    while TTestPower().power(effect, n_prompts, alpha, alternative="two-sided") < power:
        n_prompts += 1
    return n_prompts
