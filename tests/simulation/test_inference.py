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
from polychromic.evaluation.equivalence import margin_test
from polychromic.evaluation.frontier import reachable
from polychromic.evaluation.intervals import interval_over_seeds
from polychromic.evaluation.resampling import bootstrap_means, sign_flip_tests, studentised_means
from polychromic.evaluation.seeds import p_over_seeds

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
        pytest.skip(
            "with 30 prompts and strong skew the test is not exact; docs/evaluation.md gives the figure"
        )
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


def intervals_of(x_SPM):
    drawn = studentised_means(x_SPM.mean(axis=0), n_resamples=BOOTSTRAPS, seed=4)
    columns = zip(np.moveaxis(x_SPM, 2, 0), drawn.means_BM.T, drawn.t_BM.T, strict=True)
    return np.array([interval_over_seeds(x_SP, means_B, t_B, 0.95) for x_SP, means_B, t_B in columns])


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


@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize(("of_seeds", "of_prompts"), SPREADS)
def test_coverage_over_prompts_and_seeds(n_seeds, of_seeds, of_prompts, found):
    x_SPM = crossed(np.random.default_rng(5), n_seeds, 200, N_INTERVALS, of_seeds, of_prompts)

    assert 0.93 <= found(coverage(intervals_of(x_SPM))) <= 0.975


@pytest.mark.parametrize(("of_seeds", "of_prompts"), SPREADS)
def test_false_alarms_over_prompts_and_seeds(of_seeds, of_prompts, found):
    x_SPM = crossed(np.random.default_rng(6), 3, 200, N_INTERVALS, of_seeds, of_prompts)

    p_values = [p_over_seeds(x_SPM[:, :, m]) for m in range(N_INTERVALS)]

    assert 0.025 <= found(rejected(p_values)) <= 0.065


def test_a_test_over_prompts_alone_takes_seeds_for_a_finding(found):
    """Why there are two p-values: where seeds differ, the one over prompts finds what another training would not."""
    x_SPM = crossed(np.random.default_rng(7), 3, 200, 1000, 0.1, 1.0)

    p_values = [test.p_value for test in sign_flip_tests(x_SPM.mean(axis=0), n_resamples=PATTERNS)]

    assert found(rejected(p_values)) > 0.09


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
