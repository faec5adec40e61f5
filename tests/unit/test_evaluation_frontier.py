"""Gain at matched quality, and the curves' simultaneous bands."""

import numpy as np
import pytest

from polychromic.evaluation import PromptTable, Resampling, SampledTable
from polychromic.evaluation.settings import EvaluationSettings
from polychromic.evaluation.statistics.frontier import matched_gains, reachable, simultaneous_curve
from polychromic.evaluation.tables import Study

QUICK = Resampling(bootstraps=1000, sign_patterns=1000)
PROMPTS = tuple(f"p{index:02d}" for index in range(40))


def table(points, seed=0, metric="distinct_2", spread=0.02):
    """One arm and seed: label → (quality, diversity), with the same noise of prompts in every arm."""
    rng = np.random.default_rng(100 + seed)
    noise = rng.normal(0, spread, (2, len(PROMPTS)))
    noise -= noise.mean(axis=1, keepdims=True)
    sampled = {
        label: SampledTable({"reward": quality + noise[0], metric: diversity + noise[1]})
        for label, (quality, diversity) in points.items()
    }
    return PromptTable(PROMPTS, sampled)


BASELINE = {"T=0.7": (0.9, 0.2), "T=1": (0.8, 0.4), "T=1.3": (0.5, 0.7)}


def gains(points, baseline=BASELINE, metric="distinct_2"):
    study = Study.of({("base", 0): table(baseline, metric=metric), ("arm", 0): table(points, metric=metric)})
    return matched_gains(study, "arm", "base", metric, "reward", QUICK)


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        (0.85, 0.3),  # half way between the first two points
        (0.65, 0.55),  # half way between the last two
        (0.8, 0.4),  # at a point
        (0.95, 0.2),  # above every point: the best one stands in
        (0.3, 0.7),  # below every point: all are good enough
    ],
)
def test_the_baseline_reaches_its_concave_hull(quality, expected):
    qualities, diversities = np.array(list(BASELINE.values())).T

    assert reachable(np.array(quality), qualities, diversities) == pytest.approx(expected)


def test_a_point_below_the_hull_is_no_obstacle():
    """A temperature that is worse than a mixture of its neighbours does not lower what the baseline reaches."""
    qualities, diversities = np.array([0.9, 0.7, 0.5]), np.array([0.2, 0.21, 0.8])

    assert reachable(np.array(0.7), qualities, diversities) == pytest.approx(0.5)


def test_a_point_that_is_better_in_both_counts_at_every_lower_quality():
    assert reachable(np.array(0.5), np.array([0.4, 0.9]), np.array([0.3, 0.6])) == pytest.approx(0.6)


def test_many_draws_are_the_same_as_one_after_the_other():
    rng = np.random.default_rng(0)
    at, qualities, diversities = rng.random(50), rng.random((50, 4)), rng.random((50, 4))

    together = reachable(at, qualities, diversities)

    alone = [reachable(q, x, y) for q, x, y in zip(at, qualities, diversities, strict=True)]
    assert together == pytest.approx(alone)
    # No chance mixture of two points that is good enough has more diversity than what is reachable.
    for _ in range(200):
        i, j, share = *rng.integers(0, 4, 2), rng.random()
        quality = share * qualities[:, i] + (1 - share) * qualities[:, j]
        mixture = share * diversities[:, i] + (1 - share) * diversities[:, j]
        assert (together + 1e-9 >= mixture)[quality >= at].all()


def test_gain_at_the_same_quality():
    (gain,) = gains({"T=1": (0.65, 0.75)})

    assert (gain.position, gain.reached_by) == ("within", None)
    assert gain.baseline_diversity == pytest.approx(0.55)
    assert gain.gain == pytest.approx(0.2)
    assert 0.15 < gain.low < gain.gain < gain.high < 0.25


def test_an_arm_that_a_higher_temperature_reaches_is_told_so():
    (gain,) = gains({"T=1": (0.5, 0.6)})

    assert gain.reached_by == "T=1.3"
    assert gain.gain == pytest.approx(-0.1)


def test_where_lower_is_more_diverse_the_gain_is_still_positive():
    baseline = {label: (quality, 1 - diversity) for label, (quality, diversity) in BASELINE.items()}

    (gain,) = gains({"T=1": (0.65, 0.25)}, baseline, metric="self_bleu")

    assert gain.gain == pytest.approx(0.2)
    assert gain.diversity == pytest.approx(0.25)
    assert gain.baseline_diversity == pytest.approx(0.45)


@pytest.mark.parametrize(("quality", "position"), [(0.95, "above"), (0.4, "below"), (0.5, "within")])
def test_quality_outside_the_baselines_range_is_said(quality, position):
    (gain,) = gains({"T=1": (quality, 0.9)})

    assert gain.position == position


def test_one_temperature_is_no_frontier():
    assert gains({"T=1": (0.8, 0.5)}, {"T=1": (0.8, 0.4)}) == []
    assert gains({"T=1": (0.8, 0.5)}, metric="distinct_3") != []


def test_a_sampling_setting_without_a_prompt_in_common_is_left_out():
    """Bug: Self-BLEU of short answers may be defined on other prompts in each arm; the comparison stopped then."""
    arm = table({"T=1": (0.65, 0.75), "T=1.3": (0.5, 0.8)})
    arm.sampled["T=1"].values["distinct_2"][:20] = np.nan
    base = table(BASELINE)
    base.sampled["T=0.7"].values["distinct_2"][20:] = np.nan
    study = Study.of({("base", 0): base, ("arm", 0): arm})

    (gain,) = matched_gains(study, "arm", "base", "distinct_2", "reward", QUICK)

    assert gain.sampling == "T=1.3"


