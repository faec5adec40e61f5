"""The audit of a partition: what must merge, what must not, order, triples, agreement, wordings."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import numpy as np
import pytest

from polychromic.diversity.embedders import load_embedder
from polychromic.diversity.equivalence import MISSING, Embedded, Exact, Normalised, Partition, SpellingAside
from polychromic.diversity.pairwise import pairwise_partitions
from polychromic.evaluation.audits.partition import Share, audit_partition
from polychromic.experiment.preflight.data import same_answers_are_found
from polychromic.records import GenerationRow, Prompt, SamplingParameters, as_messages
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.tasks.equivalence import equivalence_of
from polychromic.tasks.jsonl_task import CustomTask
from polychromic.tasks.partitions.settings import SameAnswer
from polychromic.training.settings import TrainingSettings

PROMPTS = [
    Prompt(f"p{i}", as_messages(f"Name {i}."), references=pair)
    for i, pair in enumerate([("red", "crimson"), ("blue", "azure"), ("green", "olive")])
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
        return [Partition(np.array([*self.divide(list(texts))], dtype=np.int64)) for _, texts in groups]


@dataclasses.dataclass
class Pairs(By):
    """An equivalence that a relation of two texts makes, greedily."""

    divide: Callable[[str, str], bool]  # type: ignore[assignment]

    def partitions(self, groups):
        return pairwise_partitions(groups, lambda questions: [self.divide(a, b) for _, a, b in questions], "greedy")


def audited(equivalence, groups=GROUPS, **options):
    audit = audit_partition(equivalence, PROMPTS, groups, **options)
    assert audit is not None
    return audit


@pytest.mark.parametrize(
    ("equivalence", "words"),
    [
        (Exact(), "clusters are wordings: every change of spelling"),
        (By(lambda texts: [0] * len(texts)), r"references of different prompts for the same \(3 of 3 pairs\)"),
        (By(lambda texts: [0] * len(texts)), r"different references of one prompt \(3 of 3 pairs\) \(right only"),
        (By(lambda texts: range(len(texts))), r"case, white space or a full stop \(3 of 3 answers\)"),
        (By(lambda texts: range(len(texts))), r"as “How about X\?” and “X” do \(3 of 3 texts\)"),
        (By(lambda texts: [i % (1 if texts[1] == "two" else 2) for i in range(len(texts))]), "depends on the order"),
        (By(lambda texts: [MISSING] * len(texts)), r"gives no label to answers \(12 of 12\)"),
    ],
)  # fmt: skip
def test_a_partition_that_fails_is_warned_of(equivalence, words):
    [warning] = audited(equivalence).warnings()
    assert warning.kind == "partition"
    assert re.search(words, warning.text)


def test_a_relation_that_is_not_transitive_is_counted_in_triples():
    """Neighbours by length are the same: 1, 2 and 3 letters, of which the first and the last are not."""
    near = Pairs(lambda a, b: abs(len(a) - len(b)) <= 1)
    groups = {prompt.id: ["a", "bb", "ccc", "ffffff"] for prompt in PROMPTS}
    audit = audited(near, groups)
    # Of the triples only (a, bb, ccc) has two same pairs; (bb, ccc, ffffff) has one.
    assert audit.broken == Share(3, 3)
    assert "is not transitive: a is b and b is c, but a is not c (3 of 3 triples)" in audit.sentence
    assert audited(Pairs(lambda a, b: a[0] == b[0]), groups).broken == Share(0, 0)


def test_references_of_one_prompt_must_merge_where_they_are_said_to_be_the_same():
    together, apart = By(lambda texts: [0] * len(texts)), By(lambda texts: range(len(texts)))
    assert audited(together, references_are_same=True).references == Share(0, 3)
    assert audited(apart, references_are_same=True).references == Share(3, 3)
    assert "keeps apart different references of one prompt (3 of 3 pairs)" in (
        audited(apart, references_are_same=True).sentence
    )


def test_a_partition_that_works_is_not_warned_of():
    audit = audited(Normalised())
    assert not list(audit.warnings()) and audit.sentence.endswith("merges and keeps apart what it should")
    assert audit.wrapped == Share(3, 3)  # which spelling cannot do, and does not claim
    assert audit_partition(equivalence_of(ArithmeticTask(8, 2, 2)), PROMPTS, GROUPS) is None


@pytest.mark.parametrize("empty", ["", "  ", "..."])
def test_an_empty_answer_has_no_other_spelling(empty):
    """Spelling was said to keep apart what differs in a full stop, where a baseline had given empty answers."""
    prompts = [dataclasses.replace(prompt, references=()) for prompt in PROMPTS]
    audit = audit_partition(Normalised(), prompts, {prompt.id: [empty, "Red", empty] for prompt in prompts})
    assert audit is not None and audit.spelt == Share(0, 3) and not audit.faults
    only = audit_partition(Normalised(), prompts, {prompt.id: [empty] for prompt in prompts})
    assert only is not None and only.spelt == Share(0, 0) and not only.faults


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (["Red.", "How about red?", "One is red.", "blue"], "6 of 12 answers are another one and more words"),
        (["he went to the old harbour", "they sang until the morning came"], "answers are open text"),
    ],
)
@pytest.mark.parametrize("equivalence", [Normalised(), Exact()])
def test_spelling_on_wordings_counts_wordings_and_says_so(equivalence, answers, words):
    audit = audited(equivalence, {prompt.id: answers for prompt in PROMPTS})
    assert f"clusters are wordings: {words}" in audit.sentence


def test_meaning_may_decide_on_open_text():
    answers = ["he went to the old harbour", "they sang until the morning came"]
    embedded = Embedded(SpellingAside(load_embedder("hash")), 0.75)
    audit = audited(embedded, {prompt.id: answers for prompt in PROMPTS})
    assert audit.open_text and not audit.faults


def test_agreement_is_the_adjusted_rand_index_with_an_interval_over_prompts():
    halves = By(lambda texts: [i // 2 for i in range(len(texts))], "halves")
    groups = {f"p{i}": ["a", "b", "c", "d"] for i in range(3)}
    same = audited(halves, groups, second=halves).agreement
    assert (same.mean, same.low, same.high, same.n_prompts, same.second) == (1.0, 1.0, 1.0, 3, "halves")
    # {ab, cd} against {ac, bd}: no pair in common, 2 pairs in each, 4·2/6 = 2/3 expected: (0 − 2/3)/(2 − 2/3) = −1/2
    crossed = By(lambda texts: [i % 2 for i in range(len(texts))], "crossed")
    assert audited(halves, groups, second=crossed).agreement.mean == pytest.approx(-0.5)
    mixed = By(lambda texts: [i // 2 if texts[0] == "a" else i % 2 for i in range(len(texts))], "mixed")
    groups["p2"] = ["w", "x", "y", "z"]
    agreement = audited(halves, groups, second=mixed).agreement
    assert agreement.mean == pytest.approx((1 + 1 - 0.5) / 3)
    assert -0.5 <= agreement.low < agreement.mean < agreement.high <= 1.5
    assert "adjusted Rand index 0.5 (" in audited(halves, groups, second=mixed).sentence


def test_a_service_is_asked_about_ten_prompts_only():
    asked = []

    class Service(By):
        waits = True

        def partitions(self, groups):
            asked.extend(prompt.id for prompt, _ in groups)
            return super().partitions(groups)

    prompts = [Prompt(f"q{i}", as_messages("Name."), (f"{i}",)) for i in range(30)]
    audit_partition(Service(lambda texts: [0] * len(texts)), prompts, {})
    assert set(asked) == {f"q{i}" for i in range(10)}


FUNCTIONS = """
def named(prompt, text):
    return next((one for one in prompt.references if one in text), text.strip(" .").lower())

