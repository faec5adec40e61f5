"""Finds checkers by name, the user's own among them, and keeps their failures from being rewards."""

from __future__ import annotations

import inspect
import math
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from polychromic.errors import CheckerError, ConfigError
from polychromic.records import Check, Prompt
from polychromic.registry import resolve
from polychromic.tasks.checking.answers import math_equal, references_of, regex_match

_LONGEST_REASON = 500
CheckFunction = Callable[[Prompt, str], Any]
"""Called as `check(prompt, text)`; returns a number from 0 to 1, a bool, or None where it cannot tell."""


def load_checker(name: str) -> CheckFunction:
    """Returns the checker of that name in `BUILT_IN`, or `module:function` or `path/to/file.py:function`.

    Raises CheckerError that names what is missing: the file, the module, the function, or its two arguments.
    """
    try:
        function = resolve(name, BUILT_IN, "checker", noun="function")
    except ConfigError as error:
        raise CheckerError(str(error)) from error
    if name in RUN_APART:  # before any text: on a busy machine the import takes longer than a text may
        with suppress(ImportError):
            import_module("math_verify")
    signature = inspect.signature(function)
    try:
        signature.bind(None, "")
    except TypeError as error:
        raise CheckerError(
            f"checker {name!r} is called as check(prompt, text) but is defined as {signature}: {error}"
        ) from error
    return function


def run_checker(function: CheckFunction, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
    """Runs the checker on each pair; an exception or an impossible value becomes a Check with the reason."""
    return [_run_one(function, prompt, text) for prompt, text in zip(prompts, texts, strict=True)]


def failed_check(error: BaseException) -> Check:
    """Returns no reward, with the name and words of what a checker raised."""
    return Check(None, f"{type(error).__name__}: {_in_words(error, str)}")


def exact_match(prompt: Prompt, text: str) -> bool:
    """Tells whether the text is one of the references, apart from white space around it and from the way in which
    Unicode writes an accent."""
    return _plain(text) in map(_plain, references_of(prompt))


def contains(prompt: Prompt, text: str) -> bool:
    """Tells whether one of the references occurs in the text, in upper or lower case (as `includes` of inspect-ai)."""
    return any(_plain(reference).casefold() in _plain(text).casefold() for reference in references_of(prompt))


def rouge_l(prompt: Prompt, text: str) -> float:
    """Returns the best ROUGE-L F1 with a reference (Lin 2004), with the tokens and the numbers of the rouge-score
    package.

    It knows a–z and 0–9 alone: against a reference without any of these, words by Unicode are compared, lower-cased.
    """
    return max(_rouge_l(text, reference) for reference in references_of(prompt))


def _rouge_l(text: str, reference: str) -> float:
    from polychromic.diversity.overlap import rouge_l as mean_rouge_l
    from polychromic.diversity.tokens import rouge_words

    return mean_rouge_l([text, reference], lowercase=True, tokens="rouge" if rouge_words(reference) else "unicode")


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text.strip())


BUILT_IN: dict[str, CheckFunction] = {
    "exact_match": exact_match,
    "contains": contains,
    "rouge_l": rouge_l,
    "regex": regex_match,
    "math": math_equal,
}
RUN_APART = frozenset({"math"})
"""Those that run in a process of their own, as a user's does: their library may hang on some texts."""
FORMS = {
    "regex": "polychromic.tasks.checking.answers:regex_form",
    "math": "polychromic.tasks.checking.answers:math_form",
}
"""The functions that give the canonical forms of answers to a checker, for `same_answer: canonical`."""


def _run_one(function: CheckFunction, prompt: Prompt, text: str) -> Check:
    try:
        value = function(prompt, text)
        plain = value.item() if hasattr(value, "item") else value  # numpy and torch scalars
        number = _number(plain)
        if number is not None and 0.0 <= number <= 1.0:
            return Check(number)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the checker boundary: a failure is no reward, and says why
        return failed_check(error)
    if plain is None:
        return Check(None, "the checker returned None: it cannot tell")
    shown = _in_words(plain, repr)
    return Check(None, f"the checker returned {shown}, expected a number from 0 to 1, a bool or None")


def _number(value: Any) -> float | None:
    """Returns the number that a value of a number's class holds, whatever a class of its own makes of comparing and
    converting; infinite where it is too large, None where it is none."""
    if isinstance(value, float):
        return float.__float__(value)
    try:
        return float(int.__int__(value)) if isinstance(value, int) else None
    except OverflowError:
        return math.inf


def _in_words(value: Any, words: Callable[[Any], str]) -> str:
    """Returns `words(value)`, cut where it is long: it ends in a row of a file, once per generation."""
    try:
        text = words(value)
    except BaseException as error:  # noqa: BLE001 - the checker boundary again: these words may be anybody's code
        return f"({type(value).__name__} that cannot be shown: {type(error).__name__})"
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}... ({len(text):,} characters)"
