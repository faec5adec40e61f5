"""Compares two arms, paired over prompts and seeds, and says what such a comparison could have shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from polychromic.evaluation.statistics.intervals import (
    PROMPTS_ALONE,
    Interval,
    Reach,
    Resampling,
    bootstrap_interval,
    hedges_gz,
    indices_by_key,
    reaches,
    relative_interval,
)
from polychromic.evaluation.statistics.resampling import (
    LEAST_SEEDS,
    ROUNDING,
    SeedSpread,
    SignFlip,
    bootstrap_means,
    differences,
    sign_flip_tests,
    without_noise,
)
from polychromic.numerics import FloatArray, require_array, require_between, require_whole

_MOST_PROMPTS = 10_000_000


@lru_cache(maxsize=256)
def detectable_effect(n_prompts: int, alpha: float, power: float) -> float:
    """Returns the least mean, in standard deviations of the paired differences, that a two-sided t-test sees with this
    power; 0 where that is no more than the level.

    nan with fewer than two prompts. Source: Cohen 1988, section 2.3.
    """
    from scipy.optimize import root_scalar

    require_whole("n_prompts", n_prompts, least=0, what="a number of prompts")
    _require_shares(alpha, power)
    if n_prompts < 2:
        return math.nan
    if power <= alpha:
        return 0.0
    beyond = 1.0
    while _t_test_power(beyond, n_prompts, alpha) < power:
        beyond *= 2.0
    solution = root_scalar(lambda effect: _t_test_power(effect, n_prompts, alpha) - power, bracket=(0.0, beyond))
    return float(solution.root)


def prompts_needed(effect: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Returns prompts at which a two-sided paired t-test sees `effect` (mean over standard deviation) with this power.

    None for an effect of 0, of nan, or one that ten million prompts would not show.
    """
    from scipy.special import ndtri

    _require_shares(alpha, power)
    effect = abs(effect)
    of_normal = float(ndtri(1.0 - alpha / 2) + ndtri(power))
    if not effect * math.sqrt(_MOST_PROMPTS) > of_normal:
        return None
    # Student's tails ask for a few prompts more than the normal distribution does.
    n_prompts = max(2, int((of_normal / effect) ** 2))
    while _t_test_power(effect, n_prompts, alpha) < power:
        n_prompts += 1
    return n_prompts


def _t_test_power(effect: float, n_prompts: int, alpha: float) -> float:
    """Returns the chance that a two-sided t-test rejects a mean of 0, where the mean is `effect` standard deviations.

    Student's t with n − 1 degrees of freedom, shifted by effect · √n, beyond the critical value on either side.
    """
    from scipy.special import nctdtr, stdtrit

    critical, shift = stdtrit(n_prompts - 1, 1.0 - alpha / 2), effect * math.sqrt(n_prompts)
    against, towards = 1.0 - nctdtr(n_prompts - 1, np.array([-shift, shift]), critical)
    # scipy answers nan where its distribution function is 0 or 1 to the last digit.
    return float(np.nan_to_num(against, nan=0.0) + np.nan_to_num(towards, nan=1.0))


def _require_shares(alpha: float, power: float) -> None:
    """Raises ValueError for a level or a power that is no share: a percentage among them would be taken as it is."""
    for name, share in (("alpha", alpha), ("power", power)):
        if not 0.0 < require_between(name, share, 0.0, 1.0, "a share between 0 and 1") < 1.0:
            raise ValueError(f"{name}={share:g}: expected a share between 0 and 1")


ALPHA, POWER = 0.05, 0.8
Change = Literal["better", "worse", "no clear change"]


