"""The places of the optima, against literal values and by direct formulas."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from polychromic.objective.audit import audit


@pytest.mark.parametrize(("wrong", "p_correct"), [(1, 0.794), (3, 0.718), (6, 0.693)])
def test_polychromic_prefers_to_be_wrong(wrong, p_correct):
    found = audit("polychromic", 4, wrong)
    assert found.p_correct == pytest.approx(p_correct, abs=5e-4)
    assert found.value > found.best_correct_value == pytest.approx(0.25)
    assert "being wrong pays" in found.warning
    assert f"{p_correct:.1%}"[:2] in found.warning


def test_polychromic_optimum_by_hand_for_two_outcomes():
    """K = 3: three right score 1/3, two right 2/3 · 2/3, one right 1/3 · 2/3."""
    best = minimize_scalar(
        lambda q: -(q**3 / 3 + 3 * q**2 * (1 - q) * 4 / 9 + 3 * q * (1 - q) ** 2 * 2 / 9),
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-9},
    ).x
    assert 0.5 < best < 0.99
    assert audit("polychromic", 3, 1).p_correct == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("correct", [1, 3, 5])
@pytest.mark.parametrize("wrong", [0, 1, 6])
def test_coverage_is_right_and_spreads_evenly(correct, wrong):
    found = audit("coverage", 4, wrong, correct_modes=correct)
    assert found.p_correct == pytest.approx(1.0, abs=1e-6)
    assert found.effective_modes == pytest.approx(correct, abs=1e-3)
    np.testing.assert_allclose(found.probabilities[:correct], 1 / correct, atol=1e-3)
    assert found.warning is None


@pytest.mark.parametrize("objective", ["reward", "pass_at_k"])
def test_scores_without_diversity_do_not_hold_the_spread(objective):
    found = audit(objective, 4, 2, correct_modes=3)
    assert found.p_correct == pytest.approx(1.0, abs=1e-4)
    assert found.effective_modes == pytest.approx(1.0, abs=0.01)
    assert "spreading does not pay" in found.warning


def test_ungated_distance_ignores_correctness_unless_the_reward_outweighs_it():
    alone = audit("distance", 4, 3, correct_modes=3, gate="none")
    assert alone.p_correct == pytest.approx(0.5, abs=1e-4)
    mixed = audit("distance", 4, 3, correct_modes=3, gate="none", diversity_weight=0.3)
    assert mixed.p_correct == pytest.approx(1.0, abs=1e-4)
    assert mixed.warning is None


def test_a_score_of_zero_everywhere_costs_nothing_to_be_wrong_at():
    found = audit("distance", 4, 3)
    assert found.p_correct == 0.0
    assert np.isnan(found.effective_modes)
    assert "being wrong costs nothing" in found.warning


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"set_size": 0, "wrong_clusters": 1}, "set_size is 0"),
        ({"set_size": 2, "wrong_clusters": -1}, "wrong_clusters is -1"),
        ({"set_size": 2, "wrong_clusters": 1, "correct_modes": 0}, "correct_modes is 0"),
        ({"set_size": 2, "wrong_clusters": 1, "diversity_weight": -1.0}, "diversity_weight is -1.0"),
        ({"set_size": 12, "wrong_clusters": 30}, "kinds of set, more than 200000"),
    ],
)
def test_bad_values_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        audit("coverage", **arguments)
