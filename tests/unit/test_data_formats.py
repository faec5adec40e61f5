"""Every form of data that is recognised gives the same prompts; what is not names the place, the key and the fix."""

import csv
import gzip
import json
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polychromic.errors import DataError
from polychromic.records import Message
from polychromic.tasks.data import formats
from polychromic.tasks.data.formats import Keys, form_of
from polychromic.tasks.data.prompts import load_prompts, prompts_of
from polychromic.tasks.data.rows import read_rows, read_splits

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
PREFERENCE = {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"}

FORMS = {
    "own": {"prompt": "Hi", "references": ["Hello"]},
    "openai": {"messages": TURNS},
    "openai parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, TURNS[1]]},
    "openai names": {"messages": [{**TURNS[0], "name": "Ada"}, TURNS[1]]},
    "alpaca": {"instruction": "Hi", "input": "", "output": "Hello"},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "trl completion": {"prompt": "Hi", "completion": "Hello"},
    "trl turns": {"prompt": TURNS[:1], "completion": TURNS[1:]},
    "trl preference": PREFERENCE,
    "trl implicit prompt": {"chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant", "content": "No"}]},
    "question": {"question": "Hi", "answer": "Hello"},
    "squad": {"question": "Hi", "answers": {"text": ["Hello"], "answer_start": [0]}},
    "prompt and response": {"prompt": "Hi", "response": "Hello"},
}


def as_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_array(path, rows):
    path.write_text(json.dumps(rows, indent=2))


def as_objects(path, rows):
    path.write_text("\n".join(json.dumps(row, indent=2) for row in rows))


def as_minified(path, rows):
    """Past bug: rows on one line had one id, so that they counted as one prompt."""
    path.write_text(json.dumps(rows))


def as_document(path, rows):
    path.write_text(json.dumps({"version": "1.1", "data": rows}))


def as_parquet(path, rows):
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {
    "mine.jsonl": as_jsonl,
    "mine.json": as_array,
    "indented.json": as_objects,
    "indented.jsonl": as_objects,
    "array.jsonl": as_array,
    "one_line.json": as_jsonl,
    "minified.json": as_minified,
    "minified.jsonl": as_minified,
    "document.json": as_document,
    "mine.parquet": as_parquet,
}


@pytest.mark.parametrize(
    ("name", "form"),
    # A column of Arrow holds texts or lists, and not both.
    [(name, form) for name in WRITERS for form in FORMS if (name, form) != ("mine.parquet", "openai parts")],
)
def test_every_form_in_every_kind_of_file_gives_the_same_prompt(tmp_path, name, form):
    other = json.loads(json.dumps(FORMS[form]).replace("Hi", "Bye"))
    WRITERS[name](tmp_path / name, [FORMS[form], other])
    first, second = load_prompts(tmp_path / name)
    assert (first.messages, first.references) == ((Message("user", "Hi"),), ("Hello",))
    assert (second.messages, second.references) == ((Message("user", "Bye"),), ("Hello",))
    assert first.id != second.id


@pytest.mark.parametrize("rest", ["[{}]", "{}", "]", "xyz"])
@pytest.mark.parametrize("name", ["mine.json", "mine.jsonl"])
def test_what_stands_behind_a_list_is_not_left_out(tmp_path, name, rest):
    """Past bug: of two lists in one file (`cat a.json b.json`) the second one was not read."""
    (tmp_path / name).write_text('[{"prompt": "Hi"}]\n' + rest.replace("{}", '{"prompt": "Bye"}'))
    with pytest.raises(DataError, match=r"more stands behind the end|an object such as"):
        load_prompts(tmp_path / name)


def test_an_id_twice_in_a_document_is_found_on_one_line(tmp_path):
    (tmp_path / "mine.json").write_text('[{"prompt": "Hi", "id": 1}, {"prompt": "Bye", "id": "1"}]')
    with pytest.raises(DataError, match='id: "1" is the id of line 1, expected unique ids'):
        load_prompts(tmp_path / "mine.json")


