"""Names and paths that an experiment file states: what may name a folder, and where its files lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from polychromic.files import user_path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

RUN_FILES = (
    "experiment.yaml",
    "provenance.json",
    "preflight.json",
    "diagnosis.json",
    "ledger.jsonl",
    "comparison.json",
    "report.html",
    "report.md",
    "results.tex",
    "figures",
)
"""What a run folder holds beside its arms: an arm of such a name would be written over."""


def folder_name(name: str, *, place: str = "") -> str:
    """The name of a run or an arm, which names a folder too; raises ValueError where it cannot."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{place}expected letters, digits, '.', '_' and '-' (it names a folder)")
    for file in RUN_FILES:
        # Some systems take upper and lower case for the same.
        if name.lower() == file or ("." in file and file in name.lower()):
            raise ValueError(
                f"{place}{name} names a folder, and {file} is a file of the run folder; choose another"
            )
    return name


def with_absolute_paths(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the values that name files absolute, `~` being the user's home; a model source or an embedder is a path only
    where it begins as one."""
    content = dict(content)
    task = content.get("task")
    if isinstance(task, dict):
        content["task"] = task = dict(task)
        for key in ("train", "validation", "test"):
            if isinstance(task.get(key), str):
                task[key] = _absolute(folder, task[key])
        for key in ("checker", "judge"):
            if isinstance(task.get(key), str) and ".py:" in task[key]:
                task[key] = _absolute(folder, task[key])
        _place_named(task, "embedder", folder)
    if isinstance(content.get("evaluation"), dict):
        content["evaluation"] = dict(content["evaluation"])
        _place_named(content["evaluation"], "embedder", folder)
    content["model"] = _placed_model(content.get("model"), folder)
    if content["model"] is None:
        del content["model"]
    if isinstance(content.get("arms"), dict):
        content["arms"] = {
            name: arm | {"model": _placed_model(arm["model"], folder)}
            if isinstance(arm, dict) and "model" in arm
            else arm
            for name, arm in content["arms"].items()
        }
    return content


def _placed_model(model: Any, folder: Path) -> Any:
    if not isinstance(model, dict):
        return model
    model = dict(model)
    _place_named(model, "source", folder)
    adapter = model.get("adapter")
    if isinstance(adapter, dict) and isinstance(adapter.get("start_from"), str):
        model["adapter"] = adapter | {"start_from": _absolute(folder, adapter["start_from"])}
    return model


def _place_named(section: dict[str, Any], key: str, folder: Path) -> None:
    value = section.get(key)
    if isinstance(value, str) and value.startswith((".", "/", "~")):
        section[key] = _absolute(folder, value)


def _absolute(folder: Path, value: str) -> str:
    return str((folder / user_path(value)).resolve())
