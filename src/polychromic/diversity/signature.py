"""How a number was measured, in one line: two numbers with different signatures must not be compared."""

from __future__ import annotations

from dataclasses import dataclass

DEFINITIONS_VERSION = 1
"""Raised whenever a change to a measure changes any number it gives."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A measure's name with every choice that its value depends on, printed like `self_bleu|n:4|…|version:1`."""

    measure: str
    choices: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "|".join([self.measure, *(f"{name}:{value}" for name, value in self.choices)])


def sign(measure: str, **choices: object) -> Signature:
    """The signature of `measure` under these choices; the version of the definitions is added."""
    choices["version"] = DEFINITIONS_VERSION
    return Signature(measure, tuple((name, str(value)) for name, value in choices.items()))


def require_comparable(first: Signature, second: Signature) -> None:
    """Raise ValueError, naming each difference, unless two numbers were measured in the same way."""
    if first.measure != second.measure:
        raise ValueError(
            f"{first.measure} and {second.measure} are different measures and cannot be compared"
        )
    ours, theirs = dict(first.choices), dict(second.choices)
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    if names:
        detail = ", ".join(
            f"{name} {ours.get(name, 'unset')} against {theirs.get(name, 'unset')}" for name in names
        )
        raise ValueError(
            f"two values of {first.measure} cannot be compared: {detail}; measure both in one way"
        )