@pytest.mark.parametrize("label", ["False", "false", "0", 0, False])
def test_a_bad_answer_of_kto_is_no_reference_however_its_label_is_written(tmp_path, label):
    """Past bug: in CSV every cell is a text, and "False" made a reference of the bad answer."""
    rows = [{"prompt": "Hi", "completion": "Hello", "label": 1}, {"prompt": "Bye", "completion": "No", "label": label}]
    as_jsonl(tmp_path / "mine.jsonl", rows)
    (tmp_path / "mine.csv").write_text(f"prompt,completion,label\nHi,Hello,True\nBye,No,{label}\n")
    for name in ("mine.jsonl", "mine.csv"):
        assert [prompt.references for prompt in load_prompts(tmp_path / name)] == [("Hello",), ()]


def test_a_cell_may_be_long(tmp_path):
    """Past bug: beyond a megabyte, "straddling object straddles two block boundaries"."""
    (tmp_path / "mine.csv").write_text(f"prompt,reference\n{'x' * 3_000_000},y\n")
    assert len(load_prompts(tmp_path / "mine.csv")[0].text) == 3_000_000


def test_texts_that_parquet_holds_as_bytes_are_texts(tmp_path):
    """Past bug: the prompt was "b'Hi'"."""
    table = pa.table({"prompt": pa.array(["Hé".encode()], pa.binary()), "image": pa.array([b"\xff"], pa.binary())})
    pyarrow.parquet.write_table(table, tmp_path / "mine.parquet")
    assert load_prompts(tmp_path / "mine.parquet")[0].text == "Hé"


def test_what_is_told_to_do_about_a_value_helps(tmp_path):
    """Past bug: "null is null, expected a text; put it in quotes"."""
    as_jsonl(tmp_path / "mine.jsonl", [{"prompt": "Hi", "reference": None}])
    with pytest.raises(DataError, match="null is null, expected a text; leave the key out"):
        load_prompts(tmp_path / "mine.jsonl")


def test_a_packed_file_is_said_to_be_one(tmp_path):
    """Past bug: "save the file as UTF-8"."""
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"prompt": "Hi"}'))
    sheet = tmp_path / "a.xlsx"
    with ZipFile(sheet, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: is packed by gzip; unpack it with gunzip"):
        load_prompts(packed)
    with pytest.raises(DataError, match="save the sheet as CSV"):
        load_prompts(sheet)


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".csv", ";"), (".tsv", "\t")])
def test_tables_are_read_as_text(tmp_path, suffix, delimiter):
    """None, NA and 007 are answers, and no missing values or numbers; an empty cell is a key left out."""
    path = tmp_path / f"mine{suffix}"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerows([["question", "answer"], ["Who,\nthen?", "None"], ["Agent?", "007"], ["Open?", ""]])
    prompts = load_prompts(path)
    assert [prompt.text for prompt in prompts] == ["Who,\nthen?", "Agent?", "Open?"]
    assert [prompt.references for prompt in prompts] == [("None",), ("007",), ()]


def test_a_folder_of_the_datasets_library_is_read_with_its_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = [{"question": "Hi", "answer": "Hello"}, {"question": "Bye", "answer": None}]
    split = datasets.Dataset.from_list(rows)
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(tmp_path / "mine")
    splits = read_splits(tmp_path / "mine")
    assert set(splits) == {"train", "test"}
    prompts = load_prompts(tmp_path / "mine" / "test")
    assert [prompt.references for prompt in prompts] == [("Hello",), ()]
    with pytest.raises(DataError, match="holds the splits train, test; name one of them"):
        load_prompts(tmp_path / "mine")


def test_keys_of_any_other_form_are_named(tmp_path):
    path = tmp_path / "mine.jsonl"
    as_jsonl(path, [{"id": 4, "brief": "A bakery", "slogans": ["Fresh", "Early"], "city": "Bern"}])
    with pytest.raises(DataError, match='the keys are "id", "brief", "slogans", "city"; prompt_key and reference_key'):
        load_prompts(path)
    (prompt,) = load_prompts(path, Keys("brief", "slogans"))
    assert (prompt.id, prompt.text, prompt.references) == ("4", "A bakery", ("Fresh", "Early"))
    assert prompt.meta == {"city": "Bern"}
    with pytest.raises(DataError, match=r"mine\.jsonl:1: breif: is missing, and task\.prompt_key names it"):
        load_prompts(path, Keys("breif"))


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (
            {"question": "Who?", "context": "Ada wrote.", "answer": "Ada", "solution": "She did: Ada"},
            "Ada wrote.\n\nWho?",
        ),
        ({"instruction": "Translate", "input": "Hund", "output": "a dog", "gold": "dog"}, "Translate\n\nHund"),
        ({"messages": TURNS[:1], "gold": "Hello"}, "Hi"),
        ({"prompt": "Hi", "completion": "Go", "gold": "Hello"}, "Hi"),
    ],
)
def test_a_named_reference_leaves_the_question_whole(tmp_path, row, text):
    """Past bug: with reference_key alone, what stands beside the question was taken out of the prompt."""
    as_jsonl(tmp_path / "a.jsonl", [row])
    key = "gold" if "gold" in row else "answer"
    (prompt,) = load_prompts(tmp_path / "a.jsonl", Keys(reference=key))
    assert (prompt.text, prompt.references) == (text, (row[key],))
    assert prompt.meta.keys() == row.keys() & {"solution", "output", "completion", "context"}


