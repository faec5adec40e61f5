"""Do the tests and intervals keep their promises? Thousands of simulated experiments, with fixed seeds.

With `-s` the shares that were found are printed; docs/results/evaluation.md has them.
The bounds are those of a good procedure plus what chance does to a finite simulation: with 4,000 experiments a
true 5 % comes out between 4.0 and 6.0 % in 99.6 % of simulations, with 1,500 a true 95 % between 93.4 and 96.6 %.
"""

import sys

import numpy as np
import pytest
from scipy import stats

from polychromic.evaluation import detectable_effect, prompts_needed
from polychromic.evaluation.statistics.frontier import reachable
from polychromic.evaluation.statistics.intervals import PROMPTS_ALONE, Resampling, reaches
from polychromic.evaluation.statistics.resampling import SeedSpread, bootstrap_means, sign_flip_tests
from polychromic.evaluation.statistics.sensitivity import margin_test

pytestmark = pytest.mark.slow

N_TESTS, N_INTERVALS = 4000, 1500
PATTERNS, BOOTSTRAPS = 1999, 1999


@pytest.fixture
def found(request):
    """Prints a simulated share (`-s` shows it) and gives it back."""

    def record(share):
        sys.stdout.write(f" {request.node.name}: {share:.4f}\n")
        return share

    return record


def rejected(p_values):
    return np.mean(np.array(p_values) <= 0.05)


# Differences [prompts, experiments] of two equally good arms. ------------------------------------------------------


def clustered(rng, n_prompts, n):
    """Three seeds a prompt that share most of their noise; averaging over seeds leaves one value a prompt."""
    return rng.normal(size=(n_prompts, n)) + rng.normal(size=(3, n_prompts, n)).mean(axis=0)


def heavy_tailed(rng, n_prompts, n):
    """Student's t with 3 degrees of freedom: no fourth moment."""
    return rng.standard_t(3, (n_prompts, n))


def bounded(rng, n_prompts, n):
    """Pass rates of 8 generations in both arms, a third of the prompts all or nothing: many ties at 0."""
    chance = rng.beta(0.4, 0.4, (n_prompts, n))
    return (rng.binomial(8, chance) - rng.binomial(8, chance)) / 8


def skewed(rng, n_prompts, n):
    """Mean 0 but not symmetric: the sign-flip test is exact for symmetry and only approximate here."""
    return rng.exponential(size=(n_prompts, n)) - 1.0


NULLS = [clustered, heavy_tailed, bounded, skewed]


@pytest.mark.parametrize("n_prompts", [30, 200])
@pytest.mark.parametrize("null", NULLS, ids=lambda null: null.__name__)
def test_false_alarms_of_the_sign_flip_test(null, n_prompts, found):
    if null is skewed and n_prompts < 200:
        pytest.skip("with 30 prompts and strong skew the test is not exact; docs/evaluation.md gives the figure")
    rng = np.random.default_rng(1)
    x_PM = null(rng, n_prompts, N_TESTS)

    p_values = [test.p_value for test in sign_flip_tests(x_PM, n_resamples=PATTERNS, seed=2)]

    # Thirty differences in eighths, many of them 0, have few p-values near 5 %: an exact test must stay below it.
    least = 0.03 if null is bounded and n_prompts < 200 else 0.04
    assert least <= found(rejected(p_values)) <= 0.06


def test_what_bounded_metrics_lack_to_five_percent_is_ties(found):
    """With p drawn evenly from those of a tie the same tests alarm in 5 %: nothing but ties makes them cautious."""
    rng = np.random.default_rng(1)
    x_PM = bounded(rng, 30, N_TESTS)
    size_M = np.abs(x_PM.sum(axis=0))
    signs_BP = rng.choice([-1.0, 1.0], (PATTERNS, 30))
    drawn_BM = np.abs(signs_BP @ x_PM)
    beyond_M = (drawn_BM > size_M + 1e-9).sum(axis=0)
    tied_M = 1 + (np.abs(drawn_BM - size_M) <= 1e-9).sum(axis=0)

    p_values = (beyond_M + rng.random(N_TESTS) * tied_M) / (1 + PATTERNS)

    assert 0.04 <= found(rejected(p_values)) <= 0.06


@pytest.mark.parametrize("n_prompts", [30, 200])
@pytest.mark.parametrize("null", NULLS, ids=lambda null: null.__name__)
def test_coverage_over_prompts(null, n_prompts, found):
    x_PM = null(np.random.default_rng(3), n_prompts, N_INTERVALS)

    intervals = intervals_of(x_PM[None])

    assert 0.93 <= found(coverage(intervals)) <= 0.97


def intervals_of(x_SPM, *, over_seeds=True):
    drawn = reaches(x_SPM.mean(axis=0), Resampling(bootstraps=BOOTSTRAPS, seed=4))
    return np.array(
        [
            reach.interval(0.05, SeedSpread.of(x_SP) if over_seeds else PROMPTS_ALONE)
            for x_SP, reach in zip(np.moveaxis(x_SPM, 2, 0), drawn, strict=True)
        ]
    )


