"""How a number was measured, in one line: two numbers with different signatures must not be compared."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

DEFINITIONS_VERSION = 1
"""Raised whenever a change to a measure changes any number it gives."""

UNNAMED = "unnamed function"
"""Stands for a choice that nothing identifies; values that depend on one can be printed but not compared."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A measure's name with every choice that its value depends on, printed like `self_bleu|n:4|…|version:1`."""

    measure: str
    choices: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "|".join([self.measure, *(f"{name}:{value}" for name, value in self.choices)])

    @classmethod
    def parse(cls, text: str) -> Signature:
        """The signature that `str` printed; raises ValueError for other text."""
        measure, *choices = text.split("|")
        if not measure or not all(":" in choice for choice in choices):
            raise ValueError(f"signature {text!r}: expected measure|name:value|…")
        pairs = (choice.partition(":") for choice in choices)
        return cls(measure, tuple((name, value) for name, _, value in pairs))


def sign(measure: str, **choices: object) -> Signature:
    """The signature of `measure` under these choices; the version of the definitions is added."""
    choices["version"] = DEFINITIONS_VERSION
    # The bar separates choices, and a model's folder may be called anything.
    return Signature(measure, tuple((name, str(value).replace("|", "/")) for name, value in choices.items()))


def function_name(function: object) -> str:
    """module.name of a function that can be found by it, else UNNAMED.

    Lambdas, functions within functions, scripts' own functions and methods of an object share their names with others
    that do something else.
    """
    name = getattr(function, "__qualname__", None)
    module = getattr(function, "__module__", None)
    owner = getattr(function, "__self__", None)
    of_object = owner is not None and not isinstance(owner, type | ModuleType)
    if name is None or "<" in name or of_object or module == "__main__":
        return UNNAMED
    return f"{module}.{name}" if module else name


def require_comparable(first: Signature, second: Signature) -> None:
    """Raise ValueError, naming each difference, unless two numbers were measured in the same way."""
    if first.measure != second.measure:
        raise ValueError(
            f"{first.measure} and {second.measure} are different measures and cannot be compared"
        )
    ours, theirs = dict(first.choices), dict(second.choices)
    unnamed = [name for name, value in (ours | theirs).items() if value == UNNAMED]
    if unnamed:
        raise ValueError(
            f"two values of {first.measure} cannot be compared: {unnamed[0]} is a function that nothing identifies; "
            "give one that a module defines by name"
        )
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    if names:
        detail = ", ".join(
            f"{name} {ours.get(name, 'unset')} against {theirs.get(name, 'unset')}" for name in names
        )
        raise ValueError(
            f"two values of {first.measure} cannot be compared: {detail}; measure both in one way"
        )
