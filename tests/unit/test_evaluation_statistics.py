"""Paired comparisons: reference vectors, agreement with scipy's own routines, and awkward inputs."""

import json
import math
from dataclasses import astuple, is_dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from polychromic.evaluation import Resampling, detectable_effect, paired_comparison, prompts_needed
from polychromic.evaluation.statistics.intervals import bootstrap_interval
from polychromic.evaluation.statistics.paired import paired_comparisons
from polychromic.evaluation.statistics.resampling import (
    SeedSpread,
    bootstrap_means,
    sign_flip_tests,
    two_way_bootstrap_means,
)
from polychromic.evaluation.statistics.sensitivity import margin_test, robustness

CASES = json.loads((Path(__file__).parents[1] / "vectors" / "stats.json").read_text())["cases"]
PAIRED = CASES["paired10"]
CLUSTERED = CASES["clustered_prompts_x_seeds"]
A, B = np.array([PAIRED["a"]]), np.array([PAIRED["b"]])
CLUSTERED_SP = np.array(CLUSTERED["diff[prompt][seed]"]).T
QUICK = Resampling(bootstraps=1000, sign_patterns=2000)


def close(value, absolute=1e-6):
    return pytest.approx(value, abs=absolute)


def test_paired_prompts_match_the_reference():
    found = paired_comparison(PAIRED["a"], PAIRED["b"])

    assert found.difference == close(PAIRED["mean_diff"])
    assert found.p_value == close(PAIRED["p_signflip_exact_2^10"])
    assert found.p_value == close(PAIRED["p_scipy_permutation_samples_exact"])
    assert found.percentile == close(PAIRED["bootstrap_percentile95_seed0_9999"])
    assert found.bca == close(PAIRED["bootstrap_BCa95_seed0_9999"])
    assert found.effect_size == close(PAIRED["hedges_gz"])
    assert found.p_floor == close(2 / 2**10)
    assert (found.n_prompts, found.n_seeds, found.n_dropped) == (10, 1, 0)


def test_second_opinions_match_the_reference():
    found = robustness(A, B)

    assert found.error_by_prompt == close(PAIRED["se_diff"])
    assert found.t_p_value == close(PAIRED["p_t"])
    assert found.t_interval == close(PAIRED["ci95_t"])
    assert found.effects.cohen_dz == close(PAIRED["cohen_dz"])
    assert found.effects.cohen_d_av == close(PAIRED["cohen_d_av"])
    assert found.effects.cliffs_delta == close(PAIRED["cliffs_delta"])
    assert found.effects.rank_biserial == close(PAIRED["rank_biserial_matched"])


def test_seeds_within_prompts_match_the_reference():
    found = paired_comparison(CLUSTERED_SP, np.zeros_like(CLUSTERED_SP))
    second = robustness(CLUSTERED_SP, np.zeros_like(CLUSTERED_SP))
    n_prompts = CLUSTERED_SP.shape[1]

    assert found.difference == close(CLUSTERED["mean"])
    assert found.over_prompts.p_value == close(CLUSTERED["signflip_exact_on_prompt_means_p(2^6)"])
    assert found.p_floor == close(CLUSTERED["min_attainable_p"])
    assert found.percentile == close(CLUSTERED["cluster_bootstrap_prompts_seed0_9999_percentile95"])
    drawn_B = two_way_bootstrap_means(CLUSTERED_SP[:, :, None])[:, 0]
    two_way = bootstrap_interval(CLUSTERED_SP.mean(axis=0), drawn_B, "percentile", 0.95)
    assert two_way == close(CLUSTERED["two_way_bootstrap_prompts_x_seeds_seed0_9999_percentile95"])
    assert second.naive_error == close(CLUSTERED["naive_se_iid_24"])
    assert second.error_by_prompt == close(CLUSTERED["se_of_prompt_means(sd/sqrt(P))"])
    assert second.error_by_prompt == close(CLUSTERED["cluster_se_inspect_ai(C/(C-1))"])
    assert second.error_by_prompt == close(CLUSTERED["statsmodels_cluster_default"])
    uncorrected = second.error_by_prompt * math.sqrt((n_prompts - 1) / n_prompts)
    assert uncorrected == close(CLUSTERED["cluster_se_miller_A(no correction)"])
    assert uncorrected == close(CLUSTERED["statsmodels_cluster_nocorrection"])
    assert second.two_way_error == close(CLUSTERED["two_way_prompt+seed_CGM_nocorr"])
    assert second.seed_correlation == close(CLUSTERED["icc1"])


