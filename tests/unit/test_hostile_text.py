"""Text from models and files never becomes control codes, markup, a path or a second line of data."""

import io
import json
import re
import time
from collections import Counter
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.command import command

from polychromic.diagnosis.rules import Finding
from polychromic.diagnosis.run import ArmDiagnosis, Diagnosis, show_diagnosis
from polychromic.diagnosis.traces import ArmEvidence, ArmFacts, ArmTrace
from polychromic.errors import DataError
from polychromic.evaluation import Criterion, Resampling, compare, measure_arms
from polychromic.evaluation.external import read_external
from polychromic.experiment.preflight.results import CheckResult, show_check
from polychromic.files import append_jsonl, read_jsonl
from polychromic.plain_text import plain_text
from polychromic.records import GenerationRow, Prompt, SamplingParameters, as_messages
from polychromic.report.build import write_report
from polychromic.report.latex import to_latex
from polychromic.report.terminal import show_comparison
from polychromic.report.text import to_markdown
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.tasks.data.prompts import load_prompts

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
UNITS = ("x", "<script>", "\x1b[2J", "\ud800", "\u202e", "| ../ \\write18{id} \0 %s{0}\n")
MEGABYTES = [unit * (2**20 // len(unit)) for unit in UNITS]
long_lines = pytest.mark.parametrize("text", MEGABYTES, ids=lambda text: ascii(text[:8]))
anything = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), max_size=200))


def check_terminal(text):
    shown = plain_text(text)
    assert not [character for character in shown if ord(character) < 32 and character not in "\n\t"]
    assert not set(shown) & set("\x1b\x7f\x9b\u202e\u2066\ud800\u2028")
    shown.encode("utf-8")
    assert plain_text(shown) == shown


@given(anything)
def test_nothing_steers_a_terminal(text):
    check_terminal(text)


def test_ordinary_text_of_any_language_is_left_alone():
    text = "naïve – 你好, привет, שלום, 👍🏽\n\tλ ≥ 1"
    assert plain_text(text) == text


def check_rows(path, text, error):
    row = GenerationRow("p", 0, text, 3, "stop", SamplingParameters(), 1, None, error)
    append_jsonl(path, [row.to_json(), row.to_json()])
    assert path.read_bytes().count(b"\n") == 2
    assert [GenerationRow.from_json(one) for one in read_jsonl(path)] == [row, row]


@given(text=anything, error=st.one_of(st.none(), anything))
def test_a_generation_is_one_line_and_comes_back_whole(tmp_path_factory, text, error):
    check_rows(tmp_path_factory.mktemp("rows") / "generations.jsonl", text, error)


