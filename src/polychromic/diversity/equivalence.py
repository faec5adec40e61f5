"""Decides which answers to one prompt are the same: one partition for training, evaluation and the page."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from polychromic.diversity.embedders import Embedder
from polychromic.diversity.semantic import cluster_by_embedding, cosine_distances
from polychromic.numerics import Float32Array, FloatArray, IntArray, label_codes
from polychromic.records import Prompt

MISSING = -1
"""The label of an answer that the equivalence could not place: no cluster of its own, but none at all."""

TextGroup = tuple[Prompt, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Partition:
    """Holds labels [N], 0, 1, … in order of first appearance or MISSING, and the reason of each missing one."""

    labels_N: IntArray
    reasons: tuple[str, ...] = ()


class Equivalence(Protocol):
    """Tells which answers to one prompt are the same. `name` stands in the signature of what is counted with it."""

    @property
    def name(self) -> str:
        """Returns the kind with all that its numbers depend on."""
        ...

    def form(self, prompt: Prompt, text: str) -> str | None:
        """Returns the form that same answers share, for the rows; None where only a whole group can be divided."""
        ...

    def partitions(self, groups: Sequence[TextGroup]) -> list[Partition]:
        """Divides the texts of each group; many groups at once cost less than one by one."""
        ...


def partition(equivalence: Equivalence, prompt: Prompt, texts: Sequence[str]) -> IntArray:
    """Returns labels [N] of the answers to one prompt; MISSING where the equivalence could not tell."""
    return equivalence.partitions([(prompt, texts)])[0].labels_N


_DASHES = str.maketrans({"‐": "-", "‑": "-", "‒": "-", "–": "-", "−": "-", "—": " ", "’": "'", "‘": "'"})
_BETWEEN_WORDS = re.compile(r"(?<!\d),|,(?!\d)|[;、。]")
_KEPT = frozenset("#%&@*/\\")  # C# is not C, and 50 % is not 50
_NUMBER = re.compile(r"-?\.?\d")
_POWER = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")


def normalised_form(text: str) -> str:
    """Returns the text without what spelling alone changes: Unicode form, case, white space, and punctuation at the
    ends of words and between them. Signs and points of numbers stay, and so do marks within words; a text of nothing
    but punctuation stays as it is.
    """
    text = _POWER.sub(lambda power: f"^{power[0]}", text)  # 10² is 10^2, not 102
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_DASHES)
    visible = "".join(character for character in folded if unicodedata.category(character) != "Cf")
    words = (_bare(word) for word in _BETWEEN_WORDS.sub(" ", visible).split())
    return " ".join(word for word in words if word) or " ".join(visible.split())


def _bare(word: str) -> str:
    start, end = 0, len(word)
    while start < end and _is_mark(word[start]) and not _NUMBER.match(word, start):
        start += 1
    while start < end and _is_mark(word[end - 1]):
        end -= 1
    return word[start:end]


def _is_mark(character: str) -> bool:
    return character not in _KEPT and unicodedata.category(character).startswith("P")


@dataclass(frozen=True)
class Normalised:
    """Takes answers for the same that differ in spelling alone."""

    name: str = "normalised"

    def form(self, prompt: Prompt, text: str) -> str | None:
        """Returns the normalised text."""
        return normalised_form(text)

    def partitions(self, groups: Sequence[TextGroup]) -> list[Partition]:
        """Divides by normalised text."""
        return [Partition(label_codes(map(normalised_form, texts))) for _, texts in groups]


@dataclass(frozen=True)
class Exact:
    """Takes answers for the same only where every character is."""

    name: str = "exact"

    def form(self, prompt: Prompt, text: str) -> str | None:
        """Returns None: the form would be the text, which the row holds."""
        return None

    def partitions(self, groups: Sequence[TextGroup]) -> list[Partition]:
        """Divides by text."""
        return [Partition(label_codes(texts)) for _, texts in groups]


class Embedded:
    """Takes answers for the same whose embeddings are close, by complete linkage: all pairs of a cluster lie within
    `distance` (1 − cosine), so that no chain of neighbours joins strangers. `how` says where the distance is from."""

    def __init__(self, embedder: Embedder, distance: float, how: str = "") -> None:
        self.distance = distance
        self._embedder = embedder
        self._how = how

    @property
    def name(self) -> str:
        """Returns the distance and the weights of the embedder."""
        return f"embedding distance up to {self.distance:.3g}{self._how} ({self._embedder.name})"

    def at(self, distance: float) -> Embedded:
        """Returns the same embeddings divided at another distance."""
        return Embedded(self._embedder, distance)

    def form(self, prompt: Prompt, text: str) -> str | None:
        """Returns None: what is close is decided in the whole group."""
        return None

    def partitions(self, groups: Sequence[TextGroup]) -> list[Partition]:
        """Embeds each distinct text of all groups once, and divides each group."""
        distinct = list(dict.fromkeys(text for _, texts in groups for text in texts))
        if not distinct:
            return [Partition(np.zeros(0, dtype=np.int64)) for _ in groups]
        row_of = {text: row for row, text in enumerate(distinct)}
        embeddings_UD = self._embedder.encode(distinct)
        return [Partition(self._labels([row_of[text] for text in texts], embeddings_UD)) for _, texts in groups]

    def _labels(self, rows: list[int], embeddings_UD: np.ndarray) -> IntArray:
        distinct = list(dict.fromkeys(rows))
        return cluster_by_embedding(embeddings_UD[distinct], 1.0 - self.distance)[label_codes(rows)]


class SpellingAside:
    """Embeds the normalised form of each text."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.name = f"{embedder.name} of normalised texts"

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Returns float32 [n, d] with rows of length 1, in the order of the texts."""
        return self._embedder.encode([normalised_form(text) for text in texts])


def calibrated_distance(embedder: Embedder, references: Sequence[Sequence[str]]) -> float:
    """Returns the distance that best tells references of one prompt from references of different ones: the midpoint
    between two observed distances at which the two shares of mistakes have the smallest sum.

    `references` are those of each prompt. Raises ValueError where no prompt has two, or fewer than two have any.
    """
    answered = [list(dict.fromkeys(texts)) for texts in references if texts]
    within = [_upper(cosine_distances(embedder.encode(texts))) for texts in answered if len(texts) > 1]
    if not within or len(answered) < 2:
        raise ValueError(
            "expected prompts with two references or more, and references of two prompts at least, to calibrate on"
        )
    same = np.sort(np.concatenate(within))
    strangers = np.sort(_upper(cosine_distances(embedder.encode([texts[0] for texts in answered]))))
    seen = np.unique(np.concatenate([same, strangers]))
    cuts = np.append((seen[1:] + seen[:-1]) / 2, seen[-1])
    mistakes = 1 - np.searchsorted(same, cuts, "right") / len(same)
    mistakes += np.searchsorted(strangers, cuts, "right") / len(strangers)
    return float(np.clip(cuts[np.argmin(mistakes)], 1e-6, 1.0))


def _upper(distances_NN: np.ndarray) -> FloatArray:
    return distances_NN[np.triu_indices(len(distances_NN), 1)].astype(np.float64)
