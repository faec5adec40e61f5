"""Closed forms against enumeration of every subset, scale, and speed."""

import itertools
import time

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from polychromic.objective import OBJECTIVES, sampled_subsets, set_advantages, subset_mean

CLOSED_FORMS = [(entry.name, gate) for entry in OBJECTIVES.values() if entry.closed_form for gate in entry.gate_rules]


def score_of(objective, gate, members, arrays):
    """f(S) from its definition."""
    chosen = list(members)
    size = len(chosen)
    rewards, clusters = arrays["rewards"][chosen], arrays["clusters"][chosen]
    if objective == "reward":
        return rewards.mean() if size else 0.0
    if objective == "pass_at_k":
        return rewards.max() if size else 0.0
    if objective == "coverage":
        return sum(rewards[clusters == one].max() for one in set(clusters)) / max(size, 1)
    if objective == "polychromic":
        return rewards.mean() * len(set(clusters)) / size if size else 0.0
    gates = np.ones(len(arrays["gates"])) if gate == "none" else arrays["gates"]
    kept = [i for i in chosen if gates[i] == 1.0] if gate == "passing" else chosen
    pairs = [gates[i] * gates[j] * arrays["distances"][i, j] for i, j in itertools.combinations(kept, 2)]
    return float(np.mean(pairs)) if pairs else 0.0


def by_enumeration(objective, gate, arrays, set_size):
    """ū and, for each member, the means over the sets with it, without it, and with it taken out."""
    n = len(arrays["rewards"])
    sets = list(itertools.combinations(range(n), set_size))
    scores = np.array([score_of(objective, gate, one, arrays) for one in sets])
    member = np.array([[i in one for i in range(n)] for one in sets])
    with_N = np.array([scores[member[:, i]].mean() for i in range(n)])
    without_N = np.array([scores[~member[:, i]].mean() if set_size < n else np.nan for i in range(n)])
    less_N = np.array(
        [np.mean([score_of(objective, gate, set(one) - {i}, arrays) for one in sets if i in one]) for i in range(n)]
    )
    return scores.mean(), with_N, without_N, less_N


@st.composite
def groups(draw):
    """Rewards real, binary or with ties; clusters from one for all to one each."""
    n = draw(st.integers(2, 10))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    distances = rng.random((n, n))
    kinds = st.sampled_from([rng.random(n), rng.integers(0, 2, n) * 1.0, rng.integers(0, 4, n) / 3])
    rewards = draw(kinds)
    return {
        "rewards": rewards,
        "clusters": rng.integers(0, draw(st.integers(1, n)), n),
        "distances": (distances + distances.T) / 2 * (1 - np.eye(n)),
        "gates": rng.random(n),
    }


@pytest.mark.parametrize(("objective", "gate"), CLOSED_FORMS)
@settings(max_examples=60, deadline=None)
@given(arrays=groups(), data=st.data())
def test_closed_forms_agree_with_enumeration_of_all_subsets(objective, gate, arrays, data):
    if gate == "passing":
        arrays = {**arrays, "gates": (arrays["gates"] > 0.4).astype(float)}
    n = len(arrays["rewards"])
    set_size = data.draw(st.integers(OBJECTIVES[objective].smallest_set, n))
    mean, with_N, without_N, less_N = by_enumeration(objective, gate, arrays, set_size)
    share = set_size / n

    def advantages(baseline):
        return set_advantages(objective, set_size, gate=gate, baseline=baseline, **arrays)

    assert subset_mean(objective, set_size, gate=gate, **arrays) == pytest.approx(mean, abs=1e-12)
    np.testing.assert_allclose(advantages("none"), share * with_N, atol=1e-12)
    np.testing.assert_allclose(advantages("leave_one_out_minus_one"), share * (with_N - less_N), atol=1e-12)
    if set_size < n:
        np.testing.assert_allclose(advantages("leave_one_out"), share * (with_N - without_N), atol=1e-12)
    size = data.draw(st.integers(1, n - 1))
    other_N = by_enumeration(objective, gate, arrays, size)[2]
    fitted = set_advantages(
        objective, set_size, gate=gate, baseline="fitted", coefficients={size: -0.7, 0: 0.2}, **arrays
    )
    np.testing.assert_allclose(fitted, share * (with_N + 0.7 * other_N - 0.2), atol=1e-12)


