"""Splits texts into tokens, and names what a metric was measured with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from types import ModuleType
from typing import Any

import regex

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
        """Returns the signature that `str` printed; raises ValueError for other text."""
        measure, *choices = text.split("|")
        if not measure or not all(":" in choice for choice in choices):
            raise ValueError(f"signature {text!r}: expected measure|name:value|…")
        pairs = (choice.partition(":") for choice in choices)
        return cls(measure, tuple((name, value) for name, _, value in pairs))


def sign(measure: str, **choices: object) -> Signature:
    """Returns the signature of `measure` under these choices; the version of the definitions is added."""
    choices["version"] = DEFINITIONS_VERSION
    # The bar separates choices, and a model's folder may be called anything.
    return Signature(measure, tuple((name, str(value).replace("|", "/")) for name, value in choices.items()))


def function_name(function: object) -> str:
    """Returns module.name of a function that can be found by it, else UNNAMED.

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
    """Raises ValueError, naming each difference, unless two numbers were measured in the same way."""
    if first.measure != second.measure:
        raise ValueError(f"{first.measure} and {second.measure} are different measures and cannot be compared")
    ours, theirs = dict(first.choices), dict(second.choices)
    unnamed = [name for name, value in (ours | theirs).items() if value == UNNAMED]
    if unnamed:
        raise ValueError(
            f"two values of {first.measure} cannot be compared: {unnamed[0]} is a function that nothing identifies; "
            "give one that a module defines by name"
        )
    names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    if names:
        detail = ", ".join(f"{name} {ours.get(name, 'unset')} against {theirs.get(name, 'unset')}" for name in names)
        raise ValueError(f"two values of {first.measure} cannot be compared: {detail}; measure both in one way")


Tokenizer = Callable[[str], Sequence[str]]

_ROUGE_LETTERS = bytes(code if chr(code) in "abcdefghijklmnopqrstuvwxyz0123456789" else 32 for code in range(256))
_CLUSTER = regex.compile(r"\X")
_WORD_BOUNDARY = regex.compile(r"(?V1w)\b")
_LETTER = regex.compile(r"\p{L}")
_UNSPACED = regex.compile(
    r"(?V1)[[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]&&\p{L}]"
)
_SHARE_UNSPACED = 0.2
_TEXTS_LOOKED_AT = 1000
_CHARACTERS_LOOKED_AT = 10_000  # of each text


def rouge_words(text: str) -> list[str]:
    """Returns the rouge-score package's tokens: lower-cased runs of a–z and 0–9; other alphabets vanish."""
    # Several times faster than a regular expression, which would be half the time of ROUGE-L.
    return text.lower().encode("ascii", "replace").translate(_ROUGE_LETTERS).decode("ascii").split()


def characters(text: str) -> list[str]:
    """Characters as people see them (extended grapheme clusters of Unicode Standard Annex 29), white space left out."""
    return [cluster for cluster in _CLUSTER.findall(text) if not cluster.isspace()]


def unicode_words(text: str) -> list[str]:
    """Returns words, numbers and marks by the default word boundaries of Unicode Standard Annex 29; no white space.

    Han, Hiragana and scripts that need a dictionary, such as Thai, come character by character.
    """
    return [word for word in _WORD_BOUNDARY.split(text) if word and not word.isspace()]


def code_tokens(text: str, language: str = "python") -> list[str]:
    """Returns a Pygments lexer's tokens of source code, without white space; a comment or a string's content is one."""
    values = (value.strip() for _, value in _lexer(language).get_tokens(text))
    return [value for value in values if value]


TOKENIZERS: dict[str, Tokenizer] = {
    "words": str.split,
    "characters": characters,
    "unicode": unicode_words,
    "code": code_tokens,
    "rouge": rouge_words,
}


class ModelTokens:
    """A model's own tokens. `name` says which model, and ends in a hash of its tokenizer."""

    def __init__(self, tokenizer: Any, source: str):
        vocabulary = sorted(tokenizer.get_vocab().items())
        digest = hashlib.sha256(repr(vocabulary).encode("utf-8", "surrogatepass")).hexdigest()
        self.name = f"model:{source}@{digest[:8]}"
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[str]:
        """Returns the tokens of a text, without special ones."""
        return self._tokenizer.tokenize(text)

    def cut(self, text: str, n: int) -> str:
        """Returns the text that the first n tokens write."""
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return text if len(ids) <= n else self._tokenizer.decode(ids[:n])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelTokens) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True, slots=True)
class TokenOptions:
    """Says how texts become tokens. `tokens` is a name in TOKENIZERS, `code:` and a language of Pygments, or a
    function; `lowercase` applies before it."""

    tokens: str | Tokenizer = "words"
    lowercase: bool = False

    def __post_init__(self) -> None:
        tokenizer_of(self.tokens)

    @property
    def label(self) -> str:
        """Returns the tokenizer's name as it stands in signatures."""
        if isinstance(self.tokens, str):
            return self.tokens
        return self.tokens.name if isinstance(self.tokens, ModelTokens) else function_name(self.tokens)

    def split(self, texts: Sequence[str]) -> list[Sequence[str]]:
        """Returns the tokens of each text."""
        tokenizer = tokenizer_of(self.tokens)
        return [tokenizer(text.lower() if self.lowercase else text) for text in texts]


def tokenizer_of(tokens: str | Tokenizer) -> Tokenizer:
    """Returns the function that a name stands for; raises ValueError for an unknown one."""
    if not isinstance(tokens, str):
        return tokens
    if tokens in TOKENIZERS:
        return TOKENIZERS[tokens]
    kind, _, language = tokens.partition(":")
    if kind == "code" and language:
        _lexer(language)
        return lambda text: code_tokens(text, language)
    raise ValueError(f"tokens={tokens!r}: expected {', '.join(TOKENIZERS)}, code:LANGUAGE or a function of one text")


def cut_text(text: str, n: int, tokens: str | Tokenizer) -> str:
    """Returns the beginning of a text with its first n tokens, which must stand in it as they are or be a model's.

    Words are joined by single spaces.
    """
    if tokens == "words":
        return " ".join(text.split()[:n])
    if isinstance(tokens, ModelTokens):
        return tokens.cut(text, n)
    end = 0
    for token in tokenizer_of(tokens)(text)[:n]:
        end = max(text.find(token, end), end) + len(token)
    return text[:end]


def choose_tokens(texts: Iterable[str]) -> tuple[str, str]:
    """Returns the unit that fits these texts, `words` or `unicode`, and why in a few words.

    `unicode` where a fifth of the letters are of scripts that are written without spaces, or where white space
    separates less than half of the words and numbers, as in `8-(3-2)`. The starts of the first 1,000 texts are
    looked at.
    """
    filled = (text[:_CHARACTERS_LOOKED_AT] for text in texts if text.strip())
    seen = list(islice(filled, _TEXTS_LOOKED_AT))
    letters = sum(len(_LETTER.findall(text)) for text in seen)
    unspaced = sum(len(_UNSPACED.findall(text)) for text in seen)
    if unspaced > _SHARE_UNSPACED * letters:
        return "unicode", f"{100 * unspaced / letters:.0f} % of the letters are of scripts written without spaces"
    spaced = sum(len(text.split()) for text in seen)
    words = sum(word[0].isalnum() for text in seen for word in unicode_words(text))
    if words > 2 * spaced:
        return "unicode", f"white space separates {spaced:,} parts that hold {words:,} words and numbers"
    return "words", "white space separates the words"


@cache
def _lexer(language: str) -> Any:
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        raise ValueError(
            f"code:{language}: expected a language that Pygments has a lexer for, such as python"
        ) from None
