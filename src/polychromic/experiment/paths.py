"""Names the keys of an experiment file whose values are files, and changes those values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from polychromic.files import user_path
from polychromic.models.sources import known_sources


def _is_file(value: str) -> bool:
    return True


def _is_code(value: str) -> bool:
    return ".py:" in value


def _begins_as_path(value: str) -> bool:
    return value.startswith((".", "/", "~"))


def _is_folder_here(value: str) -> bool:
    """Tells a bare name for which a folder of the current directory is loaded: it wins over a hub id of that name."""
    if not value or _begins_as_path(value) or value in _OWN_NAMES:
        return False
    try:
        return Path(value).is_dir()
    except OSError:  # a name too long for a folder
        return False


_OWN_NAMES = ("minilm", "hash", *known_sources())
"""Models and embedders that the package knows by name, whatever folders there are."""
_SAME = {"": _is_code, "kind": _is_code, "model": _begins_as_path, "embedder": _begins_as_path}
_PATHS: Mapping[str, Any] = {
    "task": {
        **dict.fromkeys(("train", "validation", "test"), _is_file),
        **dict.fromkeys(("name", "checker", "judge"), _is_code),
        **dict.fromkeys(("same_answer", "second_same_answer"), _SAME),
        "embedder": _begins_as_path,
    },
    "evaluation": {"embedder": _begins_as_path, "metrics": _is_code},
    "model": {"source": _begins_as_path, "adapter": {"start_from": _is_file}},
    "diversity": {"objective": _is_code},
    "training": {"engine": _is_code},
    "sampling": {"engine": _is_code},
    "run": {"executor": _is_code},
}
"""The keys whose values name files, by section, each with the test of whether a value does; "" is a value alone."""
_SAME_HERE = {"model": _is_folder_here, "embedder": _is_folder_here}
_FOLDERS_HERE: Mapping[str, Any] = {
    "task": {"embedder": _is_folder_here, "same_answer": _SAME_HERE, "second_same_answer": _SAME_HERE},
    "evaluation": {"embedder": _is_folder_here},
    "model": {"source": _is_folder_here},
}
"""The keys whose values may be a hub id or a folder of the current directory, written alike."""


def with_absolute_paths(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Makes the values that name files absolute, `~` being the user's home, in the sections and in those of arms.

    Paths are relative to `folder`; a folder of the current directory by its bare name stays that folder from anywhere.
    """
    content = _changed_everywhere(content, _FOLDERS_HERE, lambda value: str(Path(value).resolve()))
    return with_changed_paths(content, lambda value: str((folder / user_path(value)).resolve()))


def with_changed_paths(content: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Puts `change(value)` in place of every value that names a file (`file.py:name` whole), in the sections and in
    those of arms."""
    return _changed_everywhere(content, _PATHS, change)


def _changed_everywhere(content: dict[str, Any], paths: Any, change: Callable[[str], str]) -> dict[str, Any]:
    content = _changed(content, paths, change)
    if isinstance(content.get("arms"), dict):
        content["arms"] = {name: _changed(arm, paths, change) for name, arm in content["arms"].items()}
    return content


def _changed(value: Any, paths: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, list):
        return [_changed(item, paths, change) for item in value]
    if isinstance(value, dict):  # a section, or a value written with its keys
        below = paths if isinstance(paths, Mapping) else dict.fromkeys(value, paths)
        if value.get("kind") == "judge":  # its model is a name at the endpoint
            below = {key: names_file for key, names_file in below.items() if key != "model"}
        return {key: _changed(one, below[key], change) if key in below else one for key, one in value.items()}
    names_file = paths.get("") if isinstance(paths, Mapping) else paths
    return change(value) if names_file and isinstance(value, str) and names_file(value) else value
