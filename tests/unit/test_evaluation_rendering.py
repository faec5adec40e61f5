"""Tables for people: lengths beside diversity, gains at matched quality."""

from dataclasses import replace

import numpy as np
import pytest
from summary import summary_text

from polychromic.evaluation import Criterion, Resampling, compare, measure_arms
from polychromic.evaluation.statistics.frontier import MatchedGain
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report.latex import to_latex
from polychromic.report.tables import criteria_table, gains_table, means_table

LEVELS = {"minimum": [Criterion("distinct_2", "higher", 0.1), Criterion("pass@1", "not_worse", margin=0.1)]}
GAIN = MatchedGain("ours", "T=1", "distinct_2", "reward", 0.5, 0.4, 0.3, 0.1, 0.05, 0.15, "within", None)


def rows_of(seed, n_words, temperatures):
    rng = np.random.default_rng(seed)
    return [
        GenerationRow(
            f"p{prompt}",
            index,
            " ".join(f"w{rng.integers(20 * temperature)}" for _ in range(n_words)),
            n_words,
            "stop",
            SamplingParameters(temperature),
            0,
            float(rng.random() < 0.9 / temperature),
        )
        for temperature in temperatures
        for prompt in range(15)
        for index in range(4)
    ]


@pytest.fixture(scope="module")
def comparison():
    rows = {
        ("baseline", 0): rows_of(1, 6, (1.0, 2.0)),
        ("ours", 0): rows_of(2, 9, (1.0, 2.0)),
    }
    tables = measure_arms(rows, pass_threshold=1.0)
    return compare(
        tables,
        baseline="baseline",
        criteria=LEVELS,
        resampling=Resampling(bootstraps=1000, sign_patterns=2000),
    )


def test_lengths_stand_beside_every_criterion_and_above_all_means(comparison):
    header, *rows = criteria_table(comparison)
    assert [row[header.index("lengths")] for row in rows] == ["6 → 9", "6 → 9"]
    assert means_table(comparison)[1][0] == "Length in tokens"
    assert r"6 $\to$ 9" in to_latex(criteria_table(comparison))


def test_gains_at_matched_quality_stand_in_the_summary_with_their_intervals(comparison):
    header, *rows = gains_table(comparison)
    assert [(row[0], row[1], row[2]) for row in rows] == [
        ("Distinct-2", "ours", "T=1"),
        ("Distinct-2", "ours", "T=2"),
    ]
    assert all(" to " in row[header.index("95 % interval")] for row in rows)
    assert "at matched quality" in summary_text(comparison)


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, ""),
        ({"reached_by": "T=1.5"}, "the baseline at T=1.5 is as good and as diverse"),
        ({"position": "above"}, "at least: its quality is above all of the baseline's"),
        ({"position": "below"}, "at most: its quality is below all of the baseline's"),
    ],
)
def test_what_a_gain_is_worth_is_said_in_words(comparison, changes, note):
    table = gains_table(replace(comparison, frontier=(replace(GAIN, **changes),)))
    assert table[1][-1] == note
    assert table[1][3:8] == ["Reward 0.5", "0.4", "0.3", "+0.1", "+0.05 to +0.15"]


def test_one_way_of_sampling_has_no_table_of_gains(comparison):
    lone = replace(comparison, frontier=())
    assert len(gains_table(lone)) == 1
    assert "at matched quality" not in summary_text(lone)
