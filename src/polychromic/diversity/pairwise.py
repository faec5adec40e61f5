"""Makes partitions of pairwise answers ("are these two the same?") with as few questions as the rule allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from polychromic.diversity.equivalence import MISSING, Partition, TextGroup
from polychromic.numerics import label_codes
from polychromic.records import Prompt

Rule = Literal["greedy", "transitive"]
RULES: dict[Rule, str] = {"greedy": "greedy assignment", "transitive": "transitive closure"}
"""The rules, with the words that stand for them in signatures."""

Question = tuple[Prompt, str, str]
"""A prompt, the first member of a class, and a text that may belong to it."""
Answer = bool | str
"""An answer about a pair: True where both are the same; a text is the reason why that is not known."""
Ask = Callable[[Sequence[Question]], Sequence[Answer]]


def pairwise_partitions(groups: Sequence[TextGroup], ask: Ask, rule: Rule = "greedy") -> list[Partition]:
    """Divides the texts of each group by asking pairs of texts, in rounds that ask for all groups together.

    In each round every group opens a class with its first text that has none, and asks it against other texts:

    - greedy: those that have no class yet. So each text joins the first class whose first member is the same, and
      the labels depend on the order where the answers are not transitive. Source: Zhang et al. 2025, NoveltyBench,
      section 3.1.
    - transitive: all that opened no class. A text that is the same as the first members of several classes makes
      these one: the transitive closure of what was asked.

    Both ask at most distinct texts × classes opened, equal questions (one prompt, equal texts) once. A text that some
    question about it has no answer to has no label, with the reason.
    """
    growing = [_Growing(texts, rule) for _, texts in groups]
    while rounds := [
        (number, prompt_group.open_class()) for number, prompt_group in enumerate(growing) if prompt_group.waiting
    ]:
        questions = [(groups[number][0], growing[number].first, text) for number, texts in rounds for text in texts]
        answers = iter(_asked_once(questions, ask))
        for number, texts in rounds:
            growing[number].learn({text: next(answers) for text in texts})
    return [prompt_group.partition() for prompt_group in growing]


def _asked_once(questions: Sequence[Question], ask: Ask) -> list[Answer]:
    keys = [(prompt.messages, first, text) for prompt, first, text in questions]
    unique = dict(zip(keys, questions, strict=True))
    if not unique:
        return []
    answers = dict(zip(unique, ask(list(unique.values())), strict=True))
    return [answers[key] for key in keys]


class _Growing:
    """Grows the classes of one group round by round."""

    def __init__(self, texts: Sequence[str], rule: Rule) -> None:
        self.texts = texts
        self.merges = rule == "transitive"
        self.waiting = list(dict.fromkeys(texts))
        """Distinct texts without a class, in order."""
        self.firsts: list[str] = []
        self.classes: dict[str, int] = {}
        self.root: list[int] = []
        """The class that each class has become part of; its own number until then."""
        self.reasons: dict[str, str] = {}

    @property
    def first(self) -> str:
        """Returns the first member of the class opened last."""
        return self.firsts[-1]

    def open_class(self) -> list[str]:
        """Opens a class with the first text that waits for one; returns the texts to ask it against."""
        first = self.waiting.pop(0)
        self.classes[first] = len(self.firsts)
        self.root.append(len(self.firsts))
        self.firsts.append(first)
        opened = set(self.firsts)
        joined = [text for text in self.classes if text not in opened] if self.merges else []
        return [*joined, *self.waiting]

    def learn(self, answers: dict[str, Answer]) -> None:
        """Takes the answers for the class opened last, by text."""
        opened = len(self.firsts) - 1
        for text, answer in answers.items():
            if isinstance(answer, str):
                self.reasons[text] = answer
                self.classes.pop(text, None)
            elif answer:
                self._join(text, opened)
        self.waiting = [text for text in self.waiting if text not in self.classes and text not in self.reasons]

    def _join(self, text: str, opened: int) -> None:
        own = self.classes.setdefault(text, opened)
        merged, into = self.root[own], self.root[opened]
        self.root = [into if root == merged else root for root in self.root]

    def partition(self) -> Partition:
        """Returns the labels, numbered in order of first appearance."""
        labelled = [self.root[self.classes[text]] for text in self.texts if text in self.classes]
        codes = iter(label_codes(labelled).tolist())
        labels_N = np.array([next(codes) if text in self.classes else MISSING for text in self.texts], dtype=np.int64)
        return Partition(labels_N, tuple(self.reasons[text] for text in self.texts if text in self.reasons))
