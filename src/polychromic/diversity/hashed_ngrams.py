"""An embedder that needs no download: hashed character n-grams."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

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
                self._add(row, [text.encode("utf-8", "surrogatepass")])
        return embeddings_ND / np.linalg.norm(embeddings_ND, axis=1, keepdims=True)

    def _add(self, row: NDArray[np.float32], ngrams: Sequence[bytes]) -> None:
        hashes = np.array([zlib.crc32(ngram) for ngram in ngrams], dtype=np.int64)
        np.add.at(row, (hashes >> 1) % self.dimensions, np.where(hashes & 1, 1.0, -1.0))

    def _ngrams(self, text: str) -> list[bytes]:
        # The marks keep the start and end apart from the middle, and give the empty text an n-gram of its own.
        marked = f"\x02{text}\x03"
        shortest, longest = self.lengths
        return [
            marked[start : start + length].encode("utf-8", "surrogatepass")
            for length in range(shortest, longest + 1)
            for start in range(len(marked) - length + 1)
        ]