def coverage(intervals, truth=0.0):
    return np.mean((intervals[:, 0] <= truth) & (truth <= intervals[:, 1]))


def crossed(rng, n_seeds, n_prompts, n, of_seeds, of_prompts, noise=1.0):
    """[seeds, prompts, experiments] with effects of seeds, of prompts, and noise."""
    return (
        of_seeds * rng.normal(size=(n_seeds, 1, n))
        + of_prompts * rng.normal(size=(1, n_prompts, n))
        + noise * rng.normal(size=(n_seeds, n_prompts, n))
    )


# Standard deviations of seeds and of prompts, in units of the noise: seeds that agree, that matter as much as the
# prompts do (0.1 / √3 against 1 / √200), and that decide everything.
SPREADS = [(0.0, 1.0), (0.05, 0.5), (0.1, 1.0), (0.3, 1.0), (1.0, 1.0)]


@pytest.mark.parametrize("n_seeds", [2, 3, 5, 8])
@pytest.mark.parametrize(("of_seeds", "of_prompts"), SPREADS)
def test_coverage_over_prompts_and_seeds(n_seeds, of_seeds, of_prompts, found):
    """Never less than promised; more where seeds hardly differ, which so few of them cannot tell."""
    x_SPM = crossed(np.random.default_rng(5), n_seeds, 200, N_INTERVALS, of_seeds, of_prompts)

    assert found(coverage(intervals_of(x_SPM))) >= 0.935


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_p_over_seeds_is_below_a_level_as_often_as_the_interval_leaves_0_out(n_seeds, found):
    x_SPM = crossed(np.random.default_rng(6), n_seeds, 200, 1000, 0.1, 1.0)
    drawn = reaches(x_SPM.mean(axis=0), Resampling(bootstraps=BOOTSTRAPS, seed=4))
    spreads = [SeedSpread.of(x_SP) for x_SP in np.moveaxis(x_SPM, 2, 0)]

    p_values = [reach.p_value(0.0, spread) for reach, spread in zip(drawn, spreads, strict=True)]
    intervals = intervals_of(x_SPM)
    excluded = (intervals[:, 0] > 0) | (intervals[:, 1] < 0)

    assert ((np.array(p_values) < 0.05) == excluded).all()
    assert found(rejected(p_values)) <= 0.065


# A common shift of every training seed: what another training would move all prompts by. -------------------------

N_SHIFTED = 8000


def shifted(rng, n_seeds, n, *, shift_sd=0.03, shape="normal", n_prompts=200, difference=0.0):
    """Differences of two arms [seeds, prompts, experiments]: shifts of seeds, prompts' own differences (sd 0.06) and
    noise of each cell (sd 0.11); with these p over prompts alone is misled as often as was reported."""
    size = (n_seeds, n_prompts, n)
    if shape == "binary":
        chance = rng.uniform(0.2, 0.8, (1, n_prompts, n))
        first, second = (
            rng.binomial(1, np.clip(chance + move, 0, 1)).astype(float)
            for move in (difference + shift_sd * rng.normal(size=(n_seeds, 1, n)), np.zeros((n_seeds, 1, n)))
        )
        return first - second
    of_prompts = rng.standard_t(3, (1, n_prompts, n)) / np.sqrt(3) if shape == "heavy" else None
    if of_prompts is None:
        of_prompts = rng.normal(size=(1, n_prompts, n))
    shifts = shift_sd * rng.normal(size=(n_seeds, 1, n))
    return difference + shifts + 0.06 * of_prompts + 0.11 * rng.normal(size=size)


