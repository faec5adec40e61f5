"""Decodes one line of JSON and words what is wrong with it: the key, its value, what was expected and the fix."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from polychromic.errors import DataError
from polychromic.files import parse_json

MAX_LINE_BYTES = 16 * 2**20
_LISTED = 20
_KINDS = {str: "a text", bool: "true or false", list: "a list", dict: "an object", int: "a number", float: "a number"}


class BadLineError(ValueError):
    """A line that cannot be used; says the key, its value, what was expected and the fix."""


def any_text(value: Any) -> str:
    """Returns a text as a model may have made it; raises BadLineError for another type and what UTF-8 cannot carry."""
    if not isinstance(value, str):
        fix = "; leave the key out" if value is None else "; put it in quotes" if isinstance(value, int | float) else ""
        raise BadLineError(f"{shown(value)} is {kind(value)}, expected a text{fix}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadLineError(
            f"holds half a surrogate pair at position {error.start + 1}, which is no text; remove it"
        ) from error
    return value


def filled_text(value: Any) -> str:
    """Returns a text that says something; raises BadLineError for an empty one and for NUL characters."""
    text = any_text(value)
    if "\0" in text:
        raise BadLineError(f"holds a NUL character at position {text.index(chr(0)) + 1}; remove it")
    if not text.strip():
        raise BadLineError("is empty, expected a text; fill it in or remove it")
    return text


def identifier(value: Any) -> str:
    """Returns a prompt's id, a text or a whole number, as text; raises BadLineError for anything else."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_number else filled_text(value)


def read_content(path: Path) -> bytes:
    """Reads a file without the mark that some editors put before UTF-8; raises DataError where it cannot be read."""
    try:
        # A pipe would hang, and a device never end.
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is not a file, expected JSON lines; check the path")
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def filled_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines of a file that hold something, with their numbers; raises DataError where it cannot be read."""
    for number, line in enumerate(read_content(path).split(b"\n"), start=1):
        if line.strip():
            yield number, line


def listing(place: str, problems: Sequence[str]) -> str:
    """Words the error for bad lines: how many there are in `place`, then the first of them."""
    count = "1 bad line" if len(problems) == 1 else f"{len(problems)} bad lines"
    more = [f"... and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
    return "\n".join([f"{place}: {count}, nothing was loaded", *problems[:_LISTED], *more])


def decode_object(line: bytes) -> Mapping[str, Any]:
    """Reads the JSON object of a line; raises BadLineError that says what the line is instead."""
    if len(line) > MAX_LINE_BYTES:
        raise BadLineError(
            f"the line has {len(line)} bytes, expected at most {MAX_LINE_BYTES}; write one object per line"
        )
    try:
        row = parse_json(decode_utf8(line))
    except json.JSONDecodeError as error:
        raise BadLineError(
            f"not JSON: {error.msg} at character {error.pos + 1}; expected one JSON object per line"
        ) from error
    except RecursionError as error:
        raise BadLineError("nested too deeply; expected one flat JSON object a line") from error
    except ValueError as error:  # a key that stands twice, a number that JSON does not know or that is too long
        if isinstance(error, BadLineError):
            raise
        raise BadLineError(f"not JSON: {error}") from error
    return require_object(row)


def decode_utf8(content: bytes) -> str:
    """Decodes UTF-8; raises BadLineError that names the first byte that is none."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadLineError(
            f"byte {error.start + 1} (0x{content[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from error


def require_object(row: Any) -> Mapping[str, Any]:
    """Returns a row that is an object; raises BadLineError that says what it is instead."""
    if not isinstance(row, dict):
        raise BadLineError(f'{shown(row)} is {kind(row)}, expected an object such as {{"prompt": "Hi"}}')
    return row


def one_key(row: Mapping[str, Any], keys: Sequence[str], other_mend: str = "") -> str | None:
    """Returns the one of the keys that the line uses, if any; two are refused, since one would have to be ignored.
    `other_mend` is what can be done beside removing one."""
    used = [key for key in keys if key in row]
    if len(used) > 1:
        raise BadLineError(
            f"{used[1]}: {used[0]} is given too, expected one of {', '.join(keys)}; remove the other{other_mend}"
        )
    return used[0] if used else None


def value_of(key: str, value: Any, read: Callable[[Any], str]) -> str:
    """Reads one value by `any_text`, `filled_text` or `identifier`; raises BadLineError that names its key."""
    try:
        return read(value)
    except BadLineError as error:
        raise BadLineError(f"{key}: {error}") from error


def shown(value: Any) -> str:
    """Writes a value for a message: JSON, cut to 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def kind(value: Any) -> str:
    """Names the type of a JSON value."""
    return "null" if value is None else _KINDS.get(type(value), f"a {type(value).__name__}")


def hint(keys: Sequence[str] | Mapping[str, Any], wanted: Sequence[str], known: Sequence[str]) -> str:
    """Returns `; did you mean …?` where one of the line's own keys, none of the `known`, looks like a `wanted` one."""
    for key in keys:
        close = difflib.get_close_matches(key.lower(), wanted, n=1, cutoff=0.85)
        if key not in known and close:
            return f"; {shown(key)}: did you mean {close[0]}?"
    return ""
