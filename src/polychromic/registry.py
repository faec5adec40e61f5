"""Finds what a user brings: by its registered name, or by import path."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from polychromic.errors import ConfigError


def is_import_path(name: str) -> bool:
    """Returns True where `name` has the form `path/to/file.py:name` or `module:name`."""
    place, _, attribute = name.rpartition(":")
    return bool(place and attribute)


def resolve(name: str, known: Mapping[str, Any], kind: str, *, noun: str = "name") -> Any:
    """Returns the registered object called `name`, or the one that `path/to/file.py:name` or `module:name` names.

    `kind` is the word for such an object in messages ("metric", "objective"), `noun` what stands behind the colon; a
    "function" must be callable. A file is run once in a process, and again after its content has changed; it may import
    from beside it. Raises ConfigError that says what is missing: the file, the module, or the name in it.
    """
    if name in known:
        return known[name]
    if not is_import_path(name):
        ways = [*known, f"path/to/file.py:{noun} or module:{noun}"]
        raise ConfigError(f"{kind} {name!r} is not known; expected one of {', '.join(ways)}")
    place, _, attribute = name.rpartition(":")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        is_missing = isinstance(error, ModuleNotFoundError) and error.name == place.partition(".")[0]
        hint = f"; a file is named by its path, such as {place}.py:{attribute}" if is_missing else ""
        raise ConfigError(f"{kind} {name!r} cannot be imported: {type(error).__name__}: {error}{hint}") from error
    is_wanted = callable if noun == "function" else (lambda value: True)
    if not (hasattr(module, attribute) and is_wanted(getattr(module, attribute))):
        defined = [key for key, value in vars(module).items() if not key.startswith("_") and is_wanted(value)]
        wanted = attribute if noun == "name" else f"{noun} {attribute}"
        raise ConfigError(
            f"{kind} {name!r}: {place} does not define {wanted}; it defines {', '.join(defined) or 'nothing'}"
        )
    return getattr(module, attribute)


def construct(factory: Callable[..., Any], kind: str, *arguments: Any, **keys: Any) -> Any:
    """Calls what an import path names, with the keys of its section; raises ConfigError where it takes others."""
    signature = inspect.signature(factory)
    try:
        signature.bind(*arguments, **keys)
    except TypeError as error:
        raise ConfigError(f"{kind}: {error}; it is defined as {signature}") from error
    return factory(*arguments, **keys)


def _module_of_file(path: Path) -> ModuleType:
    if not path.expanduser().is_file():
        raise FileNotFoundError(f"there is no file {path}")
    path = path.expanduser().resolve()
    if str(path.parent) not in sys.path:
        # It may import from beside it, as a script may; last, so that no file there stands in for a package.
        sys.path.append(str(path.parent))
    return _run_file(path, path.read_bytes())


@lru_cache(maxsize=64)
def _run_file(path: Path, source: bytes) -> ModuleType:
    """Runs a file as a module. Not from its compiled copy, which a change within the same second would not renew."""
    name = f"polychromic_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses and pickle look up the module that defines them
    try:
        exec(compile(source, path, "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module