def shares(n_seeds, *, over_seeds=True, n=N_SHIFTED, truth=0.0, **design):
    """Shares of experiments with p < 0.05 (the interval leaves 0 out) and with an interval that holds the truth, and
    the mean half-width."""
    parts = [
        intervals_of(
            shifted(np.random.default_rng((14, part)), n_seeds, 500, difference=truth, **design),
            over_seeds=over_seeds,
        )
        for part in range(n // 500)
    ]
    intervals = np.concatenate(parts)
    return 1.0 - coverage(intervals), coverage(intervals, truth), np.ptp(intervals, axis=1).mean() / 2


def binomial(share, n=N_SHIFTED):
    """Three standard errors of a simulated share."""
    return 3.0 * np.sqrt(share * (1.0 - share) / n)


@pytest.mark.parametrize(("n_seeds", "misled"), [(3, 0.51), (5, 0.46)])
def test_p_over_prompts_alone_takes_shifts_of_seeds_for_a_finding(n_seeds, misled, found):
    """Why the verdict answers over seeds where it can: the models differ, the ways of training do not."""
    alarms, _, _ = shares(n_seeds, over_seeds=False, n=4000)

    assert found(alarms) == pytest.approx(misled, abs=0.02 + binomial(misled, 4000))


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_false_alarms_and_coverage_with_shifts_of_seeds(n_seeds, found):
    alarms, _, _ = shares(n_seeds)
    _, covered, _ = shares(n_seeds, truth=0.05)

    assert 0.04 - binomial(0.04) <= found(alarms) <= 0.06 + binomial(0.06)
    assert 0.94 - binomial(0.94) <= found(covered) <= 0.96 + binomial(0.96)


@pytest.mark.parametrize("n_seeds", [2, 3, 5, 8])
@pytest.mark.parametrize("shape", ["normal", "heavy", "binary"])
@pytest.mark.parametrize("shift_sd", [0.0, 0.01, 0.03])
def test_nothing_is_inflated_over_seeds(n_seeds, shape, shift_sd, found):
    alarms, covered, _ = shares(n_seeds, n=2000, shift_sd=shift_sd, shape=shape)

    assert found(alarms) <= 0.05 + binomial(0.05, 2000)
    assert covered >= 0.95 - binomial(0.95, 2000)


@pytest.mark.parametrize("n_seeds", [3, 5, 8])
def test_what_it_costs_to_ask_over_seeds_that_do_not_differ(n_seeds, found):
    """The half-width over seeds against that over prompts alone, and the power to see what the latter sees in 80 %."""
    effect = 2.8 * np.sqrt(0.06**2 / 200 + 0.11**2 / (200 * n_seeds))
    power, _, half = shares(n_seeds, n=2000, shift_sd=0.0, truth=effect)
    alone, _, half_alone = shares(n_seeds, n=2000, shift_sd=0.0, truth=effect, over_seeds=False)

    assert 0.77 <= found(alone) <= 0.83
    assert found(power) < alone
    assert found(half / half_alone) < {3: 1.8, 5: 1.25, 8: 1.15}[n_seeds]


@pytest.mark.parametrize("n_prompts", [20, 100, 400])
def test_power_is_what_the_formula_says(n_prompts, found):
    effect = detectable_effect(n_prompts, 0.05, 0.8)
    x_PM = effect + np.random.default_rng(8).normal(size=(n_prompts, N_TESTS))

    p_values = [test.p_value for test in sign_flip_tests(x_PM, n_resamples=PATTERNS)]

    assert 0.78 <= found(rejected(p_values)) <= 0.82


def test_the_number_of_prompts_that_is_asked_for_is_enough(found):
    n_prompts = prompts_needed(0.25)
    x_PM = 0.25 + np.random.default_rng(9).normal(size=(n_prompts, N_TESTS))

    p_values = [test.p_value for test in sign_flip_tests(x_PM, n_resamples=PATTERNS)]

    assert 0.78 <= found(rejected(p_values)) <= 0.82


def test_false_alarms_of_the_margin_test_at_the_margin(found):
    rng = np.random.default_rng(10)
    b = rng.random((N_TESTS, 1, 150))
    a = b - 0.02 + rng.normal(0, 0.1, b.shape)

    p_values = [margin_test(a_SP, b_SP, 0.02).p_value for a_SP, b_SP in zip(a, b, strict=True)]

    assert 0.04 <= found(rejected(p_values)) <= 0.06


@pytest.mark.parametrize(("n_prompts", "margin"), [(10, 0.05), (20, 0.05), (50, 0.02), (100, 0.02), (164, 0.01)])
def test_false_alarms_of_the_margin_test_where_losses_are_rare(n_prompts, margin, found):
    """One answer a prompt, and a share of the prompts as large as the margin is lost: often none of them is seen."""
    rng = np.random.default_rng(14)
    b = np.ones((1, n_prompts))
    quick = Resampling(bootstraps=1000)

    p_values = [
        margin_test(b - (rng.random(b.shape) < margin), b, margin, worst=0.0, resampling=quick).p_value
        for _ in range(N_TESTS // 4)
    ]

    assert found(rejected(p_values)) <= 0.06


def test_coverage_of_the_gain_at_matched_quality(found):
    """A frontier of three temperatures on one line: an arm on it has a gain of 0."""
    rng = np.random.default_rng(11)
    qualities, diversities = np.array([0.9, 0.7, 0.5]), np.array([0.2, 0.4, 0.6])
    covered = 0
    for _ in range(400):
        noise = rng.normal(0, 0.15, (150, 8)) + rng.normal(0, 0.1, (150, 1))
        cells_PC = np.concatenate([[0.75, 0.35], qualities, diversities]) + noise
        draws_BC = bootstrap_means(cells_PC, n_resamples=BOOTSTRAPS, seed=12)
        gains = draws_BC[:, 1] - reachable(draws_BC[:, 0], draws_BC[:, 2:5], draws_BC[:, 5:])
        low, high = np.quantile(gains, [0.025, 0.975])
        covered += low <= 0.0 <= high
    # The hull is a maximum over noisy points, so the arm looks a little worse than it is.
    assert 0.92 <= found(covered / 400) <= 0.98


def test_sign_flip_p_values_are_uniform_under_the_null(found):
    x_PM = np.random.default_rng(13).normal(size=(50, N_TESTS))

    p_values = [test.p_value for test in sign_flip_tests(x_PM, n_resamples=PATTERNS)]

    assert found(stats.kstest(p_values, "uniform").pvalue) > 0.001
