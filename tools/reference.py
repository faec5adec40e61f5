"""Write docs/reference.md: every key of an experiment file, from the classes that check it.

    python tools/reference.py           writes the page
    python tools/reference.py --check   fails where the page is not what the classes say

A test makes the same check, so the page cannot fall behind.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from polychromic.experiment.config import Experiment
from polychromic.sampling.base import SAMPLERS
from polychromic.tasks.base import TASKS
from polychromic.tasks.settings import ImportedSettings

PAGE = Path(__file__).parent.parent / "docs" / "reference.md"
HEAD = """\
# Every key of an experiment file

Written by `python tools/reference.py` from the classes that check the file; a test keeps it current. Every key can be
changed on the command line (`polychromic run mine.yaml training.steps=20 evaluation.sampling.0.temperature=0.7`), and
an arm may change every key of `model`, `training` and `diversity`. A key that is not listed is refused, with the
nearest one that is.
"""


def page() -> str:
    """Returns the text of the page."""
    sections = [HEAD, *_section("The file", "", Experiment)]
    for name, settings in TASKS.items():
        sections += _section(f"task: {{name: {name}}}", "task", settings)
    sections += _section("task: {name: file.py:name}", "task", ImportedSettings)
    for name, field in Experiment.model_fields.items():
        for model in _models(field.annotation) if name != "task" else []:
            sections += _section(name, name, model)
    for engine, kind in SAMPLERS.items():
        sections += _section(f"sampling: {{engine: {engine}}}", "sampling", kind.keys) if kind.keys else []
    return "\n".join(dict.fromkeys(sections))


def _section(title: str, prefix: str, model: type[BaseModel]) -> Iterator[str]:
    """Yields a heading, a table of the model's keys, and the sections of the models within."""
    lines = [
        f"## {title}\n",
        _sentence(model),
        "",
        "| key | value | default | meaning |",
        "|---|---|---|---|",
    ]
    within: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        inner = _models(field.annotation) if prefix or name not in ("task",) else []
        dotted = f"{prefix}.{name}" if prefix else name
        within += [(dotted, one) for one in inner] if prefix else []
        meaning = _cell(field.description or _meaning(inner))
        lines.append(f"| `{name}` | {_kind(field)} | {_default(field)} | {meaning} |")
    yield "\n".join(lines) + "\n"
    for dotted, inner in within:
        yield from _section(dotted, dotted, inner)


def _sentence(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())


def _meaning(inner: list[type[BaseModel]]) -> str:
    return _sentence(inner[0]) if inner else ""


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Returns the models that an annotation is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]


def _kind(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(limit, name, None) is not None
    ]
    return _cell(" ".join([_words(field.annotation), ", ".join(bounds)]).strip())


_NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    type(None): "null",
    Any: "anything",
}


def _words(annotation: Any) -> str:
    """Says in words what values an annotation takes."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation in _NAMES:
        said = _NAMES[annotation]
    elif origin is Literal:
        said = ", ".join(f"`{part}`" for part in parts)
    elif origin is Annotated:
        said = _words(parts[0])
    elif origin in (list, tuple):
        said = f"list of {_words(parts[0])}"
    elif origin in (Union, UnionType):
        said = " or ".join(dict.fromkeys(_words(part) for part in parts))
    elif origin is dict and parts[1] is not Any and get_origin(parts[1]) is not dict:
        said = f"section of {_words(parts[1])}"
    else:
        said = "section"
    return said


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return f"`{value.model_dump(exclude_defaults=True)}`" if value.model_fields_set else "its defaults"
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        return f"{len(value)} with its defaults"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def main() -> None:
    """Writes the page, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE} is not what the classes say; run: python tools/reference.py")


if __name__ == "__main__":
    main()