@dataclass(frozen=True, slots=True)
class Answer:
    """Holds a p-value and the intervals of the difference and the relative difference that go with it: p is below 1 −
    confidence exactly where the interval of the difference leaves 0 out."""

    p_value: float
    ci_low: float
    ci_high: float
    relative_ci_low: float
    relative_ci_high: float


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Holds arm a against arm b on one metric. Every difference is a − b; relative ones are divided by the mean of b,
    and nan where that is not above 0: there a rise would read as a fall.

    `p_value`, `ci_low` … `relative_ci_high` (95 % unless stated) are those that stand: of `over_seeds` where there are
    `LEAST_SEEDS` training seeds or more, else of `over_prompts`; `asking` chooses otherwise. `over_prompts` answers
    whether *these trained models* differ on new prompts, `over_seeds` whether *this way of training* would differ with
    new seeds too (None with one seed). `percentile` and `bca` are customary intervals over prompts alone.
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
    asks_over_seeds: bool
    over_prompts: Answer
    over_seeds: Answer | None
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
    confidence: float
    method: str

    @property
    def p_over_seeds(self) -> float:
        """Returns p over prompts and training seeds; nan with one seed."""
        return self.over_seeds.p_value if self.over_seeds else math.nan

    def asking(self, over_seeds: bool | None) -> PairedComparison:
        """Returns the same comparison with the p-value and intervals of the other question standing; None: as they
        stand.

        Over seeds there is no p with one seed (nan); the intervals are then those over prompts.
        """
        if over_seeds is None or over_seeds == self.asks_over_seeds:
            return self
        answer = self.over_prompts
        if over_seeds:
            answer = self.over_seeds or replace(self.over_prompts, p_value=math.nan)
        return replace(self, asks_over_seeds=over_seeds, **asdict(answer))

    def within(self, lowest: float, highest: float) -> PairedComparison:
        """Returns the same comparison of a metric whose values lie in [lowest, highest], without the parts of intervals
        that no such value can reach: what is never below 0 falls by no more than 100 %."""
        span, least = highest - lowest, -1.0 if lowest >= 0.0 else -math.inf

        def cut(answer: Answer) -> Answer:
            return Answer(
                answer.p_value,
                max(answer.ci_low, -span),
                min(answer.ci_high, span),
                max(answer.relative_ci_low, least),
                answer.relative_ci_high,
            )

        over_prompts, over_seeds = cut(self.over_prompts), self.over_seeds and cut(self.over_seeds)
        bounded = replace(self, over_prompts=over_prompts, over_seeds=over_seeds)
        standing = over_seeds if self.asks_over_seeds and over_seeds else over_prompts
        return replace(bounded, **{**asdict(standing), "p_value": self.p_value})

    def change(self, sign: float, alpha: float = ALPHA, p_value: float | None = None) -> Change:
        """Returns the one word on the difference, `sign` +1 where more of the metric is better and −1 where less is.

        A change is clear where p is below `alpha` and the interval leaves 0 out, unless the interval is at a stricter
        level than `alpha`; `p_value` stands in for the comparison's own where it was corrected for many tests.
        """
        p_value = self.p_value if p_value is None else p_value
        is_stricter = alpha > 1.0 - self.confidence + ROUNDING
        if not p_value < alpha or not (is_stricter or self.ci_low * self.ci_high > 0.0):
            return "no clear change"
        return "better" if sign * self.difference > 0.0 else "worse"


def paired_comparison(a: ArrayLike, b: ArrayLike, *, resampling: Resampling | None = None) -> PairedComparison:
    """Compares a with b on the same prompts: arrays [seeds, prompts], or [prompts] for one seed; difference a − b.

    A prompt that is nan in any cell is dropped from all, and counted. Raises ValueError where the shapes differ,
    or no prompt is left.
    """
    a_SP, b_SP = _as_cells("a", a), _as_cells("b", b)
    if a_SP.shape != b_SP.shape:
        raise ValueError(f"a has shape {a_SP.shape} and b {b_SP.shape}; expected the same seeds and prompts")
    return paired_comparisons([(a_SP, b_SP)], resampling=resampling)[0]


def paired_comparisons(
    pairs: Sequence[tuple[FloatArray, FloatArray]], *, resampling: Resampling | None = None
) -> list[PairedComparison]:
    """Returns `paired_comparison` of many pairs of [seeds, prompts] arrays; those of one shape share the random
    draws."""
    resampling = resampling or Resampling()
    complete = [~(np.isnan(a_SP) | np.isnan(b_SP)).any(axis=0) for a_SP, b_SP in pairs]
    if not all(kept_P.any() for kept_P in complete):
        raise ValueError("no prompt is defined in both arms and all seeds; nothing can be compared")
    shapes = [(len(a_SP), int(kept_P.sum())) for (a_SP, _), kept_P in zip(pairs, complete, strict=True)]
    results: dict[int, PairedComparison] = {}
    for members in indices_by_key(shapes).values():
        a_SPM, b_SPM = (np.stack([pairs[i][side][:, complete[i]] for i in members], axis=-1) for side in (0, 1))
        dropped = [int((~complete[i]).sum()) for i in members]
        results |= zip(members, _compare_block(a_SPM, b_SPM, dropped, resampling), strict=True)
    return [results[index] for index in range(len(pairs))]


def _compare_block(
    a_SPM: FloatArray, b_SPM: FloatArray, dropped: Sequence[int], resampling: Resampling
) -> list[PairedComparison]:
    x_SPM = differences(a_SPM, b_SPM)
    x_PM = x_SPM.mean(axis=0)
    by_prompt_BM = bootstrap_means(x_PM, n_resamples=resampling.bootstraps, seed=resampling.seed)
    flips = sign_flip_tests(x_PM, n_resamples=resampling.sign_patterns, seed=resampling.seed)
    return [
        _summary(a_SPM[:, :, m], b_SPM[:, :, m], flips[m], reach, by_prompt_BM[:, m], dropped[m], resampling)
        for m, reach in enumerate(reaches(x_PM, resampling))
    ]


