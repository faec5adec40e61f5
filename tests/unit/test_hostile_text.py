"""Text from models and files never becomes control codes, markup, a path or a second line of data."""

import io
import json
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from polychromic.errors import DataError
from polychromic.evaluation import Criterion, Resampling, compare, measure_arms
from polychromic.evaluation.rendering import to_latex, to_markdown
from polychromic.experiment.preflight.checks import CheckResult
from polychromic.experiment.preflight.show import show_check
from polychromic.files import append_jsonl, read_jsonl
from polychromic.plain_text import plain_text
from polychromic.records import GenerationRow, SamplingParameters
from polychromic.report.build import write_report
from polychromic.tasks.jsonl import load_prompts

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\x1b]0;title\x07\x1b[2J\x1b[31m",
    "../../../etc/passwd",
    "a\0b",
    "\ud800",
    "\u202egnp.exe",
    "[bold red]x[/]",
    "%s %d {0} {name!r}",
    "\\input{/etc/passwd} \\write18{id}",
    "| a | b |\n|---|---|\n# heading",
    "line\u2028break\u2029and\x85more",
    "${IFS}`id`$(id)",
    "\r\n\r\nSet-Cookie: a=b",
]
anything = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), max_size=200))


@given(anything)
def test_nothing_steers_a_terminal(text):
    shown = plain_text(text)
    assert not [character for character in shown if ord(character) < 32 and character not in "\n\t"]
    assert not set(shown) & set("\x1b\x7f\x9b\u202e\u2066\ud800\u2028")
    shown.encode("utf-8")
    assert plain_text(shown) == shown


def test_ordinary_text_of_any_language_is_left_alone():
    text = "naïve – 你好, привет, שלום, 👍🏽\n\tλ ≥ 1"
    assert plain_text(text) == text


@given(text=anything, error=st.one_of(st.none(), anything))
def test_a_generation_is_one_line_and_comes_back_whole(tmp_path_factory, text, error):
    path = tmp_path_factory.mktemp("rows") / "generations.jsonl"
    row = GenerationRow("p", 0, text, 3, "stop", SamplingParameters(), 1, None, error)
    append_jsonl(path, [row.to_json(), row.to_json()])
    assert path.read_bytes().count(b"\n") == 2
    assert [GenerationRow.from_json(one) for one in read_jsonl(path)] == [row, row]


@given(anything)
def test_prompts_are_loaded_whole_or_refused_with_their_line(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("data") / "prompts.jsonl"
    path.write_text(
        json.dumps({"id": "one", "prompt": "fine"}) + "\n" + json.dumps({"id": "two", "prompt": text}) + "\n"
    )
    try:
        assert load_prompts(path)[1].text == text
    except DataError as error:
        assert f"{path}:2: prompt" in str(error)
        assert plain_text(str(error)) == str(error)


def test_a_line_of_a_megabyte_is_only_long(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "x" * 2**20}) + "\n")
    assert len(load_prompts(path)[0].text) == 2**20
    assert len(plain_text("\x1b" * 2**20)) == 4 * 2**20


@given(anything)
def test_tables_keep_their_shape(cell):
    table = [["metric", "value"], [cell, "1"]]
    markdown = to_markdown(table).strip("\n").split("\n")
    assert len(markdown) == 3
    assert markdown[2].replace("\\|", "").count("|") == 3
    assert "<script" not in markdown[2]


LATEX_WRITTEN = re.compile(
    r"\\text(backslash|asciicircum|asciitilde|less|greater)\{\}|\\[{}$&#_%]|\$(-|\\geq)\$|\{[\[*]\}"
)


@given(anything)
def test_a_latex_cell_has_no_command_of_its_own(cell):
    table = [["metric", "value"], [cell, "1"], [cell, cell]]
    lines = to_latex(table).strip("\n").split("\n")
    assert len(lines) == 8
    for line in lines[4:6]:
        assert line.endswith(r" \\")
        cells = LATEX_WRITTEN.sub("", line.removesuffix(r" \\")).split(" & ")
        assert len(cells) == 2
        assert not re.search(r"[\\{}$&#^_~%\[*]", "".join(cells))
        assert "".join(cells).isprintable()


def report_of(folder, texts):
    """The page, and the reports beside it, of a small run whose answers, prompt ids and reasons are these texts."""

    def rows(arm):
        return [
            GenerationRow(
                f"prompt-{p} {texts[p % len(texts)]}", i, f"{text} {i if arm else 0}", 3, "stop",
                SamplingParameters(), 0, reward=None if i == 1 else float(i % 2 == p % 2),
                error=text if i == 1 else None, cluster=f"{text} {i}",
            )
            for p in range(6)
            for i, text in enumerate(texts)
        ]  # fmt: skip

    by_arm = {"baseline": rows(0), "diverse": rows(1)}
    for arm, found in by_arm.items():
        append_jsonl(folder / arm / "seed-0" / "generations.jsonl", [row.to_json() for row in found])
        append_jsonl(folder / arm / "seed-0" / "metrics.jsonl", [{"step": 1, "train/reward": 0.5}])
    tables = measure_arms({(arm, 0): found for arm, found in by_arm.items()}, pass_threshold=1.0)
    criteria = {"minimum": [Criterion("distinct_2", "higher", 0.12)]}
    comparison = compare(tables, baseline="baseline", criteria=criteria, resampling=Resampling())
    write_report(folder, comparison, arms=list(by_arm), seeds=[0], pass_threshold=1.0)
    return folder


class Structure(HTMLParser):
    """The elements of a page in order, and the attributes that run code or ask for something."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.active = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.active += [
            (tag, key, value)
            for key, value in attrs
            if key.startswith("on") or "javascript:" in (value or "")
        ]


def test_no_text_of_a_run_becomes_markup_in_its_reports(tmp_path):
    hostile = report_of(tmp_path / "hostile", HOSTILE)
    # Letters in their place: the same words and lengths, so that the reports say nearly the same.
    letters = [re.sub(r"\S", chr(ord("a") + index), text) for index, text in enumerate(HOSTILE)]
    plain = report_of(tmp_path / "plain", letters)
    pages = [Structure((folder / "report.html").read_text(encoding="utf-8")) for folder in (hostile, plain)]
    warnings = {"li", "b"}  # one more or less, as the measures differ
    counts = [Counter(tag for tag in page.tags if tag not in warnings) for page in pages]
    assert counts[0] == counts[1]
    assert pages[0].active == pages[1].active == []
    for name in ("report.html", "report.md", "results.tex"):
        content = (hostile / name).read_text(encoding="utf-8")
        assert not set(content) & set("\x1b\x9b\x07\x00\u202e"), name
    assert "<script" not in (hostile / "report.md").read_text()
    assert "\\write18" not in (hostile / "results.tex").read_text()


@given(anything)
def test_a_check_is_shown_without_markup(text):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=False, width=200)
    show_check(CheckResult(1, "data", "failed", text[:5000], text[:5000], 0.0, {}), console)
    shown = stream.getvalue()
    assert "\x1b" not in shown
    if text == "[bold red]x[/]":
        assert text in shown


@pytest.mark.parametrize("hostile", ["\x1b[2Jgone", "\u202eevil"])
def test_error_messages_on_the_command_line_are_plain(tmp_path, hostile):
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps({"name": hostile, hostile: 1}))
    done = subprocess.run(
        [sys.executable, "-m", "polychromic", "train", str(file), f"{hostile}=1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert "\u202e" not in done.stderr
