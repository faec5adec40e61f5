"""Turns validation errors into messages for people: the key, what was expected, and the nearest key that exists."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from polychromic.errors import ConfigError

_ROOT_PREFIX = "Value error, "


def config_error(error: ValidationError, model: type[BaseModel], source: str) -> ConfigError:
    """All problems of a file (or of what `source` names) in one error."""
    problems = describe_problems(error, model)
    listed = "\n".join(f"  {problem}" for problem in problems)
    return ConfigError(f"{source}: {len(problems)} problem{'s' * (len(problems) > 1)}\n{listed}")


def describe_problems(error: ValidationError, model: type[BaseModel], *, prefix: str = "") -> list[str]:
    """One line a problem, such as `training.stepz: unknown key; did you mean steps?`."""
    lines = []
    for problem in error.errors(include_url=False):
        location = [part for part in problem["loc"] if isinstance(part, (str, int))]
        key = ".".join([prefix, *map(str, location)] if prefix else map(str, location))
        lines.append(
            f"{key}: {_explain(problem, model, location)}" if key else _explain(problem, model, location)
        )
    return lines


def _explain(problem: Any, model: type[BaseModel], location: Sequence[str | int]) -> str:
    kind, message, value = problem["type"], problem["msg"], problem.get("input")
    if kind == "extra_forbidden":
        return f"unknown key{_suggest(str(location[-1]), _known_keys(model, location[:-1]))}"
    if kind == "missing":
        return "missing; this key is required"
    if kind == "union_tag_invalid":
        return f"unknown task {problem['ctx']['tag']!r}, expected one of {problem['ctx']['expected_tags']}"
    if kind == "union_tag_not_found":
        return "missing key `name`, expected arithmetic, replies or custom"
    if kind == "value_error":
        return message.removeprefix(_ROOT_PREFIX)
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{message[0].lower()}{message[1:]}, got {shown}"


def _suggest(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; expected one of {', '.join(known)}" if known else ""


def _known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Keys of the section at `location`, found by walking the field types."""
    sections: list[type[BaseModel]] = [model]
    for part in location:
        fields = [section.model_fields[part] for section in sections if part in section.model_fields]
        # A discriminated union's tag (the task's name) stands in the location but is no field: stay where we are.
        if fields:
            sections = [found for field in fields for found in _models_in(field.annotation)]
    return sorted({name for section in sections for name in section.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
