"""The audit of a partition: spellings that must merge, references that must not, and the order of answers."""

import dataclasses
import re
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from polychromic.diversity.equivalence import (
    Exact,
    Normalised,
    Partition,
)
from polychromic.evaluation.audits.partition import audit_partition
from polychromic.records import (
    Prompt,
    as_messages,
)
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.tasks.equivalence import equivalence_of

PROMPTS = [
    Prompt(f"p{i}", as_messages(f"Name {i}."), references=(one,))
    for i, one in enumerate(["red", "blue", "green"])
]
GROUPS = {prompt.id: ["one", "two", "three", "four"] for prompt in PROMPTS}


@dataclasses.dataclass
class By:
    """An equivalence that a function of the texts makes."""

    divide: Callable[[list[str]], Iterable[int]]
    name: str = "by"

    def form(self, prompt, text):
        return None

    def partitions(self, groups):
        return [Partition(np.array([*self.divide(texts)], dtype=np.int64)) for _, texts in groups]


@pytest.mark.parametrize(
    ("equivalence", "words"),
    [
        (Exact(), "clusters are wordings"),
        (
            By(lambda texts: [0] * len(texts)),
            r"references of different prompts for the same \(3 of 3 pairs\)",
        ),
        (By(lambda texts: range(len(texts))), r"case, white space or a full stop \(3 of 3 answers\)"),
        (
            By(
                lambda texts: [
                    i % (2 if texts[0] in ("two", "three", "four") else 1) for i in range(len(texts))
                ]
            ),
            "depends on the order",
        ),
    ],
)
def test_a_partition_that_fails_is_warned_of(equivalence, words):
    audit = audit_partition(equivalence, PROMPTS, GROUPS)
    assert audit is not None
    [warning] = audit.warnings()
    assert warning.kind == "partition"
    assert re.search(words, warning.text)


def test_a_partition_that_works_is_not_warned_of():
    audit = audit_partition(Normalised(), PROMPTS, GROUPS)
    assert audit is not None and not list(audit.warnings())
    assert audit_partition(equivalence_of(ArithmeticTask(8, 2, 2)), PROMPTS, GROUPS) is None
