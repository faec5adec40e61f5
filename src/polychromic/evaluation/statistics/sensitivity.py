"""Looks at the same numbers in other ways: equivalence, robustness, the untrained model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polychromic.evaluation.statistics.frontier import reached_k
from polychromic.evaluation.statistics.intervals import (
    PROMPTS_ALONE,
    EffectSizes,
    Reach,
    Resampling,
    effect_sizes,
    reaches,
)
from polychromic.evaluation.statistics.resampling import (
    LEAST_SEEDS,
    SeedSpread,
    differences,
    has_spread,
    two_way_bootstrap_means,
    without_noise,
)
from polychromic.evaluation.tables import Study
from polychromic.numerics import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class MarginTest:
    """Holds one-sided p-values that a is no more than the margin worse than b, over prompts and over new seeds too (nan
    with one seed), and the p-value of equivalence over prompts (two one-sided tests).

    `p_unseen` is the chance that so many prompts show no loss at all where the mean loss is the margin: no p of this
    test is below it; 0 where some prompt lost.
    """

    p_value: float
    p_over_seeds: float
    p_equivalent: float
    p_unseen: float = 0.0


def margin_test(
    a_SP: FloatArray,
    b_SP: FloatArray,
    margin: float,
    sign: float = 1.0,
    *,
    worst: float = math.inf,
    resampling: Resampling | None = None,
) -> MarginTest:
    """Tests a against b [seeds, prompts] with an absolute margin; `sign` is −1 where lower values are better.

    Each p is half the level at which the interval of the difference just reaches the margin, and over prompts no less
    than 2^−P, the least that flipping the signs of P distances from the margin could give. Where no prompt lost, the
    interval knows nothing of losses, and p is no less than `p_unseen`: `worst` is the value at which all is lost, that
    is the metric's bound (infinite where it has none; then nothing is known of it).
    Raises ValueError for a margin that is not positive. Source: Schuirmann 1987, A Comparison of the Two
    One-Sided Tests Procedure.
    """
    if not margin > 0:
        raise ValueError(f"margin={margin}: expected the largest loss that still counts as no worse")
    x_SP = sign * differences(a_SP, b_SP)
    n_seeds, n_prompts = x_SP.shape
    if n_prompts < 2:
        return MarginTest(1.0, math.nan, 1.0)
    [reach] = reaches(x_SP.mean(axis=0)[:, None], resampling or Resampling())
    least = 2.0**-n_prompts
    p_unseen = _chance_unseen(x_SP.mean(axis=0), float(np.abs(b_SP.mean(axis=0) - worst).max()), margin)
    p_value = max(_above(reach, -margin, PROMPTS_ALONE), least, p_unseen)
    p_below = max(1.0 - _above(reach, margin, PROMPTS_ALONE), least)
    over_seeds = max(_above(reach, -margin, SeedSpread.of(x_SP)), p_value) if n_seeds > 1 else math.nan
    return MarginTest(p_value, over_seeds, max(p_value, p_below), p_unseen)


def _chance_unseen(x_P: FloatArray, room: float, margin: float) -> float:
    """Returns the chance that P prompts show no loss where the mean loss is the margin; 0 where one of them lost.

    The loss is hidden best where few prompts lose all that can be lost (`room`) and the others gain what was seen, g
    on average: a share of (margin + g) / (room + g) of them.
    """
    x_P = without_noise(x_P)
    if x_P.min() < 0.0 or not math.isfinite(room) or room <= margin:
        return 0.0
    return float(((room - margin) / (room + x_P.mean())) ** len(x_P))


def _above(reach: Reach, null: float, spread: SeedSpread) -> float:
    """Returns the one-sided p-value that the mean lies above `null`."""
    half = reach.p_value(null, spread) / 2
    return half if reach.mean > null else 1.0 - half


@dataclass(frozen=True, slots=True)
class Robustness:
    """Holds a t-test, effect sizes and standard errors beside the main test; nan where one does not apply.

    `seed_correlation` is the share of variance that the seeds of one prompt
    have in common (ICC1); `naive_error` takes every seed of every prompt for a fresh one, `error_by_prompt` does
    not, and `two_way_error` clusters by prompt and by seed (too small with few seeds).
    """

    t_p_value: float
    t_interval: tuple[float, float]
    effects: EffectSizes
    seed_correlation: float
    naive_error: float
    error_by_prompt: float
    two_way_error: float


def robustness(a_SP: FloatArray, b_SP: FloatArray, confidence: float = 0.95) -> Robustness:
    """Computes second opinions on a − b, arrays [seeds, prompts] without nan."""
    from scipy.stats import ttest_1samp

    x_SP = differences(a_SP, b_SP)
    a_P, b_P, x_P = a_SP.mean(axis=0), b_SP.mean(axis=0), x_SP.mean(axis=0)
    t_test: Any = ttest_1samp(x_P, 0.0) if has_spread(x_P) else None
    interval = t_test.confidence_interval(confidence) if t_test else (math.nan, math.nan)
    return Robustness(
        t_p_value=float(t_test.pvalue) if t_test else math.nan,
        t_interval=(float(interval[0]), float(interval[1])),
        effects=effect_sizes(a_P, b_P),
        seed_correlation=seed_correlation(x_SP),
        naive_error=float(x_SP.std(ddof=1)) / math.sqrt(x_SP.size) if x_SP.size > 1 else math.nan,
        error_by_prompt=float(x_P.std(ddof=1)) / math.sqrt(len(x_P)) if len(x_P) > 1 else math.nan,
        two_way_error=two_way_error(x_SP),
    )


def seed_correlation(x_SP: FloatArray) -> float:
    """Returns ICC(1): correlation of two seeds of one prompt, from a one-way analysis of variance; nan with one seed.

    Source: Shrout and Fleiss 1979, Intraclass Correlations, equation for ICC(1,1).
    """
    n_seeds, n_prompts = x_SP.shape
    if n_seeds < 2 or n_prompts < 2:
        return math.nan
    between = n_seeds * float(x_SP.mean(axis=0).var(ddof=1))
    within = float(x_SP.var(axis=0, ddof=1).mean())
    total = between + (n_seeds - 1) * within
    return (between - within) / total if total else math.nan


def two_way_error(x_SP: FloatArray) -> float:
    """Returns the standard error of the mean clustered by prompt and by seed, uncorrected for few clusters; nan with
    one seed.

    Source: Cameron, Gelbach and Miller 2011, Robust Inference With Multiway Clustering, equation 2.8.
    """
    if len(x_SP) < 2:
        return math.nan
    residual = x_SP - x_SP.mean()
    by_prompt = float((residual.sum(axis=0) ** 2).sum())
    by_seed = float((residual.sum(axis=1) ** 2).sum())
    return math.sqrt(max(by_prompt + by_seed - float((residual**2).sum()), 0.0)) / x_SP.size


_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Overtaking:
    """Holds the least k from which on the untrained model's pass@k is above an arm's and not below it again, with its
    interval over prompts, and over seeds from `LEAST_SEEDS` on.

    `k`, `low` and `high` are None beyond `most`, the largest k that was measured. 1: the untrained model is ahead from
    the first answer on. `until` is the last k at which it is above an arm that overtakes it; None where there is none.
    """

    arm: str
    k: int | None
    low: int | None
    high: int | None
    most: int
    until: int | None = None

    @property
    def sentence(self) -> str:
        """Returns a sentence such as "pass@k of the untrained model overtakes ARM at k = 12 (95 % interval 8 to
        21)"."""
        if self.until is not None:
            return f"pass@k of the untrained model is above that of {self.arm} up to k = {self.until} alone"
        if self.high is None:
            interval = f"from {self.low} to beyond {self.most}" if self.low else f"beyond {self.most}"
        else:
            interval = f"{self.low} to {self.high}" if self.low != self.high else f"{self.low} alone"
        if self.k is None:
            relation = f"does not overtake {self.arm} within k ≤ {self.most}"
        elif self.k == 1:
            relation = f"is above that of {self.arm} from k = 1 on"
        else:
            relation = f"overtakes {self.arm} at k = {self.k}"
        return f"pass@k of the untrained model {relation} ({{confidence:g}} % interval of that k: {interval})"


