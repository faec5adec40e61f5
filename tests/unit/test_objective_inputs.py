"""The inputs that `set_advantages` accepts, what it returns, and what it says of input it cannot use."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from polychromic.objective import baseline_equations, set_advantages, subset_mean

REWARDS = [1.0, 0.0, 1.0, 1.0]
CLUSTERS = [0, 1, 2, 2]


def test_importing_the_objective_does_not_import_torch():
    code = "import sys, polychromic.objective; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_batch_is_its_groups():
    rng = np.random.default_rng(0)
    rewards, clusters = rng.random((3, 6)), rng.integers(0, 3, (3, 6))
    batch = set_advantages("polychromic", 3, rewards=rewards, clusters=clusters)
    assert batch.shape == (3, 6)
    assert batch.dtype == np.float64
    for p in range(3):
        alone = set_advantages("polychromic", 3, rewards=rewards[p], clusters=clusters[p])
        np.testing.assert_array_equal(batch[p], alone)
    assert subset_mean("polychromic", 3, rewards=rewards, clusters=clusters).shape == (3,)
    assert np.ndim(subset_mean("polychromic", 3, rewards=rewards[0], clusters=clusters[0])) == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_torch_in_torch_out(given, expected):
    rewards = torch.tensor(REWARDS, dtype=given, requires_grad=True)
    found = set_advantages("coverage", 2, rewards=rewards, clusters=torch.tensor(CLUSTERS))
    assert isinstance(found, torch.Tensor)
    assert found.dtype == expected
    assert not found.requires_grad
    reference = set_advantages("coverage", 2, rewards=REWARDS, clusters=CLUSTERS)
    np.testing.assert_allclose(found.numpy(), reference, rtol=1e-6)


def test_labels_may_be_of_any_hashable_kind_and_booleans_are_rewards():
    found = set_advantages("coverage", 2, rewards=[True, False, True, True], clusters=["a", "w", "b", "b"])
    np.testing.assert_array_equal(found, set_advantages("coverage", 2, rewards=REWARDS, clusters=CLUSTERS))


@pytest.mark.parametrize("baseline", ["none", "leave_one_out", "leave_one_out_minus_one", "fitted"])
@pytest.mark.parametrize("objective", ["reward", "pass_at_k", "coverage", "polychromic"])
def test_missing_rewards_drop_out(objective, baseline):
    rewards = [1.0, np.nan, 0.0, 1.0, None, 0.5]
    clusters = ["a", "gone", "b", "b", "gone too", "c"]
    present = [0, 2, 3, 5]
    found = set_advantages(objective, 2, rewards=rewards, clusters=clusters, baseline=baseline)
    rest = set_advantages(
        objective,
        2,
        rewards=[rewards[i] for i in present],
        clusters=[clusters[i] for i in present],
        baseline=baseline,
    )
    np.testing.assert_array_equal(found[present], rest)
    np.testing.assert_array_equal(found[[1, 4]], [0.0, 0.0])


def test_a_missing_generation_needs_no_label():
    rewards, clusters = [1.0, 0.0, np.nan, 1.0], [0.0, 1.0, np.nan, 2.0]
    found = set_advantages("coverage", 2, rewards=rewards, clusters=clusters)
    rest = set_advantages("coverage", 2, rewards=[1.0, 0.0, 1.0], clusters=[0, 1, 2])
    np.testing.assert_array_equal(found[[0, 1, 3]], rest)


def test_a_generation_without_a_label_is_left_out():
    whole = set_advantages("coverage", 2, rewards=[1, 1, 0, 1], clusters=["a", "a", "b", "c"])
    given = set_advantages("coverage", 2, rewards=[1, 1, 1, 0, 1], clusters=["a", "a", None, "b", "c"])
    np.testing.assert_allclose(given, np.insert(whole, 2, 0.0))


def test_missing_gates_drop_out_of_distances():
    rng = np.random.default_rng(1)
    distances = rng.random((5, 5))
    distances = (distances + distances.T) / 2
    gates = np.array([0.3, np.nan, 1.0, 0.2, 0.8])
    kept = [0, 2, 3, 4]
    found = set_advantages("distance", 2, distances=distances, gates=gates)
    rest = set_advantages("distance", 2, distances=distances[np.ix_(kept, kept)], gates=gates[kept])
    np.testing.assert_array_equal(found[kept], rest)
    assert found[1] == 0.0


def test_a_group_that_is_too_small_has_no_advantages_and_no_mean():
    rewards = np.array([[1.0, np.nan, np.nan, np.nan], [1.0, 0.0, 1.0, 0.0]])
    advantages = set_advantages("pass_at_k", 2, rewards=rewards)
    assert not advantages[0].any()
    assert advantages[1].all()
    means = subset_mean("pass_at_k", 2, rewards=rewards)
    assert np.isnan(means[0])
    assert means[1] == pytest.approx(5 / 6)


def test_arrays_that_the_objective_does_not_read_are_ignored():
    distances = 1.0 - np.eye(4)
    rewards_of_another_length = [1.0, 2.0]
    found = set_advantages("distance", 2, distances=distances, rewards=rewards_of_another_length)
    np.testing.assert_array_equal(found, np.zeros(4))
    np.testing.assert_array_equal(
        set_advantages("reward", 1, rewards=REWARDS, clusters=[1], distances="nothing"),
        set_advantages("reward", 1, rewards=REWARDS),
    )


ASYMMETRIC = np.array([[0.0, 0.5, 0.1], [0.4, 0.0, 0.1], [0.1, 0.1, 0.0]])


@pytest.mark.parametrize(
    ("objective", "set_size", "arguments", "message"),
    [
        ("novelty", 2, {"rewards": REWARDS}, r"objective is 'novelty', expected one of reward, pass_at_k"),
        ("reward", 5, {"rewards": REWARDS}, r"set_size is 5, expected 1 ≤ set_size ≤ 4.*draw more"),
        ("reward", 0, {"rewards": REWARDS}, r"set_size is 0, expected 1"),
        ("reward", 1.5, {"rewards": REWARDS}, r"set_size is 1.5, expected a whole number"),
        ("reward", True, {"rewards": REWARDS}, r"set_size is True"),
        ("distance", 1, {"distances": np.zeros((3, 3))}, r"set_size is 1, expected 2"),
        ("pass_at_k", 4, {"rewards": REWARDS}, r"'leave_one_out' needs more generations.*minus_one"),
        (
            "coverage",
            2,
            {"rewards": [2.0, 0, 1], "clusters": [0, 1, 2]},
            r"rewards has 2 at .*\[0, 1\].*rescale",
        ),
        ("polychromic", 2, {"rewards": [-1.0, 0, 1], "clusters": [0, 1, 2]}, r"rewards has -1"),
        ("reward", 1, {"rewards": [np.inf, 0, 1]}, r"rewards has inf at \(0, 0\), expected finite"),
        (
            "coverage",
            2,
            {"rewards": REWARDS, "clusters": [0, 1]},
            r"clusters has shape \(2,\).*4 generations",
        ),
        ("coverage", 2, {"rewards": REWARDS}, r"clusters is None.*pass clusters="),
        (
            "coverage",
            2,
            {"rewards": REWARDS, "clusters": [[0, 1], [2]]},
            r"clusters: expected an array of labels",
        ),
        ("coverage", 2, {"rewards": REWARDS, "clusters": [0, 1, np.nan, 2]}, r"clusters has nan at \(0, 2\)"),
        ("reward", 1, {}, r"rewards is None"),
        ("reward", 1, {"rewards": [[1.0], [1.0, 2.0]]}, r"rewards: expected an array of numbers"),
        ("reward", 1, {"rewards": 1.0}, r"rewards has shape \(\), expected \[N\] or \[P, N\]"),
        ("reward", 1, {"rewards": []}, r"rewards has shape \(0,\)"),
        ("distance", 2, {"distances": ASYMMETRIC}, r"not symmetric: \[0, 1\] is 0.5 and \[1, 0\] is 0.4"),
        ("distance", 2, {"distances": np.full((3, 3), 1.5)}, r"distances has 1.5 at .*rescale"),
        ("distance", 2, {"distances": np.full((3, 3), np.nan)}, r"distances has nan"),
        ("distance", 2, {"distances": np.zeros((3, 2))}, r"distances has shape \(3, 2\)"),
        ("distance", 2, {"distances": np.zeros((3, 3)), "gates": [1, 1]}, r"gates has shape \(2,\)"),
        ("distance", 2, {"distances": np.zeros((3, 3)), "gates": [1, 1, 3]}, r"gates has 3"),
        ("distance", 2, {"distances": np.zeros((3, 3)), "gate": "passing"}, r"gates is None.*gate='passing'"),
        (
            "distance",
            2,
            {"distances": np.zeros((3, 3)), "gates": [1, 0.5, 0], "gate": "passing"},
            r"gates has 0.5.*0 or 1",
        ),
        ("distance", 2, {"distances": np.zeros((3, 3)), "gate": "soft"}, r"gate is 'soft', expected one of"),
        ("reward", 1, {"rewards": REWARDS, "baseline": "mean"}, r"baseline is 'mean', expected one of none"),
        ("reward", 1, {"rewards": REWARDS, "baseline": "fitted", "coefficients": {4: 1.0}}, r"set size 4"),
        (
            "reward",
            1,
            {"rewards": REWARDS, "baseline": "fitted", "coefficients": {1.5: 1.0}},
            r"set size 1.5",
        ),
        (
            "reward",
            1,
            {"rewards": REWARDS, "baseline": "fitted", "coefficients": [1.0]},
            r"\{set size: coefficient\}",
        ),
        ("reward", 1, {"rewards": REWARDS, "coefficients": {1: 1.0}}, r"but baseline is 'leave_one_out'"),
        (
            "reward",
            1,
            {"rewards": REWARDS, "baseline": "fitted", "coefficients": {1: [1.0, 2.0]}},
            r"coefficients\[1\] is .* one for each of 1 groups",
        ),
    ],
)
def test_bad_input_names_the_argument_its_value_and_the_mend(objective, set_size, arguments, message):
    with pytest.raises(ValueError, match=message):
        set_advantages(objective, set_size, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score_gram": np.eye(3)}, r"score_gram has shape \(1, 3, 3\).*\(1, 4, 4\)"),
        ({"set_sizes": [1]}, r"set_sizes is \(1,\), expected sizes from 0 to 3 that include 2"),
        ({"set_sizes": [2, 4]}, r"set_sizes is \(2, 4\)"),
    ],
)
def test_bad_equations_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        baseline_equations("pass_at_k", 2, rewards=REWARDS, **arguments)


def test_nearly_symmetric_distances_pass():
    """Computed in float32, d and its transpose differ by rounding."""
    distances = np.zeros((3, 3)) + 1e-8 * np.arange(9).reshape(3, 3)
    assert np.isfinite(set_advantages("distance", 2, distances=distances)).all()