def test_ties_count_as_at_least_as_extreme():
    case = CASES["ar_strict_vs_ge"]

    (test,) = sign_flip_tests(np.array(case["d"], dtype=float)[:, None])

    assert test.p_value == close(case["p_ge_exact"])
    assert test.p_value != close(case["p_gt_exact(sacrebleu rule before +1)"])


def test_exact_and_sampled_sign_flips_agree_with_scipy():
    rng = np.random.default_rng(0)
    few, many = rng.normal(0.4, 1, 12), rng.normal(0.15, 1, 80)

    (exact,) = sign_flip_tests(few[:, None])
    (sampled,) = sign_flip_tests(many[:, None], n_resamples=100_000)

    def scipy_p(x, **options):
        return stats.permutation_test((x,), np.mean, permutation_type="samples", vectorized=True, **options).pvalue

    assert exact.exact
    assert exact.p_value == pytest.approx(scipy_p(few, n_resamples=2**12), abs=1e-12)
    assert not sampled.exact
    # Two Monte Carlo estimates of p ≈ 0.2 from 100,000 and 20,000 patterns differ by 0.003 (one standard error).
    assert sampled.p_value == pytest.approx(scipy_p(many, n_resamples=20_000, rng=1), abs=0.013)


def test_bootstrap_draws_are_those_of_scipy():
    x = np.random.default_rng(3).normal(size=25)

    draws = bootstrap_means(x[:, None], n_resamples=3000, seed=7)[:, 0]
    expected = stats.bootstrap((x,), np.mean, n_resamples=3000, rng=np.random.default_rng(7), method="percentile")

    assert draws == pytest.approx(expected.bootstrap_distribution, abs=1e-12)


def test_the_interval_reaches_further_on_the_side_of_the_skew():
    """Past bug: 92 % of the 95 % intervals of skewed differences over 30 prompts held the truth."""
    x = np.random.default_rng(0).exponential(size=30)
    found = paired_comparison(x, np.zeros(30), resampling=QUICK)

    above, below = found.ci_high - found.percentile[1], found.percentile[0] - found.ci_low
    assert above > 3 * max(below, 0.0)
    assert found.ci_low <= found.percentile[0]


def test_no_interval_ends_beyond_what_was_seen_for_want_of_spread():
    """One prompt of 30 differs: draws without it have a t of any size."""
    x = np.full(30, 1e-9)
    x[0] = 1.0
    found = paired_comparison(x, np.zeros(30), resampling=QUICK)

    assert x.min() - 1e-12 <= found.ci_low <= found.ci_high <= x.max() + 1e-12


def test_two_way_bootstrap_with_one_seed_is_the_one_over_prompts():
    x_PM = np.random.default_rng(3).normal(size=(40, 2))

    one_way = bootstrap_means(x_PM, n_resamples=4000)
    two_way = two_way_bootstrap_means(x_PM[None], n_resamples=4000)

    assert two_way.std(axis=0) == pytest.approx(one_way.std(axis=0), rel=0.06)


def flat(value):
    """The leaves of a record, in order."""
    if is_dataclass(value) and not isinstance(value, type):
        value = astuple(value)
    return [leaf for one in value for leaf in flat(one)] if isinstance(value, tuple) else [value]


