"""Reads prompts: every row of a file in whatever form it has, and one error for all bad rows together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polychromic.errors import DataError
from polychromic.records import Message, Prompt
from polychromic.tasks.data.formats import ID_KEYS, KNOWN_KEYS, NO_KEYS, OWN, Form, Keys, Question, form_of
from polychromic.tasks.data.lines import BadLineError, hint, identifier, listing, one_key, shown, value_of
from polychromic.tasks.data.rows import Row, read_rows


@dataclass(frozen=True, slots=True)
class ReadPrompts:
    """The prompts of a file, in its order, and how many rows had which form."""

    prompts: list[Prompt]
    forms: Mapping[str, int]


def load_prompts(path: Path, keys: Keys = NO_KEYS) -> list[Prompt]:
    """Reads all prompts of a file: JSON lines, JSON, CSV, Parquet, or a folder that `datasets` saved.

    The keys are those of a form that `formats` knows, or those that `keys` names. A row without an id gets the file's
    stem and its number, such as `train-00007`. Raises DataError for a file that is missing or empty, and one DataError
    for all bad rows together.
    """
    return prompts_of(read_rows(path), str(path), path.stem, keys).prompts


def prompts_of(rows: Sequence[Row], place: str, stem: str, keys: Keys = NO_KEYS) -> ReadPrompts:
    """Reads the prompts of rows; `place` names their file in messages, and `stem` begins the ids of rows without
    one."""
    prompts: list[Prompt] = []
    problems: list[str] = []
    row_of_id: dict[str, Row] = {}
    forms: Counter[str] = Counter()
    for row in rows:
        try:
            if isinstance(row.content, BadLineError):
                raise row.content
            form = form_of(row.content, keys)
            prompt = parse_row(row.content, f"{stem}-{row.number:05d}", form, keys)
            first = row_of_id.setdefault(prompt.id, row)
            if first is not row:
                where = first.place.rpartition(":")[2].strip()
                line = f"line {where}" if where.isdigit() else where
                raise BadLineError(f"id: {shown(prompt.id)} is the id of {line}, expected unique ids; rename one")
            prompts.append(prompt)
            forms[form.name] += 1
        except BadLineError as error:
            problems.append(f"{row.place}: {error}")
    if problems:
        raise DataError(listing(place, problems))
    if not prompts:
        raise DataError(f'{place}: holds no prompts; expected one JSON object per line, such as {{"prompt": "Hi"}}')
    return ReadPrompts(prompts, forms)


def parse_row(row: Mapping[str, Any], default_id: str, form: Form, keys: Keys = NO_KEYS) -> Prompt:
    """Reads the prompt of a row; `default_id` is used where it names none. Raises BadLineError."""
    identifier_key = one_key(row, ID_KEYS)
    question = form.read(row, keys)
    turns, references = _without_answer(question, "conversations" if "conversations" in row else "messages")
    prompt_id = default_id if identifier_key is None else value_of(identifier_key, row[identifier_key], identifier)
    return Prompt(prompt_id, turns, references, _joined_meta(question, is_own=form is OWN))


def _without_answer(question: Question, key: str) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Takes a last assistant turn off the turns: it is the reference."""
    turns, references = list(question.turns), question.references
    if turns[-1].role == "assistant":
        if len(turns) == 1:
            raise BadLineError(f"{key}: holds an assistant turn only, expected the turn it answers before it")
        if references:
            raise BadLineError(
                f"{key}: ends with an assistant turn while references are given too; keep one of the two"
            )
        references = (turns.pop().content,)
    if turns[-1].role not in ("user", "tool"):
        raise BadLineError(f"{key}: ends with a {turns[-1].role} turn, expected the turn to be answered last")
    return tuple(turns), references


def _joined_meta(question: Question, *, is_own: bool) -> dict[str, Any]:
    """Adds the keys that the form does not know to the row's meta; refuses misspelt and repeated ones."""
    for key in question.others:
        if key in question.meta:
            raise BadLineError(f"{key}: stands in the line and in its meta; remove one of them")
        if is_own and (close := hint([key], KNOWN_KEYS, KNOWN_KEYS)):
            raise BadLineError(f"{key}: is not a known key{close}; rename it, or put it under meta")
    return {**question.meta, **question.others}
