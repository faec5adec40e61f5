"""Holds what a report is of, told by whoever made the run, and takes the machine's own folders out of its texts."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """Holds one prompt with an answer, and says whose answer that is."""

    prompt: str
    answer: str
    of: str


@dataclass(frozen=True, slots=True)
class About:
    """Holds facts of a run in the order in which they are read, each as (what, value)."""

    facts: tuple[tuple[str, str], ...] = ()
    example: Example | None = None
    folders: Mapping[str, str] = field(default_factory=dict)
    """Paths of this machine that settings hold, with what a reader is shown in their place."""

    @property
    def subtitle(self) -> str:
        """Returns in a line what stands above everything: model, task and date."""
        facts = dict(self.facts)
        wanted = [facts.get("model", "").partition(" (")[0], facts.get("task", "").partition(":")[0]]
        return " · ".join(filter(None, [*wanted, facts.get("date", "").partition(" ")[0]]))

    def short(self, text: str) -> str:
        """Returns a text in which no path of the settings is told in full: others do not have these folders."""
        for path in sorted(self.folders, key=len, reverse=True):
            for written in {path, html.escape(path), path.replace("_", r"\_")}:
                text = text.replace(written, self.folders[path])
        return text

    def shortened(self, value: Any) -> Any:
        """Does the same in all texts of plain JSON."""
        if isinstance(value, str):
            return self.short(value)
        if isinstance(value, Mapping):
            return {self.short(key): self.shortened(item) for key, item in value.items()}
        return [self.shortened(item) for item in value] if isinstance(value, list) else value


def own_folders(settings: Any) -> dict[str, str]:
    """Finds the absolute paths in a section of settings (plain JSON), each with the file's or folder's own name."""
    return {path: Path(path).name for path in _absolute_paths(settings) if Path(path).name}


_DEEP = re.compile(r"/[^/]+/")  # "/" or "/tmp" alone would also be found where nobody's folder is meant


def _absolute_paths(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        place = value.rpartition(":")[0] or value  # file.py:name
        if _DEEP.match(place) and "\n" not in place:
            yield place
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _absolute_paths(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _absolute_paths(item)
