"""Two arms compared prompt by prompt: the difference with its interval, test, size and power."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polychromic.evaluation.effects import hedges_gz
from polychromic.evaluation.intervals import (
    Interval,
    Resampling,
    bootstrap_interval,
    indices_by_key,
    interval_over_seeds,
)
from polychromic.evaluation.power import detectable_effect
from polychromic.evaluation.resampling import (
    SignFlip,
    sign_flip_tests,
    studentised_means,
    two_way_bootstrap_means,
)
from polychromic.evaluation.rounding import without_noise
from polychromic.evaluation.seeds import p_over_seeds

Floats = NDArray[np.float64]

ALPHA, POWER = 0.05, 0.8


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Arm a against arm b on one metric. Every difference is a − b; relative ones are divided by the mean of b.

    `p_value` asks whether *these trained models* differ on new prompts; `p_over_seeds` whether the difference
    would hold for new training seeds too (nan with one seed). `ci_low` and `ci_high` (95 % unless stated) cover
    the mean over new prompts and, with two seeds or more, new seeds; `percentile` and `bca` are over prompts
    alone, `two_way` is the plain two-way bootstrap, shown because it is customary.
    `p_floor` and `p_floor_seeds` are the least p-values that so few prompts (or seeds) could have given in a
    sign-flip test. `minimum_detectable_effect` is the absolute difference that a two-sided 5 % test over these
    prompts sees with 80 % power. `n_informative` prompts differ at all; `n_dropped` were undefined in an arm.
    """

    difference: float
    relative_difference: float
    ci_low: float
    ci_high: float
    relative_ci_low: float
    relative_ci_high: float
    p_value: float
    p_over_seeds: float
    p_floor: float
    p_floor_seeds: float
    effect_size: float
    minimum_detectable_effect: float
    n_prompts: int
    n_seeds: int
    n_informative: int
    n_dropped: int
    mean_a: float
    mean_b: float
    seed_differences: tuple[float, ...]
    percentile: Interval
    bca: Interval
    two_way: Interval
    confidence: float
    method: str


def paired_comparison(
    a: ArrayLike, b: ArrayLike, *, resampling: Resampling | None = None
) -> PairedComparison:
    """Compare a with b on the same prompts: arrays [seeds, prompts], or [prompts] for one seed; difference a − b.

    A prompt that is nan in any cell is dropped from all, and counted. Raises ValueError where the shapes differ,
    or no prompt is left.
    """
    a_SP, b_SP = _as_cells("a", a), _as_cells("b", b)
    if a_SP.shape != b_SP.shape:
        raise ValueError(f"a has shape {a_SP.shape} and b {b_SP.shape}; expected the same seeds and prompts")
    return paired_comparisons([(a_SP, b_SP)], resampling=resampling)[0]


def paired_comparisons(
    pairs: Sequence[tuple[Floats, Floats]], *, resampling: Resampling | None = None
) -> list[PairedComparison]:
    """`paired_comparison` of many pairs of [seeds, prompts] arrays; those of one shape share the random draws."""
    resampling = resampling or Resampling()
    complete = [~(np.isnan(a_SP) | np.isnan(b_SP)).any(axis=0) for a_SP, b_SP in pairs]
    if not all(kept_P.any() for kept_P in complete):
        raise ValueError("no prompt is defined in both arms and all seeds; nothing can be compared")
    shapes = [(len(a_SP), int(kept_P.sum())) for (a_SP, _), kept_P in zip(pairs, complete, strict=True)]
    results: dict[int, PairedComparison] = {}
    for members in indices_by_key(shapes).values():
        a_SPM, b_SPM = (
            np.stack([pairs[i][side][:, complete[i]] for i in members], axis=-1) for side in (0, 1)
        )
        dropped = [int((~complete[i]).sum()) for i in members]
        results |= zip(members, _compare_block(a_SPM, b_SPM, dropped, resampling), strict=True)
    return [results[index] for index in range(len(pairs))]


def _compare_block(
    a_SPM: Floats, b_SPM: Floats, dropped: Sequence[int], resampling: Resampling
) -> list[PairedComparison]:
    x_SPM = a_SPM - b_SPM
    n_seeds, _, n_metrics = x_SPM.shape
    ratio_SPM = _relative_cells(a_SPM, b_SPM)
    draws = {"n_resamples": resampling.bootstraps, "seed": resampling.seed}
    drawn = studentised_means(np.concatenate([x_SPM, ratio_SPM], axis=-1).mean(axis=0), **draws)
    of_difference, of_ratio = (
        list(zip(drawn.means_BM.T[half], drawn.t_BM.T[half], strict=True))
        for half in (slice(n_metrics), slice(n_metrics, None))
    )
    two_way_BM = two_way_bootstrap_means(x_SPM, **draws) if n_seeds > 1 else drawn.means_BM
    flips = sign_flip_tests(x_SPM.mean(axis=0), n_resamples=resampling.sign_patterns, seed=resampling.seed)
    return [
        _summary(
            a_SPM[:, :, m],
            b_SPM[:, :, m],
            flips[m],
            _intervals(x_SPM[:, :, m], *of_difference[m], two_way_BM[:, m], resampling.confidence),
            interval_over_seeds(ratio_SPM[:, :, m], *of_ratio[m], resampling.confidence),
            dropped[m],
            resampling,
        )
        for m in range(n_metrics)
    ]