def _over_prompts(a_SP: FloatArray, b_SP: FloatArray, reach: Reach, flip: SignFlip, alpha: float) -> Answer:
    """Returns the sign-flip p-value with the bootstrap interval. Where one of them finds nothing at `alpha`, neither
    does the other: p is then the interval's own, or the interval is drawn out to 0."""
    low, high = reach.interval(alpha, PROMPTS_ALONE)
    p_value = flip.p_value
    if p_value < alpha and low <= 0.0 <= high:
        p_value = max(p_value, reach.p_value(0.0, PROMPTS_ALONE))
    relative = relative_interval(a_SP, b_SP, reach, over_seeds=False, alpha=alpha)
    return _agreeing(p_value, (low, high), relative, alpha)


def _over_seeds(a_SP: FloatArray, b_SP: FloatArray, reach: Reach, over_prompts: Answer, alpha: float) -> Answer | None:
    """Answers over seeds; None with one seed. p is that of the interval over seeds, and no less than over prompts
    alone."""
    if len(a_SP) < 2:
        return None
    spread = SeedSpread.of(differences(a_SP, b_SP))
    p_value = max(reach.p_value(0.0, spread), over_prompts.p_value)
    relative = relative_interval(a_SP, b_SP, reach, over_seeds=True, alpha=alpha)
    return _agreeing(p_value, reach.interval(alpha, spread), relative, alpha)


def _agreeing(p_value: float, difference: Interval, relative: Interval, alpha: float) -> Answer:
    """Returns intervals that hold 0 wherever p is not below `alpha` (nan stays nan)."""
    if p_value >= alpha:
        difference, relative = (
            (low if low <= 0.0 else low * 0.0, high if high >= 0.0 else high * 0.0)
            for low, high in (difference, relative)
        )
    return Answer(p_value, *difference, *relative)


def _summary(
    a_SP: FloatArray,
    b_SP: FloatArray,
    flip: SignFlip,
    reach: Reach,
    by_prompt_B: FloatArray,
    n_dropped: int,
    resampling: Resampling,
) -> PairedComparison:
    x_SP = differences(a_SP, b_SP)
    x_P = x_SP.mean(axis=0)
    n_seeds, n_prompts = x_SP.shape
    mean_b = float(b_SP.mean())
    # The mean of differences that cancel is 0 up to rounding.
    difference = float(without_noise(np.append(x_P, x_P.mean()))[-1])
    n_informative = int(np.count_nonzero(without_noise(x_P)))
    sd = float(x_P.std(ddof=1)) if n_prompts > 1 else math.nan
    over_prompts = _over_prompts(a_SP, b_SP, reach, flip, resampling.alpha)
    over_seeds = _over_seeds(a_SP, b_SP, reach, over_prompts, resampling.alpha)
    standing = over_seeds if over_seeds and n_seeds >= LEAST_SEEDS else over_prompts
    return PairedComparison(
        difference=difference,
        relative_difference=difference / mean_b if mean_b > 0.0 else math.nan,
        **asdict(standing),
        asks_over_seeds=standing is over_seeds,
        over_prompts=over_prompts,
        over_seeds=over_seeds,
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
        percentile=bootstrap_interval(x_P, by_prompt_B, "percentile", resampling.confidence),
        bca=bootstrap_interval(x_P, by_prompt_B, "BCa", resampling.confidence),
        confidence=resampling.confidence,
        method=_method(flip, n_seeds, n_informative, resampling),
    )


def _method(flip: SignFlip, n_seeds: int, n_informative: int, resampling: Resampling) -> str:
    patterns = f"exact, {flip.n_patterns:,} patterns" if flip.exact else f"{flip.n_patterns:,} random patterns"
    seeds = f", over {n_seeds} seeds widened by Student's t of their means" if n_seeds > 1 else ""
    floor = f"with {n_informative:,} prompts that differ p cannot fall below {flip.p_floor:.2g}"
    if n_seeds > 1:
        floor += f", and flipping {n_seeds} seeds alone could not go below {2.0 ** (1 - n_seeds):.2g}"
    return (
        f"paired by prompt; sign-flip permutation test over prompts ({patterns}) and "
        f"the wider of percentile and t bootstrap interval ({resampling.bootstraps:,} resamples), p the larger of "
        f"theirs{seeds}; {floor}"
    )


def _as_cells(name: str, values: ArrayLike) -> FloatArray:
    cells = np.atleast_2d(require_array(name, values, "[seeds, prompts] or [prompts]"))
    if cells.ndim != 2 or not cells.size:
        raise ValueError(f"{name} has shape {np.shape(values)}; expected [seeds, prompts] or [prompts]")
    if np.isinf(cells).any():
        raise ValueError(f"{name} holds an infinite value; expected numbers, or nan where a metric is undefined")
    return cells