def overtakings(
    study: Study, untrained: str, arms: Sequence[str], label: str, resampling: Resampling
) -> tuple[Overtaking, ...]:
    """Returns an overtaking per arm whose pass@k was measured, up to the k that 95 % of the prompts have in both; the
    others are left out, since prompts with few judged answers are seldom like the rest."""
    crossings = []
    for arm in arms:
        arm_SPK, base_SPK = study.curves(arm, label, "pass"), study.curves(untrained, label, "pass")
        if arm_SPK is None or base_SPK is None:
            continue
        n_k = min(arm_SPK.shape[2], base_SPK.shape[2])
        # The untrained model was sampled once: its curve stands against every seed's.
        lead_SPK = base_SPK[..., :n_k].mean(axis=0) - arm_SPK[..., :n_k]
        lead_SPK = lead_SPK[..., : reached_k(lead_SPK.sum(axis=0))]
        lead_SPK = lead_SPK[:, ~np.isnan(lead_SPK).any(axis=(0, 2))]
        if lead_SPK.shape[1] > 1 and lead_SPK.size:
            crossings.append(_overtaking(arm, lead_SPK, resampling))
    return tuple(crossings)


def _overtaking(arm: str, lead_SPK: FloatArray, resampling: Resampling) -> Overtaking:
    n_k = lead_SPK.shape[2]
    drawn_SPK = lead_SPK if len(lead_SPK) >= LEAST_SEEDS else lead_SPK.mean(axis=0, keepdims=True)
    drawn_BK = two_way_bootstrap_means(drawn_SPK, n_resamples=resampling.bootstraps, seed=resampling.seed)
    tails = [resampling.alpha / 2, 1.0 - resampling.alpha / 2]
    low, high = np.quantile(ahead_from(drawn_BK), tails, method="inverted_cdf").tolist()
    lead_K = lead_SPK.mean(axis=(0, 1))
    at = int(ahead_from(lead_K[None])[0])
    ahead = np.flatnonzero(lead_K > _ROUNDING)
    k, low, high = (int(size) if size <= n_k else None for size in (at, low, high))
    return Overtaking(arm, k, low, high, n_k, int(ahead[-1]) + 1 if k is None and len(ahead) else None)


def ahead_from(lead_BK: FloatArray) -> IntArray:
    """Returns [B] the least k with a lead that is followed by no arrears, one more than the largest k where there is
    none."""
    k_K = np.arange(1, lead_BK.shape[1] + 1)
    behind_B = np.where(lead_BK < -_ROUNDING, k_K, 0).max(axis=1)
    ahead_BK = (lead_BK > _ROUNDING) & (k_K > behind_B[:, None])
    return np.where(ahead_BK.any(axis=1), ahead_BK.argmax(axis=1) + 1, lead_BK.shape[1] + 1)