def test_one_draw_for_many_metrics_changes_nothing():
    rng = np.random.default_rng(5)
    pairs = [(rng.random((3, 30)), rng.random((3, 30))) for _ in range(4)]
    pairs[2][0][1, 4] = np.nan

    together = paired_comparisons(pairs, resampling=QUICK)

    for one, (a, b) in zip(together, pairs, strict=True):
        alone = paired_comparison(a, b, resampling=QUICK)
        for shared, value in zip(flat(one), flat(alone), strict=True):
            assert shared == value or shared == pytest.approx(value, nan_ok=True, abs=1e-8)
    assert [one.n_dropped for one in together] == [0, 0, 1, 0]


def test_swapping_the_arms_turns_the_sign():
    forth, back = paired_comparison(A, B, resampling=QUICK), paired_comparison(B, A, resampling=QUICK)

    assert forth.difference > 0
    assert back.difference == pytest.approx(-forth.difference)
    assert back.percentile == pytest.approx([-end for end in reversed(forth.percentile)], abs=0.003)
    assert back.p_value == forth.p_value


def test_relative_difference_carries_the_noise_of_the_baseline():
    """A ratio of means has the spread of both; dividing the difference's interval by the baseline ignores one."""
    rng = np.random.default_rng(1)
    b = rng.gamma(2.0, 1.0, (1, 300))
    a = 1.5 * b

    found = paired_comparison(a, b, resampling=QUICK)

    assert found.relative_difference == pytest.approx(0.5)
    assert (found.relative_ci_low, found.relative_ci_high) == pytest.approx((0.5, 0.5), abs=1e-9)
    assert found.ci_high - found.ci_low > 0.05


def test_a_prompt_undefined_in_one_cell_is_left_out_everywhere():
    a, b = np.ones((2, 5)), np.zeros((2, 5))
    a[1, 0], b[0, 3] = np.nan, np.nan

    found = paired_comparison(a, b, resampling=QUICK)

    assert (found.n_prompts, found.n_dropped, found.difference) == (3, 2, 1.0)


def test_equal_arms_are_equal_with_certainty():
    found = paired_comparison(B, B, resampling=QUICK)

    assert (found.difference, found.ci_low, found.ci_high) == (0.0, 0.0, 0.0)
    assert (found.p_value, found.p_floor, found.n_informative) == (1.0, 1.0, 0)
    assert math.isnan(found.effect_size)


def test_one_value_computed_in_two_ways_is_no_difference():
    """One answer of five is one cluster, and the sum of five shares is 1 − 2⁻⁵³: twenty such prompts were "worse"."""
    a, b = np.full(20, 1.0 - 2.0**-53), np.ones(20)
    found = paired_comparison(a, b, resampling=QUICK)

    assert (found.difference, found.p_value, found.n_informative) == (0.0, 1.0, 0)
    assert (found.ci_low, found.ci_high) == (found.relative_ci_low, found.relative_ci_high) == (0.0, 0.0)
    assert found.change(1.0) == found.change(-1.0) == "no clear change"
    assert robustness(np.array([a]), np.array([b])).effects.cliffs_delta == 0.0


def test_differences_that_cancel_are_no_difference():
    """Gains and losses of the same sizes were "no clear change (+4.4e-15 %)"."""
    b = np.linspace(0.1, 0.9, 7)
    x = np.array([0.3, -0.1, -0.2, 0.1, -0.3, 0.2, 0.0])
    found = paired_comparison(b + x, b, resampling=QUICK)

    assert (found.difference, found.relative_difference) == (0.0, 0.0)


def test_one_prompt_has_no_interval():
    found = paired_comparison([[1.0]], [[0.5]], resampling=QUICK)

    assert found.difference == 0.5
    assert found.p_value == 1.0
    assert math.isnan(found.ci_low)
    assert math.isnan(found.minimum_detectable_effect)


