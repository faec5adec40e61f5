"""Reads the rows of a file: JSON lines, a JSON document, CSV, Parquet, or a folder that `datasets` saved.

Tables and folders are read by `pyarrow` and `datasets`. JSON is read by Python's own reader: Arrow makes columns of it,
in which a missing key becomes null, the `meta` of one row gets the keys of all others, and the ids 7 and "x" cannot
stand in one file.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polychromic.errors import DataError
from polychromic.files import parse_json
from polychromic.tasks.data import lines
from polychromic.tasks.data.lines import (
    BadLineError,
    decode_object,
    decode_utf8,
    filled_lines,
    read_content,
    require_object,
)

Splits = Mapping[str, "list[Row]"]
"""Rows by the split that the data names them with; one split called "" where it names none."""

_LINE_SUFFIXES = (".jsonl", ".ndjson")
_TABLE_SUFFIXES = (".csv", ".tsv")
_PARQUET = b"PAR1"
_PACKED = {
    b"\x1f\x8b": "is packed by gzip; unpack it with gunzip",
    b"\x28\xb5\x2f\xfd": "is packed by zstd; unpack it with unzstd",
    b"PK\x03\x04": "is a zip archive or an Excel sheet; unpack it, or save the sheet as CSV",
}
"""Files that begin so are none of text, with what is to be done about them."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", re.ASCII)
_HUB_SECONDS = 3.0
_SPACE = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: where it stands, for messages (`mine.jsonl:7`), its number from 1 on, and what it holds.

    `content` is the row's object, or the error that says why it has none.
    """

    place: str
    number: int
    content: Mapping[str, Any] | BadLineError


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of a file or of a folder that holds one split. Raises DataError where it cannot be read at all."""
    splits = read_splits(path)
    if len(splits) > 1:
        raise DataError(f"{path}: holds the splits {', '.join(splits)}; name one of them, {path / next(iter(splits))}")
    return next(iter(splits.values()))


def read_splits(source: Path | str) -> Splits:
    """Reads the rows of a file, of a folder that `save_to_disk` wrote, or (a text `owner/name`, or `owner/name:config`)
    of a data set of the hub. Raises DataError where it cannot be read at all."""
    path, is_there, is_folder = Path(source), False, False
    with suppress(OSError):  # a name too long for any file: who reads it says so
        is_there, is_folder = path.exists(), path.is_dir()
    if isinstance(source, str) and not is_there and _HUB_NAME.fullmatch(source):
        return _from_hub(source)
    if is_folder:
        return _from_folder(path)
    suffix = path.suffix.lower()
    for mark, problem in _PACKED.items():
        if is_there and path.is_file() and _begins_with(path, mark):
            raise DataError(f"{path}: {problem}")
    if suffix in _TABLE_SUFFIXES:
        return {"": _from_table(path, suffix)}
    if suffix == ".parquet" or (is_there and path.is_file() and _begins_with(path, _PARQUET)):
        return {"": _from_parquet(path)}
    return {"": list(_from_json(path))}


def _begins_with(path: Path, mark: bytes) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(mark)) == mark
    except OSError:
        return False  # the reader says why


def _from_json(path: Path) -> Iterator[Row]:
    """Reads JSON lines, or a document: a list of objects, an object that holds one, or indented objects in a row."""
    filled = filled_lines(path)
    first = next(filled, None)
    if first is None:
        return
    if path.suffix.lower() not in _LINE_SUFFIXES or not _is_object(first[1]):
        document = _document(path, is_lines=path.suffix.lower() in _LINE_SUFFIXES)
        if document is not None:
            yield from document
            return
    for number, line in (first, *filled):
        yield Row(f"{path}:{number}", number, _content(lambda line=line: decode_object(line)))


def _is_object(line: bytes) -> bool:
    return not isinstance(_content(lambda: decode_object(line)), BadLineError)