def test_the_gain_of_one_prompt_has_no_interval():
    """It was "+0.03, 95 % interval +0.03 to +0.03"."""
    points = {"base": {"T=0.7": (0.9, 0.2), "T=1": (0.5, 0.4)}, "arm": {"T=1": (0.9, 0.23)}}
    study = Study.of(
        {
            (arm, 0): PromptTable(
                PROMPTS[:1],
                {
                    label: SampledTable({"reward": np.array([quality]), "distinct_2": np.array([diversity])})
                    for label, (quality, diversity) in by_label.items()
                },
            )
            for arm, by_label in points.items()
        }
    )
    [found] = matched_gains(study, "arm", "base", "distinct_2", "reward", QUICK)

    assert found.gain == pytest.approx(0.03)
    assert np.isnan([found.low, found.high]).all()


def test_the_spread_of_seeds_widens_the_gain():
    def study_of(shifts):
        tables = {("base", seed): table(BASELINE, seed) for seed in range(3)}
        tables |= {("arm", seed): table({"T=1": (0.65, 0.75 + shift)}, seed) for seed, shift in enumerate(shifts)}
        return Study.of(tables)

    calm, restless = (
        matched_gains(study_of(shifts), "arm", "base", "distinct_2", "reward", QUICK)[0]
        for shifts in ((0.0, 0.0, 0.0), (0.2, 0.0, -0.2))
    )

    assert restless.gain == pytest.approx(calm.gain)
    assert calm.low > 0 > restless.low


def test_the_gain_is_of_the_seeds_that_are_paired():
    """Past bug: seeds were paired by their place, and those without a partner, which are left out, counted in it."""

    def study_of(seeds):
        shifts = {0: 0.0, 1: 0.1, 2: -0.1, 3: 0.5}
        base = {
            ("base", seed): table({k: (q, d + shifts[seed]) for k, (q, d) in BASELINE.items()}, seed)
            for seed in range(3)
        }
        arms = {("arm", seed): table({"T=1": (0.8, 0.5 + shifts[seed])}, seed) for seed in seeds}
        return Study.of(base | arms)

    in_order, other_order, one_more = (
        matched_gains(study_of(seeds), "arm", "base", "distinct_2", "reward", QUICK)[0]
        for seeds in ((0, 1, 2), (2, 0, 1), (0, 1, 2, 3))
    )
    assert in_order.gain == pytest.approx(0.1)
    assert in_order.high - in_order.low < 0.05
    assert (other_order.low, other_order.high) == pytest.approx((in_order.low, in_order.high))
    assert one_more == in_order


def test_simultaneous_band_covers_the_curve_and_is_wider_than_a_single_interval():
    x_PK = np.random.default_rng(0).normal(0.5, 0.2, (60, 12))

    curve = simultaneous_curve(x_PK, QUICK, 1.0)

    assert curve.k == tuple(range(1, 13))
    half_widths = (np.array(curve.high) - np.array(curve.low)) / 2
    assert (half_widths > 1.96 * x_PK.std(axis=0, ddof=1) / np.sqrt(60) * 1.1).all()
    assert curve.mean == pytest.approx(x_PK.mean(axis=0))


@pytest.mark.parametrize("n_prompts", [50, 200])
def test_the_whole_curve_lies_in_its_band_as_often_as_promised(n_prompts):
    """100 curves: fewer than 88 inside would have a chance of 0.2 % at 95 %."""
    random = np.random.default_rng(4)
    k = np.arange(1, 17)
    truth = 1.0 - np.array([np.prod((0.6 + np.arange(i)) / (1.0 + np.arange(i))) for i in k])  # E (1 − p)^k
    held = 0
    for draw in range(100):
        p_P1 = random.beta(0.4, 0.6, (n_prompts, 1))
        curve = simultaneous_curve(1.0 - (1.0 - p_P1) ** k, Resampling(bootstraps=1000, seed=draw), 1.0)
        held += all(low <= true <= high for low, true, high in zip(curve.low, truth, curve.high, strict=True))
    assert held >= 88


def test_bands_of_one_prompt_or_of_prompts_without_spread_stay_finite():
    for x_PK in (np.array([[0.2, 0.4]]), np.array([[0.2, 0.4], [0.2, 0.5], [0.2, 0.5]])):
        curve = simultaneous_curve(x_PK, QUICK)
        assert np.isfinite([curve.low, curve.high]).all()
        assert [curve.low[0], curve.high[0]] == pytest.approx([0.2, 0.2])


def test_a_curve_ends_where_too_many_prompts_have_no_value():
    x_PK = np.ones((40, 5))
    x_PK[0, 2:] = np.nan
    x_PK[:4, 4] = np.nan

    curve = simultaneous_curve(x_PK, QUICK)

    assert (curve.k, curve.n_prompts) == ((1, 2, 3, 4), 39)
    assert curve.low == curve.mean == curve.high
    assert simultaneous_curve(np.full((3, 2), np.nan), QUICK) is None


def test_nucleus_and_min_p_are_ways_of_sampling_like_any_temperature():
    baseline = {"T=1": (0.8, 0.4), "T=1,top_p=0.9": (0.9, 0.3), "T=1.5,min_p=0.1": (0.7, 0.6)}

    (gain,) = gains({"T=1": (0.7, 0.55)}, baseline)

    assert gain.reached_by == "T=1.5,min_p=0.1"
    assert gain.gain == pytest.approx(-0.05)


def test_ways_of_sampling_are_asked_for_in_one_section():
    settings = EvaluationSettings.model_validate(
        {"sampling": [{"temperature": 0.7}, {"top_p": 0.9}, {"temperature": 1.5, "min_p": 0.1}]}
    )

    assert [way.label for way in settings.sampling_parameters()] == [
        "T=0.7",
        "T=1,top_p=0.9",
        "T=1.5,min_p=0.1",
    ]
