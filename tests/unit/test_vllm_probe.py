"""The probe's statistics: which policy an engine's log-probabilities fit, and when nothing can be told."""

import math

import numpy as np
import pytest

from polychromic.sampling.vllm.probe import BASE, TRAINED, compare_policies


def policies(seed=0, n=200, apart=0.1):
    """[M] of a base and of a trained policy that differs from it."""
    rng = np.random.default_rng(seed)
    base = -rng.exponential(1.0, n)
    return base, base + apart * rng.standard_normal(n), rng


def test_the_probe_names_the_policy_whose_log_probabilities_fit():
    base, trained, rng = policies()
    noise = 1e-3 * rng.standard_normal(len(base))
    right = compare_policies(trained + noise, trained, {BASE: base}, name=TRAINED)
    assert right.nearest == TRAINED
    assert right.share == pytest.approx(1.0, abs=0.01)
    assert right.mismatch == pytest.approx(np.abs(noise).mean())
    assert right.fault(0.002) == ""
    wrong = compare_policies(base + noise, trained, {BASE: base}, name=TRAINED)
    assert wrong.nearest == BASE
    assert wrong.share == pytest.approx(0.0, abs=0.01)
    # Even where the tolerance is so wide that the mean difference would pass.
    assert wrong.fault(10.0).startswith("it answers for the base model, not for the trained policy: only 0%")
    half = compare_policies(base + 0.75 * (trained - base), trained, {BASE: base}, name=TRAINED)
    assert half.share == pytest.approx(0.75)


def test_policies_nearer_than_the_noise_are_not_told_apart():
    base, trained, rng = policies(apart=1e-4)
    noise = 1e-2 * rng.standard_normal(len(base))
    for drawn_from in (base, trained):
        result = compare_policies(drawn_from + noise, trained, {BASE: base}, name=TRAINED)
        assert math.isnan(result.share)
        assert result.fault(0.05) == ""
        assert "0.05" not in result.fault(0.001)
        assert "and at most 0.001 are allowed" in result.fault(0.001)
    same = compare_policies(base, base, {BASE: base}, name=TRAINED)
    assert math.isnan(same.share)
    assert same.fault(1e-9) == ""


def test_a_third_policy_is_a_mismatch_and_so_are_numbers_that_are_none():
    base, trained, rng = policies()
    third = trained + rng.standard_normal(len(base))
    assert "lie" in compare_policies(third, trained, {BASE: base}, name=TRAINED).fault(0.05)
    third[0] = math.nan
    assert compare_policies(third, trained, {BASE: base}, name=TRAINED).fault(0.05)


def test_rounding_is_never_taken_for_a_wrong_policy():
    """Past bug: an adapter moved back and forth differed from itself by rounding, and vLLM's own rounding, which leans
    the same way on every token, was taken for the adapter before."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        trained = -rng.exponential(1.0, 60)
        rival = trained + 10 ** rng.uniform(-7, -3) * rng.standard_normal(60)
        towards_rival = 10 ** rng.uniform(-7, -3) * (rival - trained) / np.abs(rival - trained).mean()
        result = compare_policies(trained + towards_rival, trained, {BASE: rival}, name=TRAINED)
        told = np.linalg.norm(rival - trained) >= 3 * min(
            np.linalg.norm(towards_rival), np.linalg.norm(trained + towards_rival - rival)
        )
        nearer = np.linalg.norm(towards_rival) < np.linalg.norm(trained + towards_rival - rival)
        assert math.isnan(result.share) != told
        assert not told or (result.nearest == TRAINED) == nearer
