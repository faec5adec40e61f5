"""Compares diversity at matched quality over temperatures, and draws bands around curves over k."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from polychromic.evaluation.metrics import find_metric
from polychromic.evaluation.statistics.intervals import Resampling
from polychromic.evaluation.statistics.resampling import LEAST_SEEDS, LEAST_SPREAD, SeedSpread, bootstrap_means
from polychromic.evaluation.tables import Study
from polychromic.numerics import FloatArray

_DEFINED_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Curve:
    """Holds the mean over prompts at each k with a simultaneous band over prompts (seeds averaged)."""

    k: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n_prompts: int


def simultaneous_curve(x_PK: FloatArray, resampling: Resampling, highest: float = np.inf) -> Curve | None:
    """Returns the curve of [prompts, k] values up to the largest k that 95 % of the prompts have; None where there is
    no such k.

    The whole curve lies inside the band with the stated confidence. Clipped to [0, `highest`].
    """
    n_k = reached_k(x_PK)
    x_PK = x_PK[:, :n_k]
    x_PK = x_PK[~np.isnan(x_PK).any(axis=1)]
    if not x_PK.size:
        return None
    mean_K, half_K = x_PK.mean(axis=0), _half_widths(x_PK, resampling)
    low_K, high_K = mean_K - half_K, mean_K + half_K
    return Curve(
        tuple(range(1, n_k + 1)),
        tuple(mean_K.tolist()),
        tuple(np.clip(low_K, 0.0, highest).tolist()),
        tuple(np.clip(high_K, 0.0, highest).tolist()),
        len(x_PK),
    )


def reached_k(x_PK: FloatArray) -> int:
    """Returns the largest k up to which 95 % of the prompts have values [prompts, k]; 0 where there is none."""
    defined_K = (~np.isnan(x_PK)).mean(axis=0) >= _DEFINED_SHARE
    return int(defined_K.argmin()) if not defined_K.all() else len(defined_K)


def _half_widths(x_PK: FloatArray, resampling: Resampling) -> FloatArray:
    """Returns [K] q standard errors, q the quantile of the largest t statistic over all k in the bootstrap.

    Each draw is divided by its own standard error, as in the bootstrap-t: divided by the sample's, bands over 50
    prompts held the curve 90 % of the time where 95 % was promised. Source: the sup-t band of Montiel Olea and
    Plagborg-Møller 2019, Simultaneous Confidence Bands, section 2, its critical value from a bootstrap of means.
    """
    n_prompts, n_k = x_PK.shape
    mean_K, error_K = x_PK.mean(axis=0), x_PK.std(axis=0) / np.sqrt(n_prompts)
    moved_K = error_K > 1e-12  # less is rounding
    if not moved_K.any():
        return np.zeros(n_k)
    centred_PK = x_PK[:, moved_K] - mean_K[moved_K]
    both = np.concatenate([centred_PK, centred_PK**2], axis=-1)
    drawn = bootstrap_means(both, n_resamples=resampling.bootstraps, seed=resampling.seed)
    deviation_BK, square_BK = np.split(drawn, 2, axis=-1)
    spread_BK = np.sqrt(np.maximum(square_BK - deviation_BK**2, 0.0) / n_prompts)
    t_BK = np.abs(deviation_BK) / np.maximum(spread_BK, LEAST_SPREAD * error_K[moved_K])
    return float(np.quantile(t_BK.max(axis=1), resampling.confidence)) * error_K


Position = Literal["within", "above", "below"]
"""Position of an arm's quality among the qualities at which the baseline was sampled."""


@dataclass(frozen=True, slots=True)
class MatchedGain:
    """Holds one arm under one sampling setting, against the most diversity that the baseline reaches at its quality.

    `gain` is in the metric's own unit, positive where the arm is more diverse, with an interval over prompts and
    seeds (nan with one prompt). Where `position` is "above", the baseline's best quality stands in and the gain is a
    lower bound; where it is "below", its most diverse point does and the gain is an upper bound: sample the baseline
    hotter. `reached_by` is a sampling setting with which the baseline is at least as good and as diverse.
    """

    arm: str
    sampling: str
    metric: str
    quality_metric: str
    quality: float
    diversity: float
    baseline_diversity: float
    gain: float
    low: float
    high: float
    position: Position
    reached_by: str | None


def reachable(at_quality: FloatArray, quality_L: FloatArray, diversity_L: FloatArray) -> FloatArray:
    """Returns the most diversity (higher is more) that a baseline reaches at a quality or better: arrays [...] and
    [..., L].

    A baseline may also answer each prompt at one of two temperatures by lot, which reaches every point between
    them: the frontier is the upper concave hull of its points. Above its best quality the diversity there counts.
    """
    best = quality_L.argmax(axis=-1)[..., None]
    reach = np.take_along_axis(diversity_L, best, axis=-1)[..., 0]
    at = at_quality[..., None]
    enough = quality_L >= at
    reach = np.where(enough.any(axis=-1), np.where(enough, diversity_L, -np.inf).max(axis=-1), reach)
    for i in range(quality_L.shape[-1]):
        # From point i, which is good enough, towards every point that is not.
        step = quality_L[..., i : i + 1] - quality_L
        crosses = (quality_L[..., i : i + 1] >= at) & ~enough
        share = np.where(crosses, (at - quality_L) / np.where(crosses, step, 1.0), 0.0)
        between = diversity_L + share * (diversity_L[..., i : i + 1] - diversity_L)
        reach = np.maximum(reach, np.where(crosses, between, -np.inf).max(axis=-1))
    return reach


