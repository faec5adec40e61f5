"""Carries messages and plain values between a run and the processes of its checkers."""

from __future__ import annotations

import json
import math
import socket
import time
import weakref
from collections.abc import Callable, Coroutine, Generator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

NOT_DEFINED = "the answer does not define "
_LARGEST_PLAIN = (
    2**53
)  # larger whole numbers are written in hexadecimal: that takes no time that grows with their square
_MOST_DIGITS = 4000  # of a decimal number
_ITERABLES: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def encode(value: Any, other: Callable[[Any], Any] | None = None) -> Any:
    """Encodes plain data as JSON; `other` gives the JSON of what is no plain data.

    Raises TypeError where it is no plain data and there is no `other`, RecursionError where it holds itself.
    """
    if value is None or value is True or value is False:
        return value
    for base, encoded in _ENCODERS:
        if isinstance(value, base):
            return encoded(value, other)
    if other is not None:
        return other(value)
    raise TypeError(f"a {type(value).__name__} is no plain data (numbers, text, lists, tuples, sets, dicts)")


def decode(encoded: Any, other: Callable[[str, Any], Any] | None = None) -> Any:
    """Decodes a value; `other` makes what an `other` of `encode` wrote as {kind: content}.

    Raises ValueError, TypeError or ArithmeticError on JSON that `encode` did not make.
    """
    if encoded is None or type(encoded) in (bool, int, float, str):
        return encoded
    if type(encoded) is not dict or len(encoded) != 1:
        raise ValueError("no encoded value")
    [(kind, content)] = encoded.items()
    if kind in _ITERABLES:
        return _ITERABLES[kind](decode(item, other) for item in content)
    if kind == "dict":
        return {decode(key, other): decode(item, other) for key, item in content}
    if kind in _FROM_TEXT:
        return _FROM_TEXT[kind](content)
    if other is not None:
        return other(kind, content)
    raise ValueError(f"no encoded value: {kind!r}")


def plain_number(value: Any) -> Any:
    """Encodes a number of numpy, a fraction or a decimal number. Raises TypeError where it is none.

    They are known by the names of their classes, so that nothing is imported for them.
    """
    kind = (type(value).__module__, type(value).__name__)
    if kind[0] == "numpy" and getattr(value, "ndim", None) == 0:
        plain = value.item()
        if type(plain) in (bool, int, float, complex, str, bytes):
            return encode(plain)
    if kind == ("fractions", "Fraction"):
        return {"fraction": [f"{value.numerator:x}", f"{value.denominator:x}"]}
    if kind == ("decimal", "Decimal") and (not value.is_finite() or abs(value.adjusted()) < _MOST_DIGITS):
        return {"decimal": str(value)}
    raise TypeError(f"a {kind[1]} is no plain data (numbers, text, lists, tuples, sets, dicts)")


def _int(value: int, _: Any) -> Any:
    number = int.__int__(value)
    return number if abs(number) <= _LARGEST_PLAIN else {"int": f"{number:x}"}


def _float(value: float, _: Any) -> Any:
    number = float.__float__(value)
    return number if math.isfinite(number) else {"float": repr(number)}


def _items(kind: str) -> Callable[[Any, Any], Any]:
    iterate: Any = _ITERABLES[kind].__iter__
    return lambda value, other: {kind: [encode(item, other) for item in iterate(value)]}


def _decimal(text: str) -> Decimal:
    """Reads a decimal number; one as large as 1e999999999 would keep us busy for hours."""
    number = Decimal(text)
    if number.is_finite() and abs(number.adjusted()) >= _MOST_DIGITS:
        raise ValueError(f"a decimal number with more than {_MOST_DIGITS} digits")
    return number


_ENCODERS: list[tuple[type, Callable[[Any, Any], Any]]] = [
    (int, _int),
    (float, _float),
    (complex, lambda value, _: {"complex": [repr(complex(value).real), repr(complex(value).imag)]}),
    (str, lambda value, _: str.__str__(value)),
    (bytes, lambda value, _: {"bytes": bytes.hex(value)}),
    (bytearray, lambda value, _: {"bytes": bytearray.hex(value)}),
    (
        dict,
        lambda value, other: {"dict": [[encode(key, other), encode(item, other)] for key, item in dict.items(value)]},
    ),
    *((base, _items(kind)) for kind, base in _ITERABLES.items()),
]
_FROM_TEXT: dict[str, Callable[[Any], Any]] = {
    "complex": lambda parts: complex(*map(float, parts)),
    "int": lambda text: int(text, 16),
    "float": float,
    "bytes": bytes.fromhex,
    "fraction": lambda parts: Fraction(*(int(part, 16) for part in parts)),
    "decimal": _decimal,
}


_CHUNK = 2**16


class Done(Coroutine[Any, Any, Any]):
    """A coroutine that has come to its value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def send(self, value: Any, /) -> Any:
        """Ends with the value."""
        raise StopIteration(self.value)

    def close(self) -> None:
        """Does nothing: there is nothing left to end."""

    def throw(self, *error: Any) -> Any:
        """Raises the error, as nothing catches it."""
        raise error[0]

    def __await__(self) -> Generator[Any, Any, Any]:
        return self.value
        yield


class TooMuchError(Exception):
    """The other side wrote more than was asked for."""


class Conversation:
    """One end of a socket. Each message is a JSON object on a line; a descriptor may travel beside one."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = bytearray()
        self._allowance = math.inf
        self._close = weakref.finalize(self, end.close)

    def allow(self, n_bytes: float) -> None:
        """Takes at most that many bytes from the other side from here on."""
        self._allowance = n_bytes - len(self._buffer)

    def send(self, content: Mapping[str, Any], deadline: float = math.inf, descriptor: int | None = None) -> None:
        """Raises TimeoutError at the deadline (of time.monotonic), BrokenPipeError where the other side is closed."""
        payload = json.dumps(content, default=_plain).encode() + b"\n"
        self._socket.settimeout(_left(deadline))
        try:
            if descriptor is not None:
                sent = socket.send_fds(self._socket, [payload], [descriptor])
                payload = payload[sent:]
            self._socket.sendall(payload)
        except ConnectionError as error:
            raise BrokenPipeError from error

    def receive(self, deadline: float = math.inf) -> tuple[Any, int | None]:
        """Waits for the next message that is JSON, and the descriptor that came with it.

        Lines that are no JSON are passed over: a checker can write to any descriptor. Raises EOFError at the end,
        TimeoutError at the deadline however much arrives, TooMuchError beyond what is allowed.
        """
        descriptor = None
        searched = 0
        while True:
            _left(deadline)
            end = self._buffer.find(b"\n", searched)
            if end < 0:
                searched = len(self._buffer)
                descriptor = self._take(deadline) or descriptor
                continue
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            searched = 0
            try:
                return json.loads(line), descriptor
            except (ValueError, RecursionError):
                continue

    def fileno(self) -> int:
        """Returns the descriptor of this end."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes this end; the other one reads an end of file."""
        self._close()

    def _take(self, deadline: float) -> int | None:
        self._socket.settimeout(_left(deadline))
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, _CHUNK, 1)
        except ConnectionError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        self._allowance -= len(data)
        if self._allowance < 0:
            raise TooMuchError
        self._buffer += data
        return descriptors[0] if descriptors else None


def _plain(value: Any) -> Any:
    """Encodes numbers and arrays of numpy, which the notes to a prompt may hold."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be sent to a checker's process")


def _left(deadline: float) -> float | None:
    """Returns the seconds until the deadline, None for ever. Raises TimeoutError where it has passed."""
    if deadline == math.inf:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
