"""Reads conversations and answers as foreign files write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from polychromic.records import Message
from polychromic.tasks.data.lines import BadLineError, filled_text, shown, value_of

Role = Literal["system", "developer", "user", "assistant", "tool"]
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "observation": "tool"}


def turns_of(key: str, value: Any) -> list[Message]:
    """Reads turns of OpenAI (role, content) or of ShareGPT (from, value)."""
    if not isinstance(value, list) or not value:
        raise BadLineError(f'{key}: {shown(value)}, expected a list such as [{{"role": "user", "content": "Hi"}}]')
    return [_turn(f"{key}[{number}]", turn) for number, turn in enumerate(value)]


def _turn(place: str, turn: Any) -> Message:
    names = ("role", "content") if isinstance(turn, dict) and "role" in turn else ("from", "value")
    if not isinstance(turn, dict) or not set(names) <= set(turn):
        raise BadLineError(f"{place}: {shown(turn)}, expected an object with role and content (or from and value)")
    speaker, content = turn[names[0]], turn[names[1]]
    role = _SHAREGPT_ROLES.get(speaker, speaker) if isinstance(speaker, str) else speaker
    if role not in get_args(Role):
        roles = [*get_args(Role), *(() if names[0] == "role" else _SHAREGPT_ROLES)]
        raise BadLineError(f"{place}.{names[0]}: {shown(speaker)}, expected one of {', '.join(roles)}")
    if isinstance(content, list):
        content = _joined_parts(f"{place}.{names[1]}", content)
    return Message(role, value_of(f"{place}.{names[1]}", content, filled_text))


def _joined_parts(place: str, parts: Sequence[Any]) -> str:
    for number, part in enumerate(parts):
        if not (isinstance(part, dict) and part.get("type") == "text"):
            raise BadLineError(f"{place}[{number}]: {shown(part)}, expected a part of text: other kinds are not learnt")
    return "\n".join(value_of(f"{place}[{n}].text", part.get("text"), filled_text) for n, part in enumerate(parts))


def answers_of(key: str, value: Any) -> tuple[str, ...]:
    """Reads one answer or several: a text, a number, a list of these, turns that end with it, or SQuAD's texts."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = value["text"]
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = turns_of(key, value)[-1].content
    values = value if isinstance(value, list) else [value]
    places = [f"{key}[{number}]" for number in range(len(values))] if isinstance(value, list) else [key]
    texts = [_answer(place, item) for place, item in zip(places, values, strict=True)]
    return tuple(dict.fromkeys(texts))


def _answer(place: str, value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value_of(place, value, filled_text)