# An ungated distance has nothing that could be missing.
@pytest.mark.parametrize(("objective", "gate"), [one for one in CLOSED_FORMS if one[1] != "none"])
@settings(max_examples=15, deadline=None)
@given(arrays=groups(), data=st.data())
def test_missing_values_are_as_if_never_drawn(objective, gate, arrays, data):
    """A nan reward or gate, in a batch beside a whole group, in numpy and in torch."""
    if gate == "passing":
        arrays = {**arrays, "gates": (arrays["gates"] > 0.4).astype(float)}
    n, smallest = len(arrays["rewards"]), OBJECTIVES[objective].smallest_set
    assume(n > smallest)
    missing = data.draw(st.integers(0, n - 1))
    kept = np.arange(n) != missing
    rest = {name: values[kept] for name, values in arrays.items()}
    rest["distances"] = arrays["distances"][np.ix_(kept, kept)]
    batch = {name: np.stack([values, values]) for name, values in arrays.items()}
    for name in ("rewards", "gates"):
        batch[name][0, missing] = np.nan
    arguments = {"gate": gate, "baseline": data.draw(st.sampled_from(["none", "leave_one_out_minus_one"]))}
    set_size = data.draw(st.integers(smallest, n - 1))
    found = set_advantages(objective, set_size, **arguments, **batch)
    alone = set_advantages(objective, set_size, **arguments, **rest)
    np.testing.assert_allclose(found[0][kept], alone, atol=1e-14)
    assert found[0][missing] == 0.0
    np.testing.assert_array_equal(found[1], set_advantages(objective, set_size, **arguments, **arrays))
    tensors = {name: torch.as_tensor(values) for name, values in batch.items()}
    np.testing.assert_array_equal(set_advantages(objective, set_size, **arguments, **tensors).numpy(), found)
    means = subset_mean(objective, set_size, gate=gate, **batch)
    assert means[0] == pytest.approx(subset_mean(objective, set_size, gate=gate, **rest), abs=1e-14)


def large_group(n=1024, clusters=300):
    rng = np.random.default_rng(0)
    distances = rng.random((n, n))
    return {
        "rewards": rng.random(n),
        "clusters": rng.permutation(np.arange(n) % clusters),
        "distances": (distances + distances.T) / 2,
        "gates": rng.integers(0, 2, n).astype(float),
    }


SPREAD_SIZES = np.unique(np.geomspace(1, 1023, 16).round().astype(int)).tolist()
"""About as many set sizes as the fitted baseline mixes in a group of 1024."""


@pytest.mark.parametrize("baseline", ["none", "leave_one_out", "leave_one_out_minus_one", "fitted"])
@pytest.mark.parametrize(("objective", "gate"), CLOSED_FORMS)
def test_a_group_of_1024_is_finite_and_takes_under_5_ms(objective, gate, baseline):
    arrays = large_group()
    options = {"coefficients": dict.fromkeys(SPREAD_SIZES, 0.05)} if baseline == "fitted" else {}

    def run(set_size):
        return set_advantages(objective, set_size, gate=gate, baseline=baseline, **arrays, **options)

    for set_size in (2, 16, 512, 1023):
        advantages = run(set_size)
        assert np.isfinite(advantages).all()
        assert advantages.any()
    # Processor time on one core, and the best of many: neither a busy machine nor waiting threads must fail this test.
    best = np.inf
    with threadpool_limits(limits=1):
        for _ in range(30):
            started = time.process_time()
            run(16)
            best = min(best, time.process_time() - started)
    assert best < 0.005


def test_set_size_one_is_the_reward_whatever_the_objective():
    arrays = {"rewards": [0.2, 0.7, 0.1], "clusters": [0, 1, 1]}
    expected = set_advantages("reward", 1, **arrays)
    for objective in ("pass_at_k", "coverage", "polychromic"):
        np.testing.assert_allclose(set_advantages(objective, 1, **arrays), expected, atol=1e-15)


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if not OBJECTIVES[name].closed_form])
def test_sampled_subsets_agree_with_all_of_them(objective):
    """21 choose 4 = 5985 subsets are sampled, 20 choose 4 = 4845 are not: dropping one generation compares them."""
    rng = np.random.default_rng(3)
    points = rng.random((21, 2))
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1)) / np.sqrt(2)
    sampled = subset_mean(objective, 4, distances=distances, generator=np.random.default_rng(0))
    gates = np.ones((21, 21)) + np.diag(np.full(21, np.nan))
    exact = subset_mean(objective, 4, distances=np.broadcast_to(distances, (21, 21, 21)), gates=gates).mean()
    assert sampled == pytest.approx(exact, abs=0.01)  # the mean over the 21 groups of 20 is the mean over all sets
    advantages = set_advantages(objective, 4, distances=distances, generator=np.random.default_rng(0))
    exact = exact - subset_mean(objective, 4, distances=np.broadcast_to(distances, (21, 21, 21)), gates=gates)
    assert np.corrcoef(advantages, exact)[0, 1] > 0.95


def test_too_many_subsets_without_a_generator_say_what_to_pass():
    with pytest.raises(ValueError, match=r"10626 subsets of 4 out of 24.*generator="):
        set_advantages("vendi", 4, distances=np.zeros((24, 24)))
    assert [sampled_subsets("vendi", 4, n) for n in (20, 21, 24)] == [0, 2048, 2048]
    assert sampled_subsets("coverage", 4, 1024) == 0


@pytest.mark.parametrize(
    ("objective", "rewards", "clusters"),
    [
        ("coverage", [1.0] * 7, list(range(7))),
        ("coverage", [0.0] * 7, list(range(7))),
        ("polychromic", [0.3] * 7, list(range(7))),
        ("pass_at_k", [0.1] * 7, [0] * 7),
        ("reward", [0.1] * 7, [0] * 7),
    ],
)
def test_equal_credit_gives_exact_zeros(objective, rewards, clusters):
    """Rounding must not look like signal: such groups are counted, and skipped in the backward pass."""
    for set_size in range(1, 7):
        assert not set_advantages(objective, set_size, rewards=rewards, clusters=clusters).any()
