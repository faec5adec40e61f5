"""Durable files: torn lines, atomic folders, strict JSON."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychromic.errors import DataError
from polychromic.files import append_jsonl, atomic_folder, read_json, read_jsonl, strict_json, write_json


def test_a_torn_last_line_is_dropped_on_reading_and_cut_before_appending(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, [{"a": 1}, {"a": 2}])
    with path.open("a") as stream:
        stream.write('{"a": 3, "torn')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]
    append_jsonl(path, [{"a": 4}])
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 4}\n'


def test_a_torn_line_longer_than_the_read_window_is_cut(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, [{"a": 1}])
    with path.open("a") as stream:
        stream.write("x" * 200_000)
    append_jsonl(path, [{"a": 2}])
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]


def test_a_bad_line_inside_is_named(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        read_jsonl(path)


def test_nan_and_numpy_become_strict_json():
    value = {"nan": math.nan, "inf": math.inf, "array": np.array([1.5, np.nan]), "count": np.int64(3)}
    assert json.loads(strict_json(value)) == {"nan": None, "inf": None, "array": [1.5, None], "count": 3}


@given(st.text(st.characters(codec=None)))
def test_any_text_survives_a_round_trip_through_bytes(text):
    encoded = strict_json({"text": text}).encode("utf-8")
    assert json.loads(encoded) == {"text": text}


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    target = tmp_path / "adapter"
    with pytest.raises(RuntimeError), atomic_folder(target) as staging:
        (staging / "weights").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    for content in ("first", "second"):
        with atomic_folder(target) as staging:
            (staging / "weights").write_text(content)
    assert (target / "weights").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_unreadable_json_names_the_file(tmp_path: Path):
    write_json(tmp_path / "good.json", {"a": 1})
    assert read_json(tmp_path / "good.json") == {"a": 1}
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json"):
        read_json(tmp_path / "bad.json")