def test_few_seeds_put_a_floor_under_p():
    found = paired_comparison(np.ones((3, 50)), np.zeros((3, 50)), resampling=QUICK)

    assert found.p_floor_seeds == 0.25
    assert found.p_floor == pytest.approx(1 / 2001)
    assert "with 50 prompts that differ p cannot fall below 0.0005" in found.method
    assert "flipping 3 seeds alone could not go below 0.25" in found.method


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([[1.0, 2.0]], [[1.0]], "a has shape"),
        ([[[1.0]]], [[[1.0]]], "expected \\[seeds, prompts\\]"),
        ([1.0, np.inf], [1.0, 1.0], "a holds an infinite value"),
        ([np.nan], [1.0], "nothing can be compared"),
        ([], [], "expected \\[seeds, prompts\\]"),
    ],
)
def test_unusable_arrays_are_named(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_comparison(a, b)


def test_too_few_resamples_are_refused():
    with pytest.raises(ValueError, match="bootstraps=10"):
        Resampling(bootstraps=10)
    with pytest.raises(ValueError, match="confidence=95"):
        Resampling(confidence=95)


def test_seed_spread_widens_the_interval_and_raises_p():
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.1, (3, 200))
    calm, restless = noise + 0.05, noise + np.array([[0.35], [0.05], [-0.25]])

    still, moved = (paired_comparison(x, np.zeros_like(x), resampling=QUICK) for x in (calm, restless))

    assert still.over_prompts.p_value < 0.01 and still.p_over_seeds < 0.01
    assert moved.over_prompts.p_value < 0.01
    assert moved.p_value == moved.p_over_seeds > 0.5
    assert moved.ci_low < -0.5 < 0.6 < moved.ci_high
    assert moved.percentile == pytest.approx(still.percentile, abs=1e-12)


def test_shared_part_of_prompts_is_told_from_noise():
    """Two thirds of a prompt's variance over three seeds are the prompt's own here."""
    rng = np.random.default_rng(0)
    x_SP = rng.normal(0, 1.0, (3, 4000)) + rng.normal(0, math.sqrt(2 / 3), 4000)

    spread = SeedSpread.of(x_SP)

    assert spread.shared == pytest.approx(2 / 3, abs=0.03)
    assert spread.error == pytest.approx(x_SP.mean(axis=1).std(ddof=1) / math.sqrt(3))
    assert SeedSpread.of(x_SP[:1]) == SeedSpread(1, 0.0, 1.0)


def test_seeds_never_make_an_interval_narrower():
    """Three seeds may agree by chance: their Student interval would then be next to nothing."""
    x_SP = np.random.default_rng(1).normal(0.1, 1.0, (3, 50))
    x_SP -= x_SP.mean(axis=1, keepdims=True) - 0.1

    found = paired_comparison(x_SP, np.zeros_like(x_SP), resampling=QUICK)

    assert (found.ci_low, found.ci_high) == (found.over_prompts.ci_low, found.over_prompts.ci_high)


def test_margin_test_shows_no_loss_where_there_is_none():
    rng = np.random.default_rng(0)
    b = rng.random((1, 400))
    same, lost = b + rng.normal(0, 0.05, b.shape), b - 0.03 + rng.normal(0, 0.05, b.shape)

    assert margin_test(same, b, 0.02).p_value < 1e-6
    assert margin_test(same, b, 0.02).p_equivalent < 1e-6
    assert margin_test(lost, b, 0.02).p_value > 0.99
    assert margin_test(-lost, -b, 0.02, sign=-1.0).p_value > 0.99
    with pytest.raises(ValueError, match="margin=0"):
        margin_test(same, b, 0.0)


@pytest.mark.parametrize(("loss", "p_value"), [(0.01, 2.0**-10), (0.03, 1.0)])
def test_margin_test_of_values_without_spread(loss, p_value):
    """Past bug: p was 0, however few the prompts were; two equal prompts proved that nothing was lost."""
    b = np.full((1, 10), 0.5)

    assert margin_test(b - loss, b, 0.02).p_value == p_value
    assert margin_test(b[:, :2], b[:, :2], 0.02).p_value == 0.25