def _content(read: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | BadLineError:
    try:
        return read()
    except BadLineError as error:
        return error


def _document(path: Path, *, is_lines: bool) -> list[Row] | None:
    """Reads a file as one JSON document, with the line that each object begins at. None where it is JSON lines.

    Raises DataError, with the line, for a document that is broken. A file whose name says that it has lines, and whose
    first line has no object, is a document only where all of it is one.
    """
    try:
        text = decode_utf8(read_content(path))
        values = list(_values(text))
        if len(values) == 1 and isinstance(values[0][1], dict) and (inner := _inner_list(values[0][1])) is not None:
            return [_row(f"{path}: {name} {n}", n, item) for name, many in [inner] for n, item in enumerate(many, 1)]
    except (ValueError, RecursionError) as error:
        if is_lines or _is_object(next(filled_lines(path))[1]):
            return None
        raise DataError(_document_problem(path, error)) from error
    if is_lines and not any(isinstance(value, dict) for _, value in values):
        return None
    # Several rows may stand on one line, so that a line does not number them.
    return [_row(f"{path}:{line}", number, value) for number, (line, value) in enumerate(values, start=1)]


def _values(text: str) -> Iterator[tuple[int, Any]]:
    """Yields the values of a list, or of values in a row, each with the line that it begins at."""
    start = _SPACE.match(text).end()  # type: ignore[union-attr] - it matches nothing too
    is_list = text[start : start + 1] == "["
    place, line, counted = start + is_list, 1, 0
    while (place := _SPACE.match(text, place).end()) < len(text) and text[place] != "]":  # type: ignore[union-attr]
        line, counted = line + text.count("\n", counted, place), place
        # Only to learn where the value ends: the strict reader refuses what this one lets pass.
        _, end = json.JSONDecoder().raw_decode(text, place)
        yield line, _strict_value(text[place:end])
        place = end
    if is_list and text[place : place + 1] != "]":
        raise json.JSONDecodeError("the list is not closed with ]", text, len(text))
    if text[place + is_list :].strip():
        raise json.JSONDecodeError("more stands behind the end", text, place + is_list)


def _strict_value(text: str) -> Any:
    """Returns the value of a text that is JSON, or the error that says what stricter reading refuses in it."""
    if len(text) > lines.MAX_LINE_BYTES:
        return BadLineError(f"the object has {len(text)} characters, expected at most {lines.MAX_LINE_BYTES}; cut it")
    try:
        return parse_json(text)
    except ValueError as error:  # a key that stands twice, a number that JSON does not know or that is too long
        return BadLineError(f"not JSON: {error}")


def _inner_list(document: Mapping[str, Any]) -> tuple[str, list[Any]] | None:
    """Returns the one list of objects in a document such as {"version": 1, "data": [...]}, with its key."""
    lists = [
        (key, value)
        for key, value in document.items()
        if isinstance(value, list) and value and all(isinstance(item, dict) and "role" not in item for item in value)
    ]
    return lists[0] if len(lists) == 1 and not any("from" in item for item in lists[0][1]) else None


def _row(place: str, number: int, value: Any) -> Row:
    if isinstance(value, BadLineError):
        return Row(place, number, value)
    return Row(place, number, _content(lambda: require_object(value)))


def _document_problem(path: Path, error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return (
            f"{path}:{error.lineno}: not JSON: {error.msg} at character {error.colno}; expected one JSON object "
            "per line, or a list of objects"
        )
    if isinstance(error, RecursionError):
        return f"{path}:1: nested too deeply; expected one flat JSON object a line"
    return f"{path}:1: {'' if isinstance(error, BadLineError) else 'not JSON: '}{error}"


def _from_table(path: Path, suffix: str) -> list[Row]:
    """Reads CSV or values set apart by tabs or semicolons, every cell as text; an empty cell is a key left out."""
    import pyarrow as pa
    from pyarrow import csv

    content = read_content(path)
    head = content.split(b"\n", 1)[0]
    delimiter = "\t" if suffix == ".tsv" else ";" if b"," not in head and b";" in head else ","
    parse = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    blocks = csv.ReadOptions(block_size=min(max(len(content) + 1, 2**20), 2**31 - 1))  # no row is longer than a block
    try:
        with csv.open_csv(pa.BufferReader(content), blocks, parse) as reader:
            names = reader.schema.names
        convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        table = csv.read_csv(pa.BufferReader(content), blocks, parse, convert)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{path}: not a readable table: {error}; expected a line of column names, then as many cells in each row, "
            "in UTF-8, texts with commas or line breaks in quotes"
        ) from error
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}:1: the column {twice[0]!r} stands twice; rename one of them")
    rows = table.to_pylist()
    return [
        Row(f"{path}: row {number}", number, {key: cell for key, cell in row.items() if cell.strip()})
        for number, row in enumerate(rows, start=1)
    ]


def _from_parquet(path: Path) -> list[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    read_content(path)  # its error is the one for people
    try:
        table = parquet.read_table(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}; write it again") from error
    return _arrow_rows(str(path), table.to_pylist())


def _from_folder(path: Path) -> Splits:
    if not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise DataError(
            f"{path}: is not a file, expected JSON lines, nor a folder that `save_to_disk` of the datasets library "
            "wrote; check the path"
        )
    import datasets

    datasets.disable_progress_bars()
    try:
        dataset = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as a data set ({error}); save it again") from error
    return _by_split(str(path), dataset)


def _from_hub(name: str) -> Splits:
    if not _hub_answers():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # what was loaded before is found at once, the rest said at once
    import datasets

    datasets.disable_progress_bars()
    hub_id, _, config = name.partition(":")
    try:
        dataset = datasets.load_dataset(hub_id, config or None)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{name}: neither a file or folder here nor a data set that the hub gives: {reason:.300}; check the path, "
            "the name (owner/name, or owner/name:config) and the network"
        ) from error
    return _by_split(name, dataset)


def _hub_answers() -> bool:
    """Returns False where the hub cannot be reached: the library would try for half a minute. Behind a proxy nobody
    knows."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HF_ENDPOINT")):
        return True
    try:
        with socket.create_connection(("huggingface.co", 443), timeout=_HUB_SECONDS):
            return True
    except OSError:
        return False


def _by_split(place: str, dataset: Any) -> Splits:
    splits = dataset if isinstance(dataset, dict) else {"": dataset}
    return {
        split: _arrow_rows(f"{place}/{split}" if split else place, data.to_list()) for split, data in splits.items()
    }


def _arrow_rows(place: str, rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    return [Row(f"{place}: row {number}", number, _plain(row)) for number, row in enumerate(rows, start=1)]


def _plain(value: Any) -> Any:
    """Returns a value of a table as JSON has it: keys without a value left out, texts that some writers mark as bytes,
    dates and the like as text."""
    if isinstance(value, Mapping):
        return {str(key): plain for key, item in value.items() if (plain := _plain(item)) is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            return value.decode("utf-8")
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
