"""Holm's correction of p values over a family of criteria."""

import math
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from polychromic.evaluation.verdict import holm


def test_holm_corrects_over_the_family_and_leaves_unknown_p_alone():
    p_values = [0.01, math.nan, 0.04, 0.03]

    corrected = holm(p_values)

    assert corrected[0] == pytest.approx(0.03)
    assert math.isnan(corrected[1])
    assert [corrected[0], *corrected[2:]] == pytest.approx([0.03, 0.06, 0.06])
    assert all(math.isnan(p) for p in holm([math.nan]))


@given(st.lists(st.sampled_from([0.0, 1e-9, 0.03, 0.2, 1.0]) | st.floats(0.0, 1.0), min_size=1, max_size=30))
def test_holm_agrees_with_statsmodels(p_values):
    with mock.patch("gc.collect"):  # multipletests calls it each time: 30 s in all
        corrected = multipletests(p_values, method="holm")[1].tolist()

    assert holm(p_values) == pytest.approx(corrected, abs=1e-15)
