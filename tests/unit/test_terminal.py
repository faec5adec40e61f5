"""The terminal at the end: one block, the verdict in it, no number cut at any width, drawn by an emulator."""

import io
import re

import pyte
import pytest
from rich.console import Console

from polychromic.evaluation import Criterion, compare, measure_arms
from polychromic.experiment.preflight.results import CheckResult, ShownChecks, show_check
from polychromic.plain_text import in_lines
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report.terminal import fitted, show_comparison

NUMBER = re.compile(r"[+−]?\d[\d.,]*(?: %)?")


def rows(texts):
    return [
        GenerationRow(
            f"p{p}", i, text, 3 + p % 3, "stop", SamplingParameters(1.0), 0,
            reward=float((i + p) % 3 == 0), cluster=text,
        )
        for p in range(40) for i, text in enumerate(texts)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def comparison():
    by_arm = {
        "baseline": rows(["a b", "a b", "a c", "a d"]),
        "a rather long name of an arm": rows(["a b", "c d", "e f", "g h"]),
        "untrained": rows(["i j", "k l", "m n", "o p"]),
    }
    tables = measure_arms({(arm, 0): found for arm, found in by_arm.items()}, pass_threshold=1.0)
    criteria = {
        "minimum": [
            Criterion("distinct_2", "higher", 0.12),
            Criterion("pass@2", "higher", 0.25),
            Criterion("pass@1", "not_worse", margin=0.02),
        ]
    }
    return compare(tables, baseline="baseline", criteria=criteria, untrained="untrained")


def screen(columns, show):
    """Returns the lines that a terminal of so many columns shows, drawn by an emulator from the very bytes."""
    stream = io.StringIO()
    show(Console(file=stream, force_terminal=True, width=columns))
    shown = pyte.HistoryScreen(columns, 400)
    pyte.Stream(shown).feed(stream.getvalue().replace("\n", "\r\n"))
    return [line.rstrip() for line in shown.display if line.strip()]


def numbers(lines):
    return set(NUMBER.findall("\n".join(lines)))


@pytest.mark.parametrize("details", [False, True])
@pytest.mark.parametrize("columns", [80, 100, 200])
def test_no_number_is_cut_at_any_width(comparison, columns, details):
    lines = screen(columns, lambda console: show_comparison(comparison, console, details=details))
    widest = screen(1000, lambda console: show_comparison(comparison, console, details=details))
    assert all(len(line) <= columns for line in lines)
    assert numbers(lines) == numbers(widest)
    # Nothing was broken by the emulator: what stands on lines is what was printed, words in their order.
    if not details:
        assert " ".join(" ".join(lines).split()) == " ".join(" ".join(widest).split())


def test_the_verdict_is_one_block_and_comes_last(comparison):
    lines = screen(80, lambda console: show_comparison(comparison, console, details=True))
    block = screen(80, lambda console: show_comparison(comparison, console))
    assert lines[-len(block) :][0] == block[0]
    assert block[0].startswith(("Yes: ", "No: ", "Not decided: "))
    assert any("Distinct-2 +12 %" in line for line in block)
    assert len(block) < 24  # a screen


def test_a_table_that_is_too_wide_becomes_a_card_a_row():
    table = [["measure", "first arm", "second"], ["Pass@1", "0.25 [0.1, 0.3]", "–"]]
    assert fitted(table, 200) == ["measure  first arm        second", "Pass@1   0.25 [0.1, 0.3]  –"]
    assert fitted(table, 30) == ["measure", "  Pass@1", "    first arm  0.25 [0.1, 0.3]", "    second     –"]


def test_lines_break_at_spaces_and_never_between_a_number_and_its_unit():
    text = "rose by 58 % in 3.1 min with p = 0.029 of " + "x" * 50
    for width in range(24, 60):
        lines = in_lines(text, width, indent=2, first=0)
        assert " ".join(line.strip() for line in lines) == text
        assert all(len(line) <= width or "x" * 50 in line for line in lines)
        joined = "\n".join(lines)
        assert "58 %" in joined
        assert "3.1 min" in joined
        assert "p = 0.029" in joined
    assert in_lines(text, None) == [text]


CHECK = CheckResult(
    8, "longest batch", "warned", "4 sampled answers of up to 128 tokens: 3.2 s; at most 1.6 of 33 GB " * 2,
    "lower training.micro_batch_size", 3.25, {},
)  # fmt: skip


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_checks_fit_the_terminal(columns):
    lines = screen(columns, lambda console: show_check(CHECK, console))
    assert all(len(line) <= columns for line in lines)
    assert lines[0].startswith(" 8 ! longest batch: 4 sampled answers")
    assert lines[-1].strip() == "→ lower training.micro_batch_size"
    assert "(3.2 s)" in lines[-2]


def test_the_check_that_runs_is_named():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    with ShownChecks(console) as shown:
        shown.started(5, 12, "model")
        shown._spinner.update(shown._spinner.status)
        console.print("")
    assert "preflight 5/12: model …" in stream.getvalue()


def test_a_log_names_checks_that_took_long_and_those_that_did_not_pass():
    stream = io.StringIO()
    with ShownChecks(Console(file=stream)) as shown:
        shown.ended(CheckResult(1, "data", "passed", "fine", "", 0.1, {}))
        shown.ended(CheckResult(5, "model", "passed", "fine", "", 12.0, {}))
        shown.ended(CHECK)
    assert stream.getvalue().splitlines()[0] == "preflight 5 model: passed (12.0 s)"
    assert stream.getvalue().splitlines()[1].startswith(" 8 ! longest batch: 4 sampled")
    assert "data" not in stream.getvalue()