def test_the_context_of_dolly_is_part_of_the_prompt(tmp_path):
    """Past bug: the question was asked, and learnt, without the text that it is about."""
    rows = [
        {"instruction": "When?", "context": "It was 1969.", "response": "1969", "category": "closed_qa"},
        {"instruction": "Why?", "context": "", "response": "So", "category": "open_qa"},
        {"question": "Why?", "context": "", "answer": "So"},
    ]
    as_jsonl(tmp_path / "a.jsonl", rows)
    prompts = load_prompts(tmp_path / "a.jsonl")
    assert [prompt.text for prompt in prompts] == ["When?\n\nIt was 1969.", "Why?", "Why?"]
    assert [prompt.references for prompt in prompts] == [("1969",), ("So",), ("So",)]


@pytest.mark.parametrize("key", ["prompt", "messages"])
def test_an_answer_beside_turns_is_a_reference(tmp_path, key):
    """Past bug: it was beside a text, and not beside turns, as data for rewards often have it."""
    rows = [
        {key: TURNS[:1], "answer": "Hello"},
        {key: TURNS[:1], "solution": "Because …", "answer": "Hello"},
        {key: TURNS[:1], "reference": "Hello", "answer": "Bye"},
        {key: TURNS, "answer": "Bye"},
        {key: TURNS[:1], "response": {"text": "Hello"}},
    ]
    as_jsonl(tmp_path / "a.jsonl", rows)
    references = [prompt.references for prompt in load_prompts(tmp_path / "a.jsonl")]
    assert references == [("Hello",), (), ("Hello",), ("Hello",), ()]


def test_alpaca_joins_instruction_and_input_and_keeps_its_history(tmp_path):
    row = {
        "instruction": "Translate",
        "input": "Hund",
        "output": "dog",
        "system": "Be brief",
        "history": [["a", "b"]],
    }
    as_jsonl(tmp_path / "a.jsonl", [row])
    (prompt,) = load_prompts(tmp_path / "a.jsonl")
    assert prompt.messages == (
        Message("system", "Be brief"),
        Message("user", "a"),
        Message("assistant", "b"),
        Message("user", "Translate\n\nHund"),
    )
    assert prompt.references == ("dog",)


@pytest.mark.parametrize(("label", "references"), [(True, ("Hello",)), (False, ())])
def test_a_completion_that_kto_marks_as_bad_is_no_reference(tmp_path, label, references):
    as_jsonl(tmp_path / "a.jsonl", [{"prompt": "Hi", "completion": "Hello", "label": label}])
    assert load_prompts(tmp_path / "a.jsonl")[0].references == references


