"""Python values as JSON and back, by exact class: what comes back is plain data, whatever the value's own class does.

None, bool, int, float, str, bytes, list, tuple, dict, set and frozenset keep their class; a subclass, such as a Counter
or an enumeration's number, becomes what it is made of; anything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

_LARGEST_PLAIN = (
    2**53
)  # larger whole numbers are written in hexadecimal: that takes no time that grows with their square
_ITERABLES: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def encode(value: Any) -> Any:
    """JSON for it. Raises TypeError where it is no plain data, RecursionError where it holds itself."""
    if value is None or value is True or value is False:
        return value
    for base, encoded in _ENCODERS:
        if isinstance(value, base):
            return encoded(value)
    raise TypeError(f"a {type(value).__name__} is no plain data (numbers, text, lists, tuples, sets, dicts)")


def decode(encoded: Any) -> Any:
    """The value. Raises ValueError or TypeError on JSON that `encode` did not make."""
    if encoded is None or type(encoded) in (bool, int, float, str):
        return encoded
    if type(encoded) is not dict or len(encoded) != 1:
        raise ValueError("no encoded value")
    [(kind, content)] = encoded.items()
    if kind in _ITERABLES:
        return _ITERABLES[kind](decode(item) for item in content)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in content}
    if kind in _FROM_TEXT:
        return _FROM_TEXT[kind](content)
    raise ValueError(f"no encoded value: {kind!r}")


def _int(value: int) -> Any:
    number = int.__int__(value)
    return number if abs(number) <= _LARGEST_PLAIN else {"int": f"{number:x}"}


def _float(value: float) -> Any:
    number = float.__float__(value)
    return number if math.isfinite(number) else {"float": repr(number)}


def _items(kind: str) -> Callable[[Any], Any]:
    iterate: Any = _ITERABLES[kind].__iter__
    return lambda value: {kind: [encode(item) for item in iterate(value)]}


_ENCODERS: list[tuple[type, Callable[[Any], Any]]] = [
    (int, _int),
    (float, _float),
    (str, str.__str__),
    (bytes, lambda value: {"bytes": bytes.hex(value)}),
    (dict, lambda value: {"dict": [[encode(key), encode(item)] for key, item in dict.items(value)]}),
    *((base, _items(kind)) for kind, base in _ITERABLES.items()),
]
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "bytes": bytes.fromhex,
}
