"""A metric of one's own: registered once, then measured, judged and shown like any other, or refused at once."""

import pytest

from polychromic.evaluation import (
    METRICS,
    Criterion,
    Metric,
    Resampling,
    compare,
    find_metric,
    measure_arms,
    register_metric,
)
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report.tables import criteria_table
from polychromic.report.text import to_markdown

READABILITY = Metric("readability", "Readability", "higher", "quality", 0.0, 100.0, "your own measurement")
PROMPTS = [f"p{index}" for index in range(12)]


@pytest.fixture
def known():
    register_metric(READABILITY)
    yield
    del METRICS["readability"]


def measured(**extra):
    rows = [
        GenerationRow(prompt, index, f"a text of {arm} {index}", 4, "stop", SamplingParameters(), 0, reward=0.5)
        for arm in "ab" for prompt in PROMPTS for index in range(3)
    ]  # fmt: skip
    by_arm = {("a", 0): rows[: len(rows) // 2], ("b", 0): rows[len(rows) // 2 :]}
    columns = {
        ("a", 0): {key: dict.fromkeys(PROMPTS, value) for key, value in extra.items()},
        ("b", 0): {
            key: {prompt: value + 1 + i % 2 for i, prompt in enumerate(PROMPTS)} for key, value in extra.items()
        },
    }
    return measure_arms(by_arm, pass_threshold=1.0, extra=columns)


def test_a_registered_metric_is_measured_judged_and_shown(known):
    """Past bug: metrics from elsewhere were accepted, and then dropped by the comparison or tripped over."""
    criteria = {"minimum": [Criterion("readability", "higher", 0.01)]}
    comparison = compare(
        measured(readability=50.0),
        baseline="a",
        criteria=criteria,
        resampling=Resampling(),
    )
    mean = comparison.mean("b", "readability")
    assert mean is not None
    assert mean.mean == pytest.approx(51.5)
    assert comparison.verdict.status == "met"
    assert "Readability" in to_markdown(criteria_table(comparison))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("novelty", 0.5, r"metric 'novelty' is not known; register_metric\(Metric"),
        ("pass@3", 0.5, "metric 'pass@3' is read from a curve"),
        ("distinct_2", 0.5, "'distinct_2' is measured from the generations themselves"),
        ("readability", 99.5, "readability = 100.5, and its values lie between 0 and 100"),
        ("readability", float("inf"), "readability = inf, and its values lie between 0 and 100, and are finite or nan"),
    ],
)
def test_values_that_would_be_dropped_or_mistaken_are_refused(known, key, value, expected):
    with pytest.raises(ValueError, match=expected):
        measured(**{key: value})


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({("c", 0): {}}, r"extra: \[\('c', 0\)\] have no generations; expected arms and seeds of \[\('a', 0\)\]"),
        (
            {("a", 0): {"readability": {"q1": 3.0}}},
            "readability has values of 'q1' and the like, and of no",
        ),
    ],
)
def test_values_of_arms_or_prompts_that_are_not_measured_are_refused(known, extra, expected):
    """Past bug: they were passed over, and the metric "was not measured"."""
    rows = [GenerationRow("p1", index, "a text", 2, "stop", SamplingParameters(), 0, reward=0.5) for index in range(3)]
    with pytest.raises(ValueError, match=expected):
        measure_arms({("a", 0): rows}, pass_threshold=1.0, extra=extra)
    partly = {("a", 0): {"readability": {"p1": 3.0, "q1": 4.0}}}
    assert (
        "readability" in measure_arms({("a", 0): rows}, pass_threshold=1.0, extra=partly)["a", 0].sampled["T=1"].values
    )


@pytest.mark.parametrize("key", ["report.html", "pass@7", "Readability", ""])
def test_keys_are_words(known, key):
    with pytest.raises(ValueError, match="expected a word"):
        register_metric(Metric(key, "x", "higher", "quality"))


def test_a_key_is_taken_once(known):
    assert register_metric(READABILITY) is READABILITY
    assert find_metric("readability") is READABILITY
    with pytest.raises(ValueError, match="is that of another metric"):
        register_metric(Metric("reward", "x", "higher", "quality"))
