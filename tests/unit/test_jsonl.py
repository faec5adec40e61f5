import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from polychromic.errors import DataError
from polychromic.records import Message, Prompt
from polychromic.tasks.data import formats, lines
from polychromic.tasks.data.prompts import load_prompts


def write(folder: Path, *rows: object) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_prompts(path)
    return str(caught.value)


@pytest.mark.parametrize("name", ["pipe", "folder", "n" * 300, "nowhere"])
def test_what_is_no_file_is_refused_at_once(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert error_of(tmp_path / name).endswith("check the path")


def test_a_prompt_text_becomes_one_user_turn(tmp_path):
    assert load_prompts(write(tmp_path, {"prompt": "Hi", "references": ["Hello", "Hey"]})) == [
        Prompt("train-00001", (Message("user", "Hi"),), ("Hello", "Hey"))
    ]


@pytest.mark.parametrize("key", ["reference", "completion"])
def test_one_reference_may_be_written_alone(tmp_path, key):
    assert load_prompts(write(tmp_path, {"prompt": "Hi", key: "Hello"}))[0].references == ("Hello",)


def test_messages_keep_their_turns(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    (prompt,) = load_prompts(write(tmp_path, {"messages": turns}))
    assert prompt.messages == (Message("system", "Be brief."), Message("user", "Hi"))
    assert prompt.references == ()


def test_a_last_assistant_turn_is_the_reference(tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (prompt,) = load_prompts(write(tmp_path, {"messages": turns}))
    assert prompt.messages == (Message("user", "Hi"),)
    assert prompt.references == ("Hello",)


def test_ids_are_kept_or_made_from_the_line_number(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a", "id": "x"}\n\n{"prompt": "b"}\n{"prompt": "c", "id": 7}\n')
    assert [prompt.id for prompt in load_prompts(path)] == ["x", "mine-00003", "7"]


def test_a_humaneval_line_keeps_its_task_id_and_its_other_keys(tmp_path):
    row = {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f", "test": "assert f() is None"}
    (prompt,) = load_prompts(write(tmp_path, row))
    assert prompt.id == "HumanEval/0"
    assert prompt.meta == {"entry_point": "f", "test": "assert f() is None"}


def test_meta_is_passed_on_and_joined_with_other_keys(tmp_path):
    (prompt,) = load_prompts(write(tmp_path, {"prompt": "a", "meta": {"level": 3}, "topic": "x"}))
    assert prompt.meta == {"level": 3, "topic": "x"}


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "\xc3\xa9"}\r\n')
    assert [prompt.text for prompt in load_prompts(path)] == ["a", "é"]


def test_line_separators_inside_a_text_do_not_split_the_line(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b\x85c"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert load_prompts(path)[0].text == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "[1] is a list, expected an object"),
        (None, "null is null, expected an object"),
        ({}, "prompt: is missing"),
        ({"promt": "a"}, '"promt": did you mean prompt?'),
        ({"prompt": 3}, "prompt: 3 is a number, expected a text"),
        ({"prompt": " \n"}, "prompt: is empty"),
        ({"prompt": "a\0b"}, "prompt: holds a NUL character at position 2"),
        ({"prompt": "\ud800"}, "prompt: holds half a surrogate pair at position 1"),
        ({"prompt": ["a"]}, 'prompt[0]: "a", expected an object with role and content'),
        ({"prompt": "a", "messages": []}, "messages: prompt is given too"),
        ({"messages": []}, "messages: [], expected a list such as"),
        ({"messages": ["a"]}, 'messages[0]: "a", expected an object with role and content'),
        ({"messages": [{"role": "usr", "content": "a"}]}, 'messages[0].role: "usr", expected one of system'),
        ({"messages": [{"role": [], "content": "a"}]}, "messages[0].role: [], expected one of system"),
        (
            {"messages": [{"role": "user", "content": ["a"]}]},
            'messages[0].content[0]: "a", expected a part of text',
        ),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "messages: holds an assistant turn only"),
        ({"messages": [{"role": "system", "content": "a"}]}, "messages: ends with a system turn"),
        ({"prompt": "a", "references": "b"}, 'references: "b" is a text, expected a list of texts'),
        ({"prompt": "a", "references": ["b", ""]}, "references[1]: is empty"),
        ({"prompt": "a", "reference": None}, "reference: null is null, expected a text"),
        ({"prompt": "a", "reference": "b", "completion": "c"}, "completion: reference is given too"),
        ({"prompt": "a", "refrences": ["b"]}, '"refrences": did you mean references?'),
        ({"prompt": "a", "id": True}, "id: true is true or false, expected a text"),
        ({"prompt": "a", "id": ""}, "id: is empty"),
        ({"prompt": "a", "meta": 1}, "meta: 1 is a number, expected an object"),
        ({"prompt": "a", "meta": {"k": 1}, "k": 2}, "k: stands in the line and in its meta"),
    ],
)
def test_a_bad_line_names_file_line_key_and_mend(tmp_path, row, message):
    path = write(tmp_path, {"prompt": "good"}, row)
    assert f"{path}:2: " in error_of(path)
    assert message in error_of(path)


def test_references_beside_a_last_assistant_turn_are_refused(tmp_path):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert "keep one of the two" in error_of(write(tmp_path, {"messages": turns, "reference": "Hey"}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "\xff"}', ":1: byte 13 (0xff) is not UTF-8"),
        (b'{"prompt": "a"', ":1: not JSON: Expecting ',' delimiter at character 15"),
        (b'{"prompt": "a\0"}', ":1: not JSON: Invalid control character"),
        (b'{"prompt": "a", "meta": {"x": NaN}}', ":1: not JSON: NaN is no JSON number"),
        (b"[" * 200_000, ":1: nested too deeply"),
        (b"1" * 5000, ":1: not JSON: a number of 5000 digits"),
    ],
    ids=["utf-8", "torn", "nul", "nan", "deep", "long number"],
)
def test_bytes_that_are_no_json_are_explained(tmp_path, line, message):
    path = tmp_path / "train.jsonl"
    path.write_bytes(line + b"\n")
    assert message in error_of(path)


def test_a_huge_line_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 20)
    assert "the line has 28 bytes, expected at most 20" in error_of(write(tmp_path, {"prompt": "a" * 14}))


