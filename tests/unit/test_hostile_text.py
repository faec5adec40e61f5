"""Text from models and files never becomes control codes, markup, a path or a second line of data."""

import io
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from polychromic.errors import DataError
from polychromic.evaluation.rendering import to_latex, to_markdown
from polychromic.experiment.preflight.checks import CheckResult
from polychromic.experiment.preflight.show import show_check
from polychromic.files import append_jsonl, read_jsonl
from polychromic.plain_text import plain_text
from polychromic.records import GenerationRow, SamplingParameters
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
    latex = to_latex(table)
    assert "\\input{" not in latex
    assert "\\write18" not in latex


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
