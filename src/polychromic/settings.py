"""Defines the base of every section of an experiment file: immutable, and no unknown key is ever ignored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator

_LARGEST = 2**64  # seeds are the largest numbers that anything here takes


class Settings(BaseModel):
    """A section whose keys are all known and whose values are checked when the file is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _yes_is_no_number(cls, content: Any) -> Any:
        """Refuses true for a number: pydantic takes true for 1, YAML yes and on for true, and no arithmetic holds a
        whole number of 401 digits, which both take: as words they are refused with their key."""
        if not isinstance(content, Mapping):
            return content
        numbers = {
            key
            for key, field in cls.model_fields.items()
            if bool not in (kinds := set(_leaves(field.annotation))) and kinds & {int, float}
        }
        return {key: _in_words(value) if key in numbers else value for key, value in content.items()}


class Sections(Settings):
    """A whole file: a section that states nothing, as where all its keys are comments, is one that is left out."""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_left_out(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        return {key: value for key, value in content.items() if value is not None or key not in cls.model_fields}


def _leaves(annotation: Any) -> Iterator[Any]:
    """Yields the types that an annotation is made of, such as int and None of `list[int] | None`."""
    parts = get_args(annotation)
    if not parts:
        yield annotation
    for part in parts:
        yield from _leaves(part)


def _in_words(value: Any) -> Any:
    """Turns true, false and numbers beyond any use into texts, in lists and mappings too."""
    if isinstance(value, Mapping):
        return {key: _in_words(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_words(item) for item in value]
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"a number of {len(str(abs(value)))} digits"
    return str(value).lower() if isinstance(value, bool) else value