def fails(prompt, text):
    raise OSError("no connection")
"""


@pytest.mark.parametrize(
    ("same", "status", "words"),
    [
        ("mine.py:named", "passed", "merges and keeps apart what it should; adjusted Rand index"),
        ("exact", "warned", "clusters are wordings"),
        ("mine.py:fails", "failed", "The first reason: OSError: no connection"),
    ],
)
def test_preflight_tries_the_partition_before_anything_is_trained(tmp_path, same, status, words):
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f'{{"id": "p{i}", "prompt": "{i}?", "references": ["{i}{i}{i}"]}}\n' for i in range(4)))
    task = CustomTask(
        file, file, file, checker="contains", embedder="hash",
        same=SameAnswer(kind=same.replace("mine.py", str(tmp_path / "mine.py"))),
    )  # fmt: skip
    rows = [
        GenerationRow(f"p{i}", n, text, 1, "stop", SamplingParameters(1.0), 0, reward=None)
        for i in range(4) for n, text in enumerate(["red", "Red.", "blue", "green"])
    ]  # fmt: skip
    arm = SimpleNamespace(training=TrainingSettings(loss="rl", steps=1))
    probe = SimpleNamespace(
        task=task, trained_arms=[arm],
        generations=SimpleNamespace(rows=rows, prompts={prompt.id: prompt for prompt in task.prompts("test")}),
        experiment=SimpleNamespace(evaluation=SimpleNamespace(embedder=None)),
    )  # fmt: skip
    finding = same_answers_are_found(probe)
    assert finding.status == status and words in finding.result
    assert bool(finding.fix) == (status != "passed")
    json.dumps(finding.figures, allow_nan=False)