def _relative_cells(a_SPM: Floats, b_SPM: Floats) -> Floats:
    """Cells whose mean is the relative difference and whose spread is that of the ratio of means (delta method)."""
    mean_a, mean_b = a_SPM.mean(axis=(0, 1)), b_SPM.mean(axis=(0, 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(mean_b != 0, mean_a / mean_b, np.nan)
        return (a_SPM - ratio * b_SPM) / mean_b + ratio - 1.0


def _intervals(
    x_SP: Floats, draws_B: Floats, t_B: Floats, two_way_B: Floats, confidence: float
) -> dict[str, Interval]:
    x_P = x_SP.mean(axis=0)
    return {
        "ci": interval_over_seeds(x_SP, draws_B, t_B, confidence),
        "percentile": bootstrap_interval(x_P, draws_B, "percentile", confidence),
        "bca": bootstrap_interval(x_P, draws_B, "BCa", confidence),
        "two_way": bootstrap_interval(x_P, two_way_B, "percentile", confidence),
    }


def _summary(
    a_SP: Floats,
    b_SP: Floats,
    flip: SignFlip,
    intervals: dict[str, Interval],
    relative: Interval,
    n_dropped: int,
    resampling: Resampling,
) -> PairedComparison:
    x_SP = a_SP - b_SP
    x_P = x_SP.mean(axis=0)
    n_seeds, n_prompts = x_SP.shape
    mean_b = float(b_SP.mean())
    n_informative = int(np.count_nonzero(without_noise(x_P)))
    sd = float(x_P.std(ddof=1)) if n_prompts > 1 else math.nan
    return PairedComparison(
        difference=float(x_P.mean()),
        relative_difference=float(x_P.mean()) / mean_b if mean_b else math.nan,
        ci_low=intervals["ci"][0],
        ci_high=intervals["ci"][1],
        relative_ci_low=relative[0],
        relative_ci_high=relative[1],
        p_value=flip.p_value,
        p_over_seeds=p_over_seeds(x_SP),
        p_floor=flip.p_floor,
        p_floor_seeds=2.0 ** (1 - n_seeds),
        effect_size=hedges_gz(x_P),
        minimum_detectable_effect=detectable_effect(n_prompts, ALPHA, POWER) * sd,
        n_prompts=n_prompts,
        n_seeds=n_seeds,
        n_informative=n_informative,
        n_dropped=n_dropped,
        mean_a=float(a_SP.mean()),
        mean_b=mean_b,
        seed_differences=tuple(x_SP.mean(axis=1).tolist()),
        percentile=intervals["percentile"],
        bca=intervals["bca"],
        two_way=intervals["two_way"],
        confidence=resampling.confidence,
        method=_method(flip, n_seeds, n_informative, resampling),
    )


def _method(flip: SignFlip, n_seeds: int, n_informative: int, resampling: Resampling) -> str:
    patterns = (
        f"exact, {flip.n_patterns:,} patterns" if flip.exact else f"{flip.n_patterns:,} random patterns"
    )
    seeds = f", seeds averaged within arm and joined by Student's t ({n_seeds} seeds)" if n_seeds > 1 else ""
    floor = f"with {n_informative:,} prompts that differ p cannot fall below {flip.p_floor:.2g}"
    if n_seeds > 1:
        floor += f", and flipping {n_seeds} seeds alone could not go below {2.0 ** (1 - n_seeds):.2g}"
    return (
        f"paired by prompt; sign-flip permutation test over prompts ({patterns}); "
        f"the wider of percentile and t bootstrap interval ({resampling.bootstraps:,} resamples){seeds}; {floor}"
    )


def _as_cells(name: str, values: ArrayLike) -> Floats:
    cells = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if cells.ndim != 2 or not cells.size:
        raise ValueError(f"{name} has shape {np.shape(values)}; expected [seeds, prompts] or [prompts]")
    if np.isinf(cells).any():
        raise ValueError(
            f"{name} holds an infinite value; expected numbers, or nan where a metric is undefined"
        )
    return cells