def test_what_was_rejected_is_kept_in_the_meta_and_an_answer_too(tmp_path):
    as_jsonl(tmp_path / "a.jsonl", [PREFERENCE, {"question": "1+1", "answer": 2}])
    preferred, asked = load_prompts(tmp_path / "a.jsonl")
    assert preferred.meta == {"rejected": "Go away"}
    assert (asked.references, asked.meta) == (("2",), {"answer": 2})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": 3, "output": "a"}, "instruction: 3 is a number, expected a text"),
        ({"instruction": "a", "history": ["b"]}, 'history[0]: "b", expected a question and its answer'),
        ({"conversations": "a"}, 'conversations: "a", expected a list such as'),
        (
            {"conversations": [{"from": "bot", "value": "a"}]},
            'conversations[0].from: "bot", expected one of system',
        ),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "conversations: holds an assistant turn only"),
        ({"question": "a", "answer": "b", "solution": "c"}, "solution: answer is given too"),
        ({"question": "a", "answer": "b", "solution": "c"}, "remove the other, or name one with reference_key"),
        ({"prompt": "a", "references": "b"}, 'expected a list of texts; write ["b"], or name the key reference'),
        ({"question": "a", "answers": ["b", {}]}, "answers[1]: {} is an object, expected a text"),
        ({"instrution": "a", "output": "b"}, '"instrution": did you mean instruction?'),
        (
            {"prompt": TURNS[:1], "completion": [{"role": "user"}]},
            'completion[0]: {"role": "user"}, expected',
        ),
    ],
)
def test_a_bad_row_of_another_form_names_its_key(tmp_path, row, message):
    as_jsonl(tmp_path / "a.jsonl", [FORMS["own"], row])
    with pytest.raises(DataError) as caught:
        load_prompts(tmp_path / "a.jsonl")
    assert f"{tmp_path / 'a.jsonl'}:2: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'[\n {"prompt": "a"},\n {"prompt": 3}\n]', "a.json:3: prompt: 3 is a number"),
        (
            "a.json",
            b'[\n {"prompt": "a"},\n {"prompt" "b"}\n]',
            "a.json:3: not JSON: Expecting ':' delimiter",
        ),
        ("a.json", b'[{"prompt": "a"}', "a.json:1: not JSON: the list is not closed"),
        ("a.json", b'{\n "prompt": "a",\n "prompt": "b"\n}', "not JSON: the key 'prompt' stands twice"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.csv", b"prompt\n\xff\n", "a.csv: not a readable table"),
        ("a.csv", b"prompt,reference\na\n", "a.csv: not a readable table"),
        ("a.csv", b"prompt,prompt\na,b\n", "a.csv:1: the column 'prompt' stands twice"),
        ("a.parquet", b"PAR1 and no more", "a.parquet: not a readable Parquet file"),
    ],
)
def test_a_broken_file_gives_one_message_with_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_prompts(tmp_path / name)
    assert message in str(caught.value)


def test_a_name_of_the_hub_that_cannot_be_had_is_one_message(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def fail(*_):
        raise ConnectionError("no network\nwith much behind it")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as caught:
        read_splits("nobody/nothing")
    assert str(caught.value).startswith("nobody/nothing: neither a file or folder here nor a data set that the hub")
    assert "much" not in str(caught.value)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(str.strip)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), TEXTS, st.lists(TEXTS, max_size=2))
KEYS = st.sampled_from(
    [*formats.KNOWN_KEYS, "instruction", "input", "output", "question", "answer", "conversations", "topic"]
)


@given(st.lists(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4), min_size=1, max_size=3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_row_is_a_prompt_in_its_form_or_one_error(tmp_path, rows):
    """The list of objects and the lines of them read alike, and no text of a row is lost or made up."""
    as_jsonl(tmp_path / "a.jsonl", rows)
    as_array(tmp_path / "b.json", rows)
    try:
        prompts = load_prompts(tmp_path / "a.jsonl")
    except DataError as error:
        with pytest.raises(DataError) as other:
            load_prompts(tmp_path / "b.json")
        assert str(error).count("\n") == str(other.value).count("\n")
        return
    again = prompts_of(read_rows(tmp_path / "b.json"), "b", "a").prompts
    assert [(one.messages, one.references, one.meta) for one in prompts] == [
        (one.messages, one.references, one.meta) for one in again
    ]
    for row, prompt in zip(rows, prompts, strict=True):
        texts = json.dumps(row, ensure_ascii=False)
        for said in (*(turn.content for turn in prompt.messages), *prompt.references):
            assert all(json.dumps(part, ensure_ascii=False)[1:-1] in texts for part in said.split("\n\n"))


@given(st.sampled_from(sorted(FORMS)), TEXTS, TEXTS)
def test_a_form_is_recognised_whatever_its_texts(name, question, answer):
    text = json.dumps(FORMS[name]).replace('"Hi"', json.dumps(question)).replace('"Hello"', json.dumps(answer))
    row = json.loads(text)
    assert form_of(row) is form_of(FORMS[name])
    asked = form_of(row).read(row, formats.NO_KEYS)
    assert next(turn for turn in asked.turns if turn.role == "user").content == question
    assert answer in (*asked.references, *(turn.content for turn in asked.turns))
