"""What an undecided comparison would take."""

from __future__ import annotations

import math

from polychromic.evaluation.metrics import find_metric
from polychromic.evaluation.seeds import LEAST_SEEDS
from polychromic.evaluation.statistics import ALPHA, POWER, PairedComparison
from polychromic.evaluation.wording import plural

_SEEDS_DOMINATE = 1.5
_IMPRACTICAL = 1_000_000

PER_PROMPT = "the values of each prompt: means alone carry no test"


def for_precision(comparison: PairedComparison, distance: float, interval: tuple[float, float]) -> str:
    """What would tell `distance` from 0, given the interval that has it now and shrinks with the root of prompts."""
    if _seeds_dominate(comparison):
        return f"more training seeds than {comparison.n_seeds}: their spread, not the prompts, makes the interval wide"
    from scipy.stats import norm

    standard_error = (interval[1] - interval[0]) / 2 / float(norm.ppf(0.5 + comparison.confidence / 2))
    reach = float(norm.isf(ALPHA / 2) + norm.ppf(POWER)) * standard_error
    if not distance or not math.isfinite(reach):
        return "more prompts"
    needed = max(comparison.n_prompts + 1, math.ceil(comparison.n_prompts * (reach / distance) ** 2))
    if needed > _IMPRACTICAL:
        return "more prompts than is practical: it lies on the line"
    return f"about {plural(_rounded(needed), 'prompt')} if it stays as it is (now {comparison.n_prompts:,})"


def for_seeds(comparison: PairedComparison) -> str:
    """What a claim over seeds is short of."""
    if comparison.n_seeds < LEAST_SEEDS:
        return (
            f"at least {LEAST_SEEDS} training seeds: {plural(comparison.n_seeds, 'seed')} cannot show that it holds "
            "over seeds"
        )
    return (
        f"more training seeds than {comparison.n_seeds}: they differ too much to say that it holds over seeds"
    )


def for_informative_prompts(comparison: PairedComparison) -> str:
    """What a test is short of whose least possible p is not below the level."""
    return (
        f"more prompts: only {comparison.n_informative} differ between the arms, "
        f"and p cannot fall below {comparison.p_floor:.2g}"
    )


def for_saturation(metric_key: str, share_at_bound: float) -> str:
    """What a metric needs that has no room left."""
    return (
        f"harder prompts: {find_metric(metric_key).name} cannot distinguish the arms, "
        f"{100 * share_at_bound:.0f} % of prompts are at its bound in both"
    )


def _seeds_dominate(comparison: PairedComparison) -> bool:
    over_prompts = comparison.bca[1] - comparison.bca[0]
    return comparison.n_seeds > 1 and comparison.ci_high - comparison.ci_low > _SEEDS_DOMINATE * over_prompts


def _rounded(count: int) -> int:
    """Two leading digits, upwards: more would promise precision that is not there."""
    step = 10 ** max(len(str(count)) - 2, 0)
    return math.ceil(count / step) * step