def test_all_bad_lines_come_at_once_and_the_list_is_capped(tmp_path):
    text = error_of(write(tmp_path, *[{"prompt": number} for number in range(25)]))
    assert text.startswith(f"{tmp_path / 'train.jsonl'}: 25 bad lines, nothing was loaded")
    assert text.count("is a number") == 20
    assert text.endswith("... and 5 more")


def test_a_repeated_id_names_both_lines(tmp_path):
    text = error_of(write(tmp_path, {"prompt": "a", "id": "x"}, {"prompt": "b"}, {"prompt": "c", "id": "x"}))
    assert ':3: id: "x" is the id of line 1' in text


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(tmp_path, content):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    assert "holds no prompts" in error_of(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "cannot be read (No such file or directory)" in error_of(tmp_path / "none.jsonl")
    assert "is not a file, expected JSON lines" in error_of(tmp_path)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from([*formats.KNOWN_KEYS, "role", "content", "other"])
_ROWS = st.lists(st.dictionaries(_KEYS, _VALUES, max_size=4), max_size=4)


@given(st.binary(max_size=200) | _ROWS.map(lambda rows: "\n".join(map(json.dumps, rows)).encode()))
@example(b'{"prompt": "\\ud800"}')
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_prompts_or_one_data_error(tmp_path, content):
    path = tmp_path / "any.jsonl"
    path.write_bytes(content)
    try:
        prompts = load_prompts(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert len({prompt.id for prompt in prompts}) == len(prompts) > 0
        assert all(prompt.text.strip() for prompt in prompts)
