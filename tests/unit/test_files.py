"""Durable files: torn lines, atomic folders, strict JSON."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polychromic.errors import DataError
from polychromic.files import (
    append_jsonl,
    atomic_folder,
    read_json,
    read_jsonl,
    remove_leftovers,
    strict_json,
    write_json,
)


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


def test_what_killed_writes_left_is_removed_and_nothing_else(tmp_path: Path):
    """Past bug: every kill within a checkpoint left a copy of weights and optimizer behind for good."""
    kept = [".lock", ".owner.json", ".running.json", "arm/adapter/adapter_config.json", ".git/config"]
    torn = [
        "arm/checkpoints/.step-000002.a1b2c3d_/weights",
        "arm/.adapter.retired/x",  # its successor is there
        ".report.html.zzzzzzzz",
    ]
    for name in (*kept, *torn):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        kept
    )


def test_the_names_of_unfinished_writes_are_those_that_are_removed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda self, target: None)  # a kill just before the rename
    write_json(tmp_path / "state.json", {})
    unfinished = atomic_folder(tmp_path / "step-000002")
    unfinished.__enter__()
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_being_replaced_comes_back(tmp_path: Path, monkeypatch):
    """Past bug: a kill between the two renames lost the old folder too, the only checkpoint for example."""
    target = tmp_path / "step-000050"
    with atomic_folder(target) as staging:
        (staging / "weights").write_text("old")

    renamed = Path.replace

    def killed_at_the_second(self, to):
        if to == target:
            raise KeyboardInterrupt
        return renamed(self, to)

    monkeypatch.setattr(Path, "replace", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt), atomic_folder(target) as staging:
        (staging / "weights").write_text("new")
    assert not target.exists()
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000050"]
    assert (target / "weights").read_text() == "old"