def check_loading(path, text):
    rows = [{"id": "one", "prompt": "fine"}, {"id": "two", "prompt": text}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        assert load_prompts(path)[1].text == text
    except DataError as error:
        assert f"{path}:2: prompt" in str(error)
        assert plain_text(str(error)) == str(error)
        assert len(str(error)) < 1000


@given(anything)
def test_prompts_are_loaded_whole_or_refused_with_their_line(tmp_path_factory, text):
    check_loading(tmp_path_factory.mktemp("data") / "prompts.jsonl", text)


def check_given(path, text):
    """Generations made elsewhere: a known prompt, then an unknown one, whose id is the text.

    Past bug: ids of known prompts were listed as they are, control characters and length included.
    """
    known = f"{text} known"
    rows = [{"id": known, "text": text}, {"id": text, "text": "x"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = ArithmeticTask(4, 2, 2)
    prompts = [Prompt(known, as_messages("Q"), (), {})]
    with pytest.raises(DataError) as caught:
        read_external({"arm": [path]}, task, prompts, SamplingParameters())
    assert f"{path}:2: " in str(caught.value)
    assert plain_text(str(caught.value)) == str(caught.value)
    assert len(str(caught.value)) < 1000


@given(anything)
def test_given_generations_are_named_by_their_line(tmp_path_factory, text):
    check_given(tmp_path_factory.mktemp("data") / "given.jsonl", text)


def check_markdown(cell):
    markdown = to_markdown([["metric", "value"], [cell, "1"]]).strip("\n").split("\n")
    assert len(markdown) == 3
    assert markdown[2].replace("\\|", "").count("|") == 3
    assert "<" not in markdown[2]


@given(anything)
def test_tables_keep_their_shape(cell):
    check_markdown(cell)


LATEX_WRITTEN = re.compile(
    r"\\text(backslash|asciicircum|asciitilde|less|greater)\{\}|\\[{}$&#_%]|\$(-|\\geq|\\leq|\\to|\\lambda|\\times)\$|\\ldots\{\}|\{[\[*]\}"
)


def check_latex(cell):
    table = [["metric", "value"], [cell, "1"], [cell, cell]]
    lines = to_latex(table).strip("\n").split("\n")
    assert len(lines) == 8
    for line in lines[4:6]:
        assert line.endswith(r" \\")
        cells = LATEX_WRITTEN.sub("", line.removesuffix(r" \\")).split(" & ")
        assert len(cells) == 2
        assert not re.search(r"[\\{}$&#^_~%\[*]", "".join(cells))
        assert "".join(cells).isprintable()


@given(anything)
def test_a_latex_cell_has_no_command_of_its_own(cell):
    check_latex(cell)


@long_lines
def test_a_line_of_a_megabyte_is_only_long(tmp_path, text):
    started = time.process_time()
    check_terminal(text)
    check_rows(tmp_path / "generations.jsonl", text, text)
    check_loading(tmp_path / "prompts.jsonl", text)
    check_given(tmp_path / "given.jsonl", text)
    check_markdown(text)
    check_latex(text)
    assert time.process_time() - started < 30.0


def report_of(folder, texts, n_prompts=6):
    """The page, and the reports beside it, of a small run whose answers, prompt ids and reasons are these texts."""

    def rows(arm):
        return [
            GenerationRow(
                f"prompt-{p} {texts[p % len(texts)]}", i, f"{text} {i if arm else 0}", 3, "stop",
                SamplingParameters(), 0, reward=None if i == 1 else float(i % 2 == p % 2),
                error=text if i == 1 else None, cluster=f"{text} {i}",
            )
            for p in range(n_prompts)
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
            (tag, key, value) for key, value in attrs if key.startswith("on") or "javascript:" in (value or "")
        ]


def letters(texts):
    """Letters in their place: the same words and lengths, so that reports say nearly the same."""
    return [re.sub(r"\S", chr(ord("a") + index), text) for index, text in enumerate(texts)]


def check_reports(folder, texts, n_prompts=6):
    """Reports of these texts have the structure of reports of harmless ones. Their pages."""
    pages = []
    for name, content in (("hostile", texts), ("plain", letters(texts))):
        root = report_of(folder / name, content, n_prompts)
        pages.append(Structure((root / "report.html").read_text(encoding="utf-8")))
    assert pages[0].active == pages[1].active == []
    assert set(pages[0].tags) - {"li", "b"} == set(pages[1].tags) - {"li", "b"}
    assert pages[0].tags.count("script") == pages[1].tags.count("script")
    for name in ("report.html", "report.md", "results.tex"):
        content = (folder / "hostile" / name).read_text(encoding="utf-8")
        assert not set(content) & set("\x1b\x9b\x07\x00\u202e\ud800"), name
    assert "<script" not in (folder / "hostile" / "report.md").read_text()
    assert "\\write18" not in (folder / "hostile" / "results.tex").read_text()
    return pages


def test_no_text_of_a_run_becomes_markup_in_its_reports(tmp_path):
    hostile, plain = check_reports(tmp_path, HOSTILE)
    # One warning more or less, as the measures differ; everything else is the same, element by element.
    counts = [Counter(tag for tag in page.tags if tag not in {"li", "b"}) for page in (hostile, plain)]
    assert counts[0] == counts[1]


@settings(max_examples=3)
@given(texts=st.lists(anything, min_size=3, max_size=4))
def test_no_text_at_all_becomes_markup_in_reports(tmp_path_factory, texts):
    check_reports(tmp_path_factory.mktemp("reports"), texts, n_prompts=3)


def test_lines_of_a_megabyte_go_through_the_reports(tmp_path):
    check_reports(tmp_path, MEGABYTES[:5], n_prompts=1)


def on_a_terminal(show):
    """Returns what is written to a terminal, without the colours that are ours."""
    stream = io.StringIO()
    show(Console(file=stream, force_terminal=True, color_system=None, width=200))
    return stream.getvalue()


def check_console(text):
    comparison = SimpleNamespace(
        verdict=SimpleNamespace(sentence=text, question=text, levels=()), means=(), arms=(text,), primary_sampling=text,
        resampling=Resampling(), warnings=(SimpleNamespace(kind=text, text=text),), frontier=(), signatures={},
        baseline=text, untrained=None, against_untrained={}, overtakings=(),
    )  # fmt: skip
    evidence = ArmEvidence(ArmFacts(text, "rl", 1.0, 1.0, 64), ArmTrace(text, {}), is_baseline=True, weight=1.0)
    arm = ArmDiagnosis(evidence, (text,), (Finding(text, "fault", text, text),))
    for shown in (
        on_a_terminal(lambda console: show_comparison(comparison, console)),
        on_a_terminal(lambda console: show_diagnosis(text, Diagnosis((arm,)), console)),
    ):
        assert not set(shown) & set("\x1b\x7f\x9b\x07\0\u202e\u2066\ud800\u2028")


@given(anything)
def test_verdict_and_diagnosis_do_not_steer_the_terminal(text):
    """Past bug: rich drops some control codes of a text, but not the escape."""
    check_console(text)


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
    ending = command("train", str(file), f"{hostile}=1")
    assert ending.code == 1
    assert "gone" in ending.errors or "evil" in ending.errors
    assert "\x1b" not in ending.errors
    assert "\u202e" not in ending.errors