def matched_gains(
    study: Study, arm: str, baseline: str, metric: str, quality_metric: str, resampling: Resampling
) -> list[MatchedGain]:
    """Returns a gain per sampling setting of the arm, over the seeds that are paired in a comparison, without those of
    which no prompt has all values; empty where either arm lacks a metric, or the baseline has one sampling setting only
    and so no frontier."""
    labels = [
        label
        for label in study.labels(baseline)
        if _points(study, baseline, [label], metric, quality_metric) is not None
    ]
    base = _points(study, baseline, labels, metric, quality_metric) if len(labels) > 1 else None
    if base is None:
        return []
    points_by_label = {label: _points(study, arm, [label], metric, quality_metric) for label in study.labels(arm)}
    of_arm, of_base = study.paired_seeds(arm, baseline)
    gains = [
        _matched(arm, label, labels, metric, quality_metric, points[of_arm], base[of_base], resampling)
        for label, points in points_by_label.items()
        if points is not None
    ]
    return [gain for gain in gains if gain is not None]


def _points(study: Study, arm: str, labels: Sequence[str], metric: str, quality: str) -> FloatArray | None:
    """Returns [S, P, 2 L]: quality, then diversity oriented so that higher is more, of each sampling setting."""
    cells = [study.cells(arm, label, key) for key in (quality, metric) for label in labels]
    present = [cell for cell in cells if cell is not None]
    if len(present) < len(cells):
        return None
    stacked = np.stack(present, axis=-1)
    stacked[..., len(labels) :] *= find_metric(metric).sign
    return stacked


def _matched(
    arm: str,
    label: str,
    labels: Sequence[str],
    metric: str,
    quality_metric: str,
    points_SPC: FloatArray,
    base_SPC: FloatArray,
    resampling: Resampling,
) -> MatchedGain | None:
    mean_PC = np.concatenate([points_SPC.mean(axis=0), base_SPC.mean(axis=0)], axis=-1)
    mean_PC = mean_PC[~np.isnan(mean_PC).any(axis=-1)]
    if not len(mean_PC):
        return None
    mean_C = mean_PC.mean(axis=0)
    gain = float(_gain(mean_C))
    low, high = _interval(gain, mean_PC, points_SPC, base_SPC, resampling)
    sign = find_metric(metric).sign
    quality, diversity = mean_C[:2].tolist()
    base_quality_L, base_diversity_L = np.split(mean_C[2:], 2)
    reaching_L = (base_quality_L >= quality) & (base_diversity_L >= diversity)
    position = "above" if quality > base_quality_L.max() else "below" if quality < base_quality_L.min() else "within"
    return MatchedGain(
        arm=arm,
        sampling=label,
        metric=metric,
        quality_metric=quality_metric,
        quality=quality,
        diversity=sign * diversity,
        baseline_diversity=sign * (diversity - gain),
        gain=gain,
        low=low,
        high=high,
        position=position,
        reached_by=labels[int(reaching_L.argmax())] if reaching_L.any() else None,
    )


def _interval(
    gain: float, mean_PC: FloatArray, points_SPC: FloatArray, base_SPC: FloatArray, resampling: Resampling
) -> tuple[float, float]:
    """Returns the interval over prompts, and over seeds from `LEAST_SEEDS` on; nan with one prompt."""
    if len(mean_PC) < 2:
        return math.nan, math.nan
    draws = _gain(bootstrap_means(mean_PC, n_resamples=resampling.bootstraps, seed=resampling.seed))
    tail = (1.0 - resampling.confidence) / 2
    low, high = np.quantile(draws, [tail, 1.0 - tail]).tolist()
    gain_S = _seed_gains(points_SPC, base_SPC)
    return _over_seeds(gain, low, high, gain_S, resampling.alpha) if len(gain_S) >= LEAST_SEEDS else (low, high)


def _gain(mean_C: FloatArray) -> FloatArray:
    """Returns [...] gain from [..., 2 + 2 L] means: the arm's quality and diversity, the baseline's qualities,
    diversities."""
    base_quality, base_diversity = np.split(mean_C[..., 2:], 2, axis=-1)
    return mean_C[..., 1] - reachable(mean_C[..., 0], base_quality, base_diversity)


def _seed_gains(points_SPC: FloatArray, base_SPC: FloatArray) -> FloatArray:
    """Returns [S] the gain of each seed alone."""
    return _gain(np.nanmean(np.concatenate([points_SPC, base_SPC], axis=-1), axis=1))


def _over_seeds(gain: float, low: float, high: float, gain_S: FloatArray, alpha: float) -> tuple[float, float]:
    """Returns an interval over prompts widened by the spread of seeds, which includes the noise within prompts: it errs
    on the wide side. A skewed bootstrap can leave the gain outside its own interval; seeds then widen, never shift,
    it."""
    error = float(gain_S.std(ddof=1)) / math.sqrt(len(gain_S))
    spread = SeedSpread(len(gain_S), error, 1.0)
    below, above = (spread.widen(max(side, 0.0), alpha) for side in (gain - low, high - gain))
    return gain - below, gain + above
