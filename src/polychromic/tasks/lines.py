"""One JSON line as a prompt.

A line is an object with
  `prompt` (a text) or `messages` (a list of {"role", "content"}, ending with the turn to be answered);
  optionally `references` (a list of texts), or one `reference` or `completion`; a last assistant turn in
  `messages` is a reference too;
  optionally `id` or `task_id` (unique in the file) and `meta` (an object). Other keys are kept in the meta.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from polychromic.files import parse_json
from polychromic.records import Message, Prompt, as_messages

MAX_LINE_BYTES = 16 * 2**20

_ID_KEYS = ("id", "task_id")
_QUESTION_KEYS = ("prompt", "messages")
_REFERENCE_KEYS = ("references", "reference", "completion")
_KNOWN_KEYS = (*_ID_KEYS, *_QUESTION_KEYS, *_REFERENCE_KEYS, "meta")
_ROLES = ("system", "developer", "user", "assistant", "tool")
_KINDS = {
    str: "a text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


class BadLineError(ValueError):
    """What is wrong with one line: the key, what was found, what was expected and the mend."""


def parse_line(line: bytes, default_id: str) -> Prompt:
    """The prompt a line describes; `default_id` is used where it names none. Raises BadLineError."""
    row = decode_object(line)
    messages, answer = _question(row)
    references = _references(row)
    if answer is not None:
        if references:
            raise BadLineError(
                "messages: ends with an assistant turn while references are given too; keep one of the two"
            )
        references = (answer,)
    return Prompt(_identifier(row, default_id), messages, references, _meta(row))


def shown(value: Any) -> str:
    """A value as it stands in messages: JSON, cut to 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def decode_object(line: bytes) -> Mapping[str, Any]:
    """The JSON object of a line; raises BadLineError that says what the line is instead."""
    if len(line) > MAX_LINE_BYTES:
        raise BadLineError(
            f"the line has {len(line)} bytes, expected at most {MAX_LINE_BYTES}; write one object a line"
        )
    try:
        row = parse_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadLineError(
            f"byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise BadLineError(
            f"not JSON: {error.msg} at character {error.pos + 1}; expected one JSON object a line"
        ) from error
    except RecursionError as error:
        raise BadLineError("nested too deeply; expected one flat JSON object a line") from error
    except (
        ValueError
    ) as error:  # a key that stands twice, a number that JSON does not know or that is too long
        raise BadLineError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadLineError(f'{shown(row)} is {kind(row)}, expected an object such as {{"prompt": "Hi"}}')
    return row


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    return "null" if value is None else _KINDS[type(value)]


def one_key(row: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """Which of the keys the line uses. Raises BadLineError for two of them: one would have to be ignored."""
    found = [key for key in keys if key in row]
    if len(found) > 1:
        raise BadLineError(
            f"{found[1]}: {found[0]} is given too, expected one of {', '.join(keys)}; remove the other"
        )
    return found[0] if found else None


def _text(value: Any, key: str) -> str:
    text = any_text(value, key)
    if "\0" in text:
        raise BadLineError(f"{key}: holds a NUL character at position {text.index(chr(0)) + 1}; remove it")
    if not text.strip():
        raise BadLineError(f"{key}: is empty, expected a text; fill it in or remove it")
    return text


def any_text(value: Any, key: str) -> str:
    """A text as a model may have made it, empty or with control characters; raises BadLineError for another type and
    for what UTF-8 cannot carry."""
    if not isinstance(value, str):
        raise BadLineError(f"{key}: {shown(value)} is {kind(value)}, expected a text; put it in quotes")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadLineError(
            f"{key}: holds half a surrogate pair at position {error.start + 1}, which is no text; remove it"
        ) from error
    return value


def _question(row: Mapping[str, Any]) -> tuple[tuple[Message, ...], str | None]:
    """The turns to answer, and the last turn's text where it is the assistant's: an answer already."""
    key = one_key(row, _QUESTION_KEYS)
    if key is None:
        raise BadLineError(
            f"prompt: is missing, expected a text, or a list of messages{hint(row, _QUESTION_KEYS)}"
        )
    if key == "prompt":
        if isinstance(row[key], list):
            raise BadLineError("prompt: is a list, expected a text; a list of turns is written as messages")
        return as_messages(_text(row[key], key)), None
    messages = _messages(row[key])
    if messages[-1].role in ("user", "tool"):
        return messages, None
    if messages[-1].role != "assistant":
        raise BadLineError(
            f"messages: ends with a {messages[-1].role} turn, expected the turn to be answered last"
        )
    if len(messages) == 1:
        raise BadLineError("messages: holds an assistant turn only, expected the turn it answers before it")
    return messages[:-1], messages[-1].content


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise BadLineError(
            f'messages: {shown(value)}, expected a list such as [{{"role": "user", "content": "Hi"}}]'
        )
    return tuple(_message(turn, f"messages[{index}]") for index, turn in enumerate(value))


def _message(turn: Any, place: str) -> Message:
    if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
        raise BadLineError(
            f"{place}: {shown(turn)}, expected an object with role and content and nothing else"
        )
    if turn["role"] not in _ROLES:
        raise BadLineError(f"{place}.role: {shown(turn['role'])}, expected one of {', '.join(_ROLES)}")
    return Message(turn["role"], _text(turn["content"], f"{place}.content"))


def _references(row: Mapping[str, Any]) -> tuple[str, ...]:
    key = one_key(row, _REFERENCE_KEYS)
    if key is None:
        return ()
    if key != "references":
        return (_text(row[key], key),)
    if not isinstance(row[key], list):
        raise BadLineError(f"references: {shown(row[key])} is {kind(row[key])}, expected a list of texts")
    return tuple(_text(text, f"references[{index}]") for index, text in enumerate(row[key]))


def _identifier(row: Mapping[str, Any], default_id: str) -> str:
    key = one_key(row, _ID_KEYS)
    return default_id if key is None else identifier(row[key], key)


def identifier(value: Any, key: str) -> str:
    """A prompt's id: a text, or a whole number; raises BadLineError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value, key)


def _meta(row: Mapping[str, Any]) -> dict[str, Any]:
    meta = row.get("meta", {})
    if not isinstance(meta, dict):
        raise BadLineError(f"meta: {shown(meta)} is {kind(meta)}, expected an object")
    others = {key: value for key, value in row.items() if key not in _KNOWN_KEYS}
    for key in others:
        if key in meta:
            raise BadLineError(f"{key}: stands in the line and in its meta; remove one of them")
        if close := hint([key], _KNOWN_KEYS):
            raise BadLineError(f"{key}: is not a known key{close}; rename it, or put it under meta")
    return {**meta, **others}


def hint(keys: Sequence[str] | Mapping[str, Any], known: Sequence[str]) -> str:
    """`; did you mean ...?` where one of the line's own keys looks like a misspelt known one."""
    for key in keys:
        close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.85)
        if key not in _KNOWN_KEYS and close:
            return f"; {shown(key)}: did you mean {close[0]}?"
    return ""
