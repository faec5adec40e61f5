"""Types arrays, codes labels, computes probabilities of subsets, and checks what callers pass to public functions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Float32Array = NDArray[np.float32]
"""Embeddings."""


def label_codes(labels: Iterable[Hashable]) -> IntArray:
    """Returns [N] codes 0, 1, … in order of first appearance; equal labels get equal codes."""
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(label, len(codes)) for label in labels], dtype=np.int64)


@lru_cache(maxsize=512)
def miss_probabilities(n: int, k: int) -> FloatArray:
    """Returns entry c, for c = 0..n: probability C(n−c, k) / C(n, k) that a random k-subset of n misses c given
    elements.

    A running product of (n−c−k)/(n−c): every factor lies in [0, 1], so nothing overflows, the zeros for
    c > n−k are exact, and the relative error is at most c roundings. Needs 0 ≤ k ≤ n; the array is read-only.
    """
    c = np.arange(n)
    table = np.concatenate([[1.0], np.cumprod(np.maximum(n - c - k, 0) / (n - c))])
    table.setflags(write=False)
    return table


@lru_cache(maxsize=512)
def at_least_two_probabilities(n: int, k: int) -> FloatArray:
    """Returns entry c, for c = 0..n: probability that a random k-subset of n holds two or more of c given elements."""
    c = np.arange(n + 1)
    exactly_one = np.zeros(n + 1)
    if k >= 1:
        exactly_one[1:] = c[1:] * (k / n) * miss_probabilities(n - 1, k - 1)
    table = np.maximum(1.0 - miss_probabilities(n, k) - exactly_one, 0.0)
    # Two of fewer than two elements, or two in a set of one, is impossible, whatever the rounding says.
    table[: 2 if k >= 2 else None] = 0.0
    table.setflags(write=False)
    return table


def is_tensor(value: Any) -> bool:
    """Tells a tensor without importing torch, which numpy-only callers need not have loaded."""
    return type(value).__module__.partition(".")[0] == "torch"


def from_tensor(values: Any) -> Any:
    """Returns the numpy array of a tensor, whatever its device, its dtype and its graph; anything else as it is."""
    if not is_tensor(values):
        return values
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()


_MOST_SHOWN = 60  # characters of a value in a message


def shown(value: Any) -> str:
    """Returns a value as a message shows it: its start and its type."""
    text = repr(value)
    text = text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"
    return f"{text} ({type(value).__name__})"


def require_whole(name: str, value: Any, least: int = 1, what: str = "a whole number") -> int:
    """Returns a whole number of at least `least`; raises ValueError for anything else, True and 2.0 among it."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name}={shown(value)}: expected {what} of at least {least}")
    if value < least:
        raise ValueError(f"{name}={value}: expected {what} of at least {least}")
    return int(value)


def require_between(name: str, value: Any, low: float, high: float, what: str) -> float:
    """Returns a number within [low, high]; raises ValueError for anything else, nan among it."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name}={shown(value)}: expected {what}")
    number = float(value)
    if math.isnan(number) or not low <= number <= high:
        raise ValueError(f"{name}={number:g}: expected {what}")
    return number


def require_texts(name: str, texts: Any) -> list[str]:
    """Returns a list of texts; raises ValueError for a lone string, which would be taken for a list of characters, for
    what is no sequence, and for an entry that is no text."""
    if isinstance(texts, str):
        raise ValueError(f"{name}={texts[:40]!r}…: expected a list of texts, not one string")
    try:
        listed = list(texts)
    except TypeError as error:
        raise ValueError(f"{name}={shown(texts)}: expected a list of texts") from error
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{index}]={shown(text)}: expected a text")
    return listed


def require_array(name: str, values: Any, expected: str, *, for_texts: str = "") -> FloatArray:
    """Returns numbers as float64; raises ValueError where they are none, or have rows of different lengths.

    `expected` is the shape in words, `for_texts` what to do with texts, which are often given in place of numbers.
    """
    if for_texts and _holds_texts(values):
        raise ValueError(f"{name} holds texts; expected {expected}. {for_texts}")
    try:
        return np.asarray(from_tensor(values), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={shown(values)}: expected {expected} of numbers, with rows of one length") from error


def _holds_texts(values: Any) -> bool:
    if isinstance(values, str):
        return True
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "US" or (
            values.dtype == object and any(isinstance(value, str) for value in values.flat)
        )
    return isinstance(values, Sequence) and any(isinstance(value, str) for value in values)
