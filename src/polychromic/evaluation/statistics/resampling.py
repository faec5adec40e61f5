"""Bootstrap over prompts and the spread between training seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from polychromic.numerics import FloatArray, IntArray

ROUNDING = 1e-12


def has_spread(x: FloatArray) -> bool:
    """Tells whether values differ by more than rounding: spread of a thousand equal means is noise, not information."""
    return x.size > 1 and bool(np.ptp(x) > ROUNDING * np.abs(x).max())


def without_noise(x: FloatArray) -> FloatArray:
    """Returns values with those that are 0 up to rounding (against the largest) set to 0, such as a sum of ±1/3."""
    return np.where(np.abs(x) > ROUNDING * np.abs(x).max(initial=0.0), x, 0.0)


def differences(a: FloatArray, b: FloatArray) -> FloatArray:
    """Returns a − b, 0 where both are equal up to rounding: one value computed in two ways is no difference, however
    many prompts have it."""
    x = a - b
    return np.where(np.abs(x) <= ROUNDING * np.maximum(np.abs(a), np.abs(b)), 0.0, x)


LEAST_SEEDS = 3
"""With so many training seeds a difference is tested against their spread unless a criterion says otherwise."""


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """Holds how far the means of training seeds lie apart.

    `error` is the standard error of their mean, noise within prompts included; `shared` the share of the variance over
    prompts that all seeds have in common, which `error` does not include. `n_seeds` 1 means that nothing is known.
    """

    n_seeds: int
    error: float
    shared: float

    @classmethod
    def of(cls, x_SP: FloatArray) -> SeedSpread:
        """Builds it from values [seeds, prompts]."""
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
        """Returns the distance from the mean to an interval's end over prompts and seeds, from that over prompts alone.

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


Counts = NDArray[np.uint16]

EXACT_PROMPTS = 20
"""Up to so many prompts that differ, all 2^n sign patterns are tried."""

_CHUNK = 2048
_KEPT_CELLS = 50_000_000

LEAST_SPREAD = 0.5
"""Of the sample's standard error: draws of few values may have next to none, and no interval would hold them."""


@dataclass(frozen=True, slots=True)
class SignFlip:
    """Holds the two-sided p-value of a sign-flip test, the least p that the test could have given, and its patterns."""

    p_value: float
    p_floor: float
    n_patterns: int
    exact: bool


def sign_flip_tests(x_PM: FloatArray, *, n_resamples: int = 100_000, seed: int = 0) -> list[SignFlip]:
    """Tests for each column whether its values over prompts are symmetric about 0; statistic |mean|.

    A prompt at 0 is the same under both signs and is left out. Up to EXACT_PROMPTS prompts the test is exact;
    beyond, `n_resamples` random patterns are drawn and p = (1 + hits) / (1 + resamples), as in scipy.
    Source: Fisher 1935, The Design of Experiments, section 21; Phipson and Smyth 2010 for the + 1.
    """
    x_PM = np.apply_along_axis(without_noise, 0, x_PM)
    n_nonzero_M = (x_PM != 0).sum(axis=0)
    sampled_M = n_nonzero_M > EXACT_PROMPTS
    results: list[SignFlip | None] = [
        None if sampled else _exact_sign_flip(column[column != 0])
        for column, sampled in zip(x_PM.T, sampled_M, strict=True)
    ]
    hits = iter(_sampled_hits(x_PM[:, sampled_M], n_resamples, seed) if sampled_M.any() else ())
    return [
        result or SignFlip((1 + next(hits)) / (1 + n_resamples), 1 / (1 + n_resamples), n_resamples, False)
        for result in results
    ]


def _exact_sign_flip(x_P: FloatArray) -> SignFlip:
    if not len(x_P):
        return SignFlip(1.0, 1.0, 1, True)
    # The mirror image of a pattern has the same |mean|: the first sign stays, half the patterns remain.
    n_patterns = 2 ** (len(x_P) - 1)
    observed, tie = abs(x_P.sum()), ROUNDING * np.abs(x_P).sum()
    hits = 0
    for start in range(0, n_patterns, 2**14):
        codes = np.arange(start, min(start + 2**14, n_patterns))
        signs = 1.0 - 2.0 * ((codes[:, None] >> np.arange(len(x_P))) & 1)
        hits += int((np.abs(signs @ x_P) >= observed - tie).sum())
    return SignFlip(hits / n_patterns, 1 / n_patterns, 2 * n_patterns, True)