def test_power_agrees_with_its_inverse():
    effect = detectable_effect(200, 0.05, 0.8)

    assert effect == pytest.approx(0.199, abs=0.001)
    assert prompts_needed(effect) in (200, 201)
    assert prompts_needed(0.1) == 787
    assert prompts_needed(0.0) is None
    assert prompts_needed(math.nan) is None
    assert math.isnan(detectable_effect(1, 0.05, 0.8))
    assert detectable_effect(20, 0.05, 0.04) == 0.0


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("power", [0.4, 0.8, 0.99])
@pytest.mark.parametrize("n_prompts", [2, 3, 5, 30, 164, 4000])
def test_a_t_test_sees_the_detectable_effect_with_that_power(n_prompts, power, alpha):
    """Against an integral over the sample variance: a mean of 0 is rejected where |normal + shift| > critical · s.

    Past bug: 3.81 for five prompts, a level of 0.001 and a power of 0.8, which takes 4.77: far tails came as nan.
    """
    degrees, shift = n_prompts - 1, detectable_effect(n_prompts, alpha, power) * math.sqrt(n_prompts)
    critical = stats.t.isf(alpha / 2, degrees)

    def rejected(quantile):
        deviation = math.sqrt(stats.chi2.ppf(quantile, degrees) / degrees)
        return stats.norm.sf(critical * deviation - shift) + stats.norm.cdf(-critical * deviation - shift)

    integral, error = quad(rejected, 0.0, 1.0, limit=400, epsabs=1e-10)
    assert integral == pytest.approx(power, abs=max(1e-8, error))


def test_a_large_effect_needs_as_many_prompts_as_it_needs():
    """Past bug: three prompts for an effect of 5 at a level of 0.001, which takes five: far tails came as nan."""
    for effect in (2.0, 5.0, 20.0):
        for alpha in (0.05, 0.01, 0.001):
            n_prompts = prompts_needed(effect, alpha)
            assert detectable_effect(n_prompts, alpha, 0.8) <= effect
            assert n_prompts == 2 or detectable_effect(n_prompts - 1, alpha, 0.8) > effect


def test_p_and_interval_say_the_same_of_either_question():
    """Past bug: p over prompts stood beside an interval over seeds, and could be 0.001 where that held 0."""
    rng = np.random.default_rng(0)
    decided = set()
    for _ in range(60):
        n_seeds, n_prompts = int(rng.integers(1, 6)), int(rng.integers(4, 60))
        b = rng.random((n_seeds, n_prompts))
        shift = rng.normal(0.03, 0.05, (n_seeds, 1))
        a = b + shift + rng.choice([0.0, 0.3], n_prompts) * rng.standard_exponential((n_seeds, n_prompts)) - 0.1
        found = paired_comparison(a, b, resampling=QUICK)

        assert found.asks_over_seeds is (n_seeds >= 3)
        for answer in filter(None, [found, found.over_prompts, found.over_seeds]):
            excludes = answer.ci_low > 0 or answer.ci_high < 0
            assert (answer.p_value < 0.05) is excludes
            assert (answer.relative_ci_low > 0 or answer.relative_ci_high < 0) is excludes
            decided.add(excludes)
    assert decided == {True, False}


def test_the_other_question_can_be_asked_of_the_same_comparison():
    x_SP = np.random.default_rng(3).normal(0.1, 0.1, (3, 100)) + np.array([[0.2], [0.0], [-0.2]])
    found = paired_comparison(x_SP, np.zeros_like(x_SP), resampling=QUICK)
    models = found.asking(over_seeds=False)

    assert found.asking(None) is found.asking(over_seeds=True) is found
    assert (models.p_value, models.ci_low) == (found.over_prompts.p_value, found.over_prompts.ci_low)
    assert (found.change(1.0), models.change(1.0), models.change(-1.0)) == (
        "no clear change",
        "better",
        "worse",
    )
    assert models.change(1.0, p_value=0.2) == "no clear change"
    one = paired_comparison(x_SP[:1], np.zeros((1, 100)), resampling=QUICK).asking(over_seeds=True)
    assert math.isnan(one.p_value) and one.change(1.0) == "no clear change"
