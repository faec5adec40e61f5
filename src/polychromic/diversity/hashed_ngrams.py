"""An embedder that needs no download: hashed character n-grams."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


class HashedNgramEmbedder:
    """Counts of character n-grams (lengths 2 to 4 by default), hashed into `dimensions` buckets with signs.

    It sees spelling, not meaning: paraphrases lie far apart. Two texts with no n-gram in common have cosine 0 up
    to hash collisions, and no pair is opposed by meaning. The hash is CRC-32 of the UTF-8 bytes, so vectors are
    the same on every machine. Source: Weinberger et al. 2009, Feature Hashing for Large Scale Multitask Learning.
    """

    def __init__(self, dimensions: int = 1024, lengths: tuple[int, int] = (2, 4)):
        self.dimensions = dimensions
        self.lengths = lengths
        self.name = f"hashed-char-ngrams-{lengths[0]}-{lengths[1]}-d{dimensions}"

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Float32 [n, d] with rows of length 1."""
        embeddings_ND = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in zip(embeddings_ND, texts, strict=True):
            self._add(row, self._ngrams(text))
            if not row.any():  # every n-gram met another of the other sign: the text stands as one
                self._add(row, {text: 1})
        return embeddings_ND / np.linalg.norm(embeddings_ND, axis=1, keepdims=True)

    def _add(self, row: NDArray[np.float32], ngrams: Mapping[str, int]) -> None:
        hashes = np.array([zlib.crc32(ngram.encode("utf-8", "surrogatepass")) for ngram in ngrams], np.int64)
        counts = np.fromiter(ngrams.values(), np.float32, len(ngrams))
        np.add.at(row, (hashes >> 1) % self.dimensions, np.where(hashes & 1, counts, -counts))

    def _ngrams(self, text: str) -> Counter[str]:
        # The marks keep the start and end apart from the middle, and give the empty text an n-gram of its own.
        marked = f"\x02{text}\x03"
        shortest, longest = self.lengths
        return Counter(
            marked[start : start + length]
            for length in range(shortest, longest + 1)
            for start in range(len(marked) - length + 1)
        )
