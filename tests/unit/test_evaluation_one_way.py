"""Two numbers are compared only where they were measured in one way, and a number that is missing is told of."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from summary import summary_text

from polychromic.diversity import MeasureSettings, load_embedder
from polychromic.evaluation import Resampling, compare, measure_arms
from polychromic.evaluation.group_metrics import MeasureOptions
from polychromic.evaluation.measure import measure_rows
from polychromic.evaluation.tables import PromptTable
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report.terminal import show_comparison

QUICK = Resampling(bootstraps=1000, sign_patterns=2000)
TEXTS = ["the cat sat down", "a dog ran off", "the cat ran off", "one bird sang"]


def rows_of(texts=TEXTS, *, n_prompts=20, forms=None):
    return [
        GenerationRow(
            f"p{prompt:02d}",
            index,
            text,
            len(text.split()),
            "stop",
            SamplingParameters(),
            0,
            1.0,
            cluster=forms[index] if forms else None,
        )
        for prompt in range(n_prompts)
        for index, text in enumerate(texts)
    ]


def compared(tables):
    return compare(tables, baseline="baseline", resampling=QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": 3}, "two values of .* cannot be compared: k 4 against 3"),
        ({"measures": {"lowercase": True}}, "case kept against lower"),
        ({"measures": {"budget": 7}}, "rarefied_distinct cannot be compared: budget 11 against 7"),
    ],
)
def test_measures_made_in_two_ways_are_not_compared(change, message):
    plain = MeasureOptions(1.0, measures=MeasureSettings(budget=11))
    measures = replace(plain.measures, **change.get("measures", {}))
    other = replace(plain, measures=measures, answers=change.get("answers"))
    tables = {("baseline", 0): measure_rows(rows_of(), plain), ("arm", 0): measure_rows(rows_of(), other)}
    with pytest.raises(ValueError, match=f"arms 'baseline' and 'arm': .*{message}"):
        compared(tables)


def test_embedders_and_ways_to_find_equal_answers_are_not_mixed():
    options, embedder = MeasureOptions(1.0), load_embedder("hash")
    embedder.name = "another"
    ours = measure_rows(rows_of(), options, embedder=load_embedder("hash"))
    with pytest.raises(ValueError, match=r"found by embedding distance up to 0\.25 \(another\), others by"):
        compared({("baseline", 0): ours, ("arm", 0): measure_rows(rows_of(), options, embedder=embedder)})
    theirs = replace(measure_rows(rows_of(), options, embedder=embedder), clusters=ours.clusters)
    with pytest.raises(ValueError, match="embedder hashed-char-ngrams-2-4-d1024 against another"):
        compared({("baseline", 0): ours, ("arm", 0): theirs})


def test_an_arm_without_one_known_form_is_measured_like_the_others():
    """Past bug: an arm whose answers the task could not read had its equal answers found by embeddings."""
    tables = measure_arms(
        {("baseline", 0): rows_of(forms=["a", "b", "a", "c"]), ("unread", 0): rows_of()},
        pass_threshold=1.0,
        embedder=load_embedder("hash"),
    )
    assert {table.clusters for table in tables.values()} == {"the task's canonical form"}
    assert compared(tables).clusters == "the task's canonical form"


def test_every_measure_that_some_arm_has_is_signed():
    """Past bug: the baseline's signatures stood for all, and one that it lacked was not printed."""
    rows = {("baseline", 0): rows_of(["yes", "no", "yes", "no"]), ("arm", 0): rows_of()}
    comparison = compared(measure_arms(rows, pass_threshold=1.0))
    assert comparison.mean("arm", "distinct_2") is not None
    assert "distinct_2" in comparison.signatures


def test_the_number_of_clusters_is_signed_with_how_they_were_found_and_the_draws():
    rows = {
        ("baseline", 0): rows_of(forms=["a", "b", "a", "c"]),
        ("arm", 0): rows_of(forms=["a", "b", "a", "c"]),
    }
    signatures = compared(measure_arms(rows, pass_threshold=0.5)).signatures
    assert signatures["clusters"] == "clusters|same:the task's canonical form|k:4|version:1"
    assert signatures["distinct_correct"] == (
        "distinct_correct|passes:reward >= 0.5|same:the task's canonical form|k:4|version:1"
    )


def test_undefined_values_are_told_of_with_their_reason():
    mixed = rows_of(["yes", "no", "maybe", "yes"], n_prompts=5) + rows_of()[20:]
    tables = measure_arms({("baseline", 0): mixed, ("arm", 0): rows_of()}, pass_threshold=1.0)
    assert tables["baseline", 0].undefined["T=1"]["distinct_3"] == {"no n-gram of length 3": 5}
    comparison = compared(tables)
    texts = {warning.arm: warning.text for warning in comparison.warnings if warning.kind == "undefined"}
    assert list(texts) == ["baseline"]
    assert "Distinct-2 in 5 of 20 groups: no n-gram of length 2" in texts["baseline"]
    assert "Distinct-3 in 5 of 20 groups: no n-gram of length 3" in texts["baseline"]
    assert texts["baseline"] in summary_text(comparison)


def test_what_no_arm_has_is_told_once():
    rows = rows_of(["yes", "no", "yes", "no"])
    comparison = compared(measure_arms({("baseline", 0): rows, ("arm", 0): rows}, pass_threshold=1.0))
    (warning,) = [one for one in comparison.warnings if one.kind == "undefined"]
    assert warning.arm == ""
    assert warning.text.startswith("in every arm no value of Distinct-2 (rarefied) in 20 of 20 groups: fewer than")


def test_the_terminal_names_what_made_the_embeddings():
    rows = {("baseline", 0): rows_of(), ("arm", 0): rows_of()}
    comparison = compared(measure_arms(rows, pass_threshold=1.0, embedder=load_embedder("hash")))
    line = "vendi: vendi|q:1.0|kernel:cosine|embedder:hashed-char-ngrams-2-4-d1024|k:4|version:1"
    assert line in summary_text(comparison).splitlines()
    terminal = Console(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
    show_comparison(comparison, terminal, details=True)
    assert line in [shown.rstrip() for shown in terminal.file.getvalue().splitlines()]


def test_a_prompt_with_too_few_answers_is_told_of():
    rows = {("baseline", 0): rows_of(n_prompts=40)[:-1], ("arm", 0): rows_of(n_prompts=40)}
    table = measure_arms(rows, pass_threshold=1.0)["baseline", 0]
    assert table.undefined["T=1"]["self_bleu"] == {"fewer than 4 answers": 1}
    assert PromptTable.from_json(table.to_json()).undefined == table.undefined
