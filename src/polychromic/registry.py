"""Finds what a user brings: by its registered name, or by import path."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from polychromic.errors import ConfigError


def resolve(name: str, known: Mapping[str, Any], kind: str) -> Any:
    """Returns the registered object called `name`, or the one that `path/to/file.py:name` or `module:name` names.

    `kind` is the word for such an object in messages ("metric", "objective"). A file is run once in a process. Raises
    ConfigError that says what is missing: the file, the module, or the name in it.
    """
    if name in known:
        return known[name]
    place, separator, attribute = name.rpartition(":")
    if not separator or not place or not attribute:
        raise ConfigError(
            f"{kind} {name!r} is not known; expected one of {', '.join(known)}, path/to/file.py:name or module:name"
        )
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (ImportError, OSError, SyntaxError) as error:
        raise ConfigError(f"{kind} {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, attribute):
        defined = ", ".join(key for key in vars(module) if not key.startswith("_"))
        raise ConfigError(
            f"{kind} {name!r}: {place} does not define {attribute}; it defines {defined or 'nothing'}"
        )
    return getattr(module, attribute)


def _module_of_file(path: Path) -> ModuleType:
    path = path.expanduser().resolve()
    module_name = f"polychromic_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look up the module that defines them
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