def _sampled_hits(x_PM: FloatArray, n_resamples: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    total_M, size_M = x_PM.sum(axis=0), np.abs(x_PM).sum(axis=0)
    least_M = np.abs(total_M) - ROUNDING * size_M
    hits_M = np.zeros(x_PM.shape[1], dtype=np.int64)
    for n in _chunks(n_resamples):
        bits = np.unpackbits(rng.integers(0, 256, (n, -(-len(x_PM) // 8)), dtype=np.uint8), axis=1)
        # Flipping the chosen prompts takes twice their sum off the total.
        flipped_BM = total_M - 2.0 * (bits[:, : len(x_PM)].astype(np.float64) @ x_PM)
        hits_M += (np.abs(flipped_BM) >= least_M).sum(axis=0)
    return hits_M.tolist()


def bootstrap_means(x_PM: FloatArray, *, n_resamples: int = 9999, seed: int = 0) -> FloatArray:
    """Returns [B, M] column means over prompts drawn with replacement; the draws of
    `scipy.stats.bootstrap(rng=seed)`."""
    counts = _drawn_counts(len(x_PM), n_resamples, seed)
    return np.concatenate([counts_BP.astype(np.float64) @ x_PM for counts_BP in counts]) / len(x_PM)


def studentised_means(x_PM: FloatArray, *, n_resamples: int = 9999, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    """Returns the draws of `bootstrap_means` [B, M], and their Student's t [B, M], nan where the values do not differ.

    Each draw is divided by its own standard error, but by no less than `LEAST_SPREAD` of the sample's. Source: Efron
    and Tibshirani 1993, section 12.5, which has no such bound.
    """
    moved_PM = x_PM - x_PM.mean(axis=0)
    drawn = bootstrap_means(np.concatenate([moved_PM, moved_PM**2], axis=1), n_resamples=n_resamples, seed=seed)
    shift_BM, square_BM = np.split(drawn, 2, axis=1)
    least_M = LEAST_SPREAD**2 * (moved_PM**2).mean(axis=0)
    error_BM = np.sqrt(np.maximum(square_BM - shift_BM**2, least_M) / max(len(x_PM) - 1, 1))
    t_BM = np.divide(shift_BM, error_BM, out=np.full_like(shift_BM, np.nan), where=least_M > 0.0)
    return x_PM.mean(axis=0) + shift_BM, t_BM


def two_way_bootstrap_means(x_SPM: FloatArray, *, n_resamples: int = 9999, seed: int = 0) -> FloatArray:
    """Returns [B, M] means over prompts and seeds, each drawn with replacement, all cells of the drawn rows and
    columns.

    Source: Owen 2007, The Pigeonhole Bootstrap, section 3.
    """
    rng = np.random.default_rng(seed)
    n_seeds, n_prompts, n_metrics = x_SPM.shape
    x_PC = np.moveaxis(x_SPM, 0, 1).reshape(n_prompts, -1)
    limits = np.repeat([n_prompts, n_seeds], [n_prompts, n_seeds])
    means = []
    for n in _chunks(n_resamples):
        draws = rng.integers(0, limits, (n, n_prompts + n_seeds))
        of_prompts, of_seeds = _counts(draws[:, :n_prompts], n_prompts), _counts(draws[:, n_prompts:], n_seeds)
        sums_BSM = (of_prompts.astype(np.float64) @ x_PC).reshape(n, n_seeds, n_metrics)
        means.append(np.einsum("bs,bsm->bm", of_seeds, sums_BSM) / (n_prompts * n_seeds))
    return np.concatenate(means)


def _drawn_counts(n_prompts: int, n_resamples: int, seed: int) -> Iterable[Counts]:
    """Chunks [B, n_prompts] of how often each prompt is drawn; kept for the next metric where they are not large."""
    if n_prompts * n_resamples <= _KEPT_CELLS:
        return _kept_counts(n_prompts, n_resamples, seed)
    return _draw_counts(n_prompts, n_resamples, seed)


@lru_cache(maxsize=2)
def _kept_counts(n_prompts: int, n_resamples: int, seed: int) -> tuple[Counts, ...]:
    return tuple(_draw_counts(n_prompts, n_resamples, seed))


def _draw_counts(n_prompts: int, n_resamples: int, seed: int) -> Iterator[Counts]:
    rng = np.random.default_rng(seed)
    for n in _chunks(n_resamples):
        yield _counts(rng.integers(0, n_prompts, (n, n_prompts)), n_prompts)


def _chunks(total: int) -> Iterator[int]:
    for start in range(0, total, _CHUNK):
        yield min(_CHUNK, total - start)


def _counts(draws_BN: IntArray, n: int) -> Counts:
    """Returns [B, n] how often each of n items is in each row of draws."""
    offsets = np.arange(len(draws_BN))[:, None] * n
    counts = np.bincount((draws_BN + offsets).ravel(), minlength=len(draws_BN) * n)
    return counts.reshape(-1, n).astype(np.uint16)
