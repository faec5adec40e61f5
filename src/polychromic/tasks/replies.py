"""Replies to posts: prompts from JSON lines, quality from relevance learnt on the training pairs themselves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polychromic.records import Check, Prompt
from polychromic.seeding import numpy_generator
from polychromic.tasks.base import Split
from polychromic.tasks.files import FileTask
from polychromic.tasks.relevance import Pairs, RelevanceChecker, train_checker
from polychromic.wheels import cache_root

if TYPE_CHECKING:
    from polychromic.tasks.word_vectors import WordTable


class RepliesTask(FileTask):
    """Posts with reference replies.

    `check` is trained on one half of the training pairs, on sentence embeddings; `judge` on the other half, on
    static word vectors. So an exploit of the one is not an exploit of the other, and a gap that opens between
    them is reward hacking. Nothing is loaded or trained before a score is asked for.
    """

    name = "replies"

    def __init__(self, train: Path, validation: Path, test: Path, embedder: str = "minilm", seed: int = 0):
        super().__init__(train, validation, test, embedder)
        self._seed = seed

    @property
    def pass_threshold(self) -> float:
        """The relevance that a tenth of the shuffled replies of the validation split reach."""
        return self.checker.pass_threshold

    def check(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
        """Relevance of each reply."""
        return _checks(self.checker, prompts, texts)

    def judge(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check] | None:
        """Relevance of each reply to a checker that training never sees."""
        return _checks(self.second_checker, prompts, texts)

    def report(self) -> dict[str, Any]:
        """What the two checkers are worth on the test split: AUC, pass rates of controls, correlation."""
        from polychromic.tasks.relevance_report import relevance_report

        return relevance_report(self)

    @cached_property
    def checker(self) -> RelevanceChecker:
        """The training checker."""
        from filelock import FileLock

        lock = cache_root() / ".relevance.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        # Arms started side by side would otherwise each embed the pairs; the second finds them in the cache.
        with FileLock(lock):
            return train_checker(
                self.embedder, self._halves[0], self.pairs("validation"), self.generator("checker")
            )

    @cached_property
    def second_checker(self) -> RelevanceChecker:
        """The evaluation-only checker."""
        from polychromic.tasks.word_vectors import SifEncoder

        half = self._halves[1]
        encoder = SifEncoder.fit(self._word_table(), half.posts + half.replies)
        return train_checker(encoder, half, self.pairs("validation"), self.generator("judge"))

    def pairs(self, split: Split) -> Pairs:
        """Each post of a split that has references, with the first of them."""
        answered = [prompt for prompt in self.prompts(split) if prompt.references]
        return Pairs([prompt.text for prompt in answered], [prompt.references[0] for prompt in answered])

    def generator(self, use: str) -> np.random.Generator:
        """The random numbers of one use, decided by the task's seed alone."""
        return numpy_generator("replies", self._seed, use)

    @cached_property
    def _halves(self) -> tuple[Pairs, Pairs]:
        pairs = self.pairs("train")
        order = self.generator("halves").permutation(len(pairs.posts))
        middle = len(order) // 2
        return pairs.take(order[:middle]), pairs.take(order[middle:])

    def _word_table(self) -> WordTable:
        from polychromic.tasks.word_vectors import HashedWords, MiniLMWords

        return HashedWords() if self._embedder_name == "hash" else MiniLMWords()


def _checks(checker: RelevanceChecker, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[Check]:
    scores = checker.scores([prompt.text for prompt in prompts], texts)
    return [Check(float(score)) for score in scores]
