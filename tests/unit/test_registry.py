"""A user's own parts are found by registered name or by import path, and what is missing is said."""

import math
import sys

import pytest

from polychromic.errors import ConfigError
from polychromic.registry import resolve

REGISTERED = {"reward": 1, "coverage": 2}


def test_a_registered_name_comes_first_and_modules_are_imported():
    assert resolve("coverage", REGISTERED, "objective") == 2
    assert resolve("math:pi", REGISTERED, "objective") == math.pi


def test_a_file_is_run_once(tmp_path):
    (tmp_path / "mine.py").write_text("first = []\nsecond = first\n")
    first = resolve(f"{tmp_path / 'mine.py'}:first", {}, "metric")
    assert resolve(f"{tmp_path / 'mine.py'}:second", {}, "metric") is first


def test_a_file_imports_from_beside_it_wherever_the_command_is_started(tmp_path, monkeypatch):
    """Past bug: only `python -m polychromic` from that very folder found the other file."""
    (tmp_path / "words_beside_it.py").write_text("good = {'yes'}\n")
    (tmp_path / "colorsys.py").write_text("raise SystemExit\n")  # what Python has itself comes first
    (tmp_path / "checks.py").write_text("import colorsys, words_beside_it\ncheck = words_beside_it.good\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert resolve(f"{tmp_path / 'checks.py'}:check", {}, "checker") == {"yes"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "distance",
            "objective 'distance' is not known; expected one of reward, coverage, path/to/file.py:name",
        ),
        ("nowhere.py:mine", "cannot be imported: FileNotFoundError: there is no file .*nowhere.py"),
        ("no_such_module:mine", "cannot be imported: ModuleNotFoundError.*such as no_such_module.py:mine"),
        ("broken.py:mine", "cannot be imported: SyntaxError"),
        ("mine.py:yours", "mine.py does not define yours; it defines mine"),
    ],
)
def test_what_is_missing_is_said(tmp_path, monkeypatch, name, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("def mine(:\n")
    (tmp_path / "mine.py").write_text("mine = 1\n")
    with pytest.raises(ConfigError, match=expected):
        resolve(name, REGISTERED, "objective")
