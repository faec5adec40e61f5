"""YAML files as plain mappings: with overrides put in, and with bombs refused before anything is built from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from polychromic.errors import ConfigError

_MOST_BYTES = 100_000  # and what is slow to read grows with the square: 1:59:59:59:… is one number in base 60
_MOST_NODES = 20_000  # an experiment file has some hundred


def read_yaml(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The sections of an experiment file, not checked yet, with overrides such as `training.steps=20` put in.

    Raises ConfigError that names the file: missing, unreadable, not YAML, without sections, too large once its
    anchors are expanded, or with an override that does not fit.
    """
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    text = _read_text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _require_moderate_size(path, root)
        # Asked first: omegaconf asserts that a file is not a single number.
        loaded = OmegaConf.create(text) if isinstance(root, yaml.MappingNode) else None
        if not OmegaConf.is_dict(loaded) or not loaded:
            raise ConfigError(f"{path}: expected sections (name, task, model, training, arms), found none")
        merged = OmegaConf.merge(loaded, OmegaConf.from_dotlist(_checked(overrides)))
        # Not resolved: a value is text, and never another value, the environment, or a bomb of ${a}${a}.
        content: Any = OmegaConf.to_container(merged, resolve=False)
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply, expected a few levels of sections") from error
    except (
        yaml.YAMLError,
        OmegaConfBaseException,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        AssertionError,
    ) as error:
        # The parser and omegaconf let errors of Python through on odd scalars, keys and interpolations.
        raise ConfigError(f"{path}: not a readable YAML file: {error}") from error
    content = {str(key): value for key, value in content.items()}
    for place, text in _texts(content):
        _require_writable(path, place, text)
    return content


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"{path}: no such experiment file; `polychromic init` writes one to start from")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > _MOST_BYTES:
        raise ConfigError(
            f"{path}: {len(content)} bytes, expected an experiment file of at most {_MOST_BYTES}"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from error


def _require_moderate_size(path: Path, root: Any) -> None:
    """Refuse what anchors blow up: ten anchors of ten aliases each are ten billion values."""
    sizes: dict[int, int] = {}
    size = _expanded_size(root, sizes, set()) if root is not None else 0
    if size > _MOST_NODES:
        raise ConfigError(
            f"{path}: {size} values once its anchors are expanded, expected at most {_MOST_NODES}; write them out"
        )


def _expanded_size(node: Any, sizes: dict[int, int], above: set[int]) -> int:
    """Values below a node with every alias counted as often as it stands; raises RecursionError for a cycle."""
    if id(node) in above:
        raise RecursionError
    if id(node) not in sizes:
        above.add(id(node))
        children = node.value if isinstance(node.value, list) else []
        flat = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
        sizes[id(node)] = 1 + sum(_expanded_size(part, sizes, above) for part in flat)
        above.remove(id(node))
    return sizes[id(node)]


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text below a value, keys too, with the dotted key that it stands at."""
    if isinstance(value, str):
        yield place, value
    for key, below in _children(value):
        dotted = f"{place}.{key}" if place else str(key)
        yield dotted, str(key)
        yield from _texts(below, dotted)


def _children(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def _require_writable(path: Path, place: str, text: str) -> None:
    """No path, name or file can hold a NUL character or half a surrogate pair."""
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError(f"{path}: {place}: holds a NUL character or half a surrogate pair; remove it")


def _checked(overrides: Sequence[str]) -> list[str]:
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"override {override!r}: expected key=value, such as training.steps=20")
    return list(overrides)
