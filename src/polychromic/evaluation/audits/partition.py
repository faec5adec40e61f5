"""Audits which answers count as the same, on control texts and on the answers that are compared."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from polychromic.diversity.equivalence import (
    MISSING,
    Equivalence,
    Exact,
    Normalised,
    Partition,
    TextGroup,
    normalised_form,
)
from polychromic.evaluation.criteria import ResultWarning, number, plural
from polychromic.evaluation.measure import UNLABELLED
from polychromic.evaluation.statistics.intervals import Resampling, mean_intervals
from polychromic.evaluation.tables import PromptTable
from polychromic.records import GenerationRow, Prompt
from polychromic.seeding import numpy_generator
from polychromic.tasks.equivalence import TaskForms

_PROMPTS, _PROMPTS_OF_A_SERVICE = 50, 10
_ANSWERS, _REFERENCES, _OF_TRIPLES = 16, 4, 5
"""Of each prompt, at most: a group that is shuffled, references held against one another, answers in triples."""
_MOST = 0.1
"""Share of controls, groups or answers from which a partition is called wrong."""
_OPEN_WORDS = 5
"""Words of the median answer from which answers are open text."""
_WRAPPED = ("How about {}?", "I would say {}.")
_LONGEST_WRAPPED = 12


@dataclass(frozen=True, slots=True)
class Share:
    """Holds how many of n cases failed."""

    failed: int
    n: int

    @property
    def is_large(self) -> bool:
        """Returns True where more than a tenth failed, and more than one."""
        return self.failed > max(1, _MOST * self.n)

    def __str__(self) -> str:
        return f"{self.failed} of {self.n}"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Holds the mean adjusted Rand index of two partitions over prompts, with its bootstrap interval: 1 where they are
    the same, 0 where they agree by chance. Source: Hubert and Arabie 1985, Comparing Partitions, equation 5."""

    second: str
    mean: float
    low: float
    high: float
    n_prompts: int

    def __str__(self) -> str:
        return (
            f"adjusted Rand index {number(self.mean, 2)} ({number(self.low, 2)} to {number(self.high, 2)}, "
            f"{plural(self.n_prompts, 'prompt')}) against {self.second}"
        )


@dataclass(frozen=True, slots=True)
class PartitionAudit:
    """Holds what was tried on a partition.

    Controls that must merge: `spelt`, spellings of one text; `wrapped`, "How about X?" beside X. Controls that must
    not: `merged`, references of different prompts; `references` of one prompt (or must, where `references_are_same`).
    On the answers: `reordered` groups whose number of clusters changes when they are shuffled; `broken` triples of
    which two pairs are the same and the third is not; `unlabelled` answers; `wordings`, answers that are another answer
    or a reference and more words; `agreement` with a second partition. `open_text` says that the median answer has five
    words or more.
    """

    name: str
    spelt: Share
    wrapped: Share
    merged: Share
    references: Share
    references_are_same: bool
    reordered: Share
    broken: Share
    unlabelled: Share
    wordings: Share
    open_text: bool
    agreement: Agreement | None = None
    first_reason: str = ""
    """The reason why the first answer without a label has none."""

    @property
    def faults(self) -> list[str]:
        """Returns what is wrong, in words; empty where nothing is."""
        exact, by_spelling = self.name == Exact.name, self.name in (Exact.name, Normalised.name)
        same = self.references_are_same
        verb = "keeps apart" if same else "takes for the same"
        unless = "" if same else " (right only where they are spellings of one answer)"
        checks = [
            (exact or (by_spelling and (self.open_text or self.wordings.is_large)),
             f"clusters are wordings: {self._wordings}"),
            (self.spelt.is_large and not exact,
             f"keeps apart what differs in case, white space or a full stop ({self.spelt} answers)"),
            (self.wrapped.is_large and not by_spelling,
             f"keeps apart what differs in a phrase around it, as “How about X?” and “X” do ({self.wrapped} texts)"),
            (self.merged.is_large, f"takes references of different prompts for the same ({self.merged} pairs)"),
            (self.references.is_large and not (by_spelling and same),
             f"{verb} different references of one prompt ({self.references} pairs){unless}"),
            (self.reordered.is_large,
             f"the number of clusters depends on the order of the answers ({self.reordered} groups)"),
            (self.broken.is_large,
             f"is not transitive: a is b and b is c, but a is not c ({self.broken} triples)"),
            (self.unlabelled.is_large, f"gives no label to answers ({self.unlabelled})"),
        ]  # fmt: skip
        return [fault for holds, fault in checks if holds]

    @property
    def finding(self) -> str:
        """Returns what is wrong, or that nothing is, in words."""
        said = "; ".join(self.faults) or "merges and keeps apart what it should"
        return f"task.same_answer ({self.name}): {said}"

    @property
    def sentence(self) -> str:
        """Returns the finding with the agreement."""
        return self.finding if self.agreement is None else f"{self.finding}; {self.agreement}"

    @property
    def _wordings(self) -> str:
        if self.wordings.is_large:
            return f"{self.wordings} answers are another one and more words"
        return "answers are open text" if self.open_text else "every change of spelling is another answer"

    def warnings(self) -> Iterator[ResultWarning]:
        """Yields one warning that says all that is wrong; none where nothing is."""
        if self.faults:
            text = f"{self.sentence}. Every count of different answers rests on it"
            yield ResultWarning("partition", "", text)


def audit_partition(
    equivalence: Equivalence,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Sequence[str]],
    *,
    second: Equivalence | None = None,
    references_are_same: bool = False,
    n_prompts: int | None = None,
) -> PartitionAudit | None:
    """Tries a partition on the references of prompts and on `answers` by prompt id; None for a task's canonical form.

    Where no prompt has references the first answers stand in. `second` is a partition to agree with, and
    `references_are_same` says that references of one prompt are spellings of one answer. Costs about 120 pairs a prompt
    for the first `n_prompts` prompts: 50, or 10 where a service is asked.
    """
    if isinstance(equivalence, TaskForms):
        return None
    n_prompts = n_prompts or (_PROMPTS_OF_A_SERVICE if getattr(equivalence, "waits", False) else _PROMPTS)
    audited = [prompt for prompt in prompts if prompt.references or answers.get(prompt.id)][:n_prompts]
    of_prompts = [(prompt, _first_words(*prompt.references, *answers.get(prompt.id, ()))) for prompt in audited]
    first = [(prompt, text) for prompt, text in of_prompts if text]
    short = [(prompt, text) for prompt, text in first if len(text.split()) <= _LONGEST_WRAPPED]
    groups: list[TextGroup] = [
        (prompt, list(answers[prompt.id])[:_ANSWERS]) for prompt in audited if answers.get(prompt.id)
    ]
    divided = equivalence.partitions(groups)
    return PartitionAudit(
        equivalence.name,
        spelt=_kept_apart(
            equivalence, [(prompt, [text, f"{text.upper().rstrip('.')}.", f"  {text} "]) for prompt, text in first]
        ),
        wrapped=_kept_apart(
            equivalence,
            [(prompt, _wrapped(text)) for prompt, text in short],
        ),
        merged=_merged(equivalence, _strangers(first)),
        references=_references(equivalence, audited, are_same=references_are_same),
        references_are_same=references_are_same,
        reordered=_reordered(equivalence, groups, divided),
        broken=_broken(equivalence, groups),
        unlabelled=Share(
            sum(int((partition.labels_N == MISSING).sum()) for partition in divided),
            sum(len(partition.labels_N) for partition in divided),
        ),
        wordings=_wordings(groups),
        open_text=_is_open(groups),
        agreement=_agreement(second, groups, divided) if second is not None else None,
        first_reason=next((reason for partition in divided for reason in partition.reasons), ""),
    )


def _kept_apart(equivalence: Equivalence, groups: Sequence[TextGroup]) -> Share:
    return Share(sum(_n_clusters(partition) > 1 for partition in equivalence.partitions(groups)), len(groups))


def _merged(equivalence: Equivalence, pairs: Sequence[TextGroup]) -> Share:
    partitions = equivalence.partitions(pairs)
    return Share(
        sum(_n_labelled(partition) == 2 and _n_clusters(partition) == 1 for partition in partitions), len(pairs)
    )


def _first_words(*texts: str) -> str:
    """Returns the first text that has a letter or a digit, else "": an empty answer has no other spelling."""
    return next((text for text in texts if any(map(str.isalnum, text))), "")


def _wrapped(text: str) -> list[str]:
    bare = text.strip().rstrip(".!?")
    return [text, *(phrase.format(bare) for phrase in _WRAPPED)]


def _strangers(first: Sequence[tuple[Prompt, str]]) -> list[TextGroup]:
    """Pairs each prompt's text with the next prompt's; those that are right for both by the references are left out."""
    return [
        (prompt, [own, other])
        for (prompt, own), (_, other) in zip(first, [*first[1:], *first[:1]], strict=True)
        if normalised_form(other) not in map(normalised_form, (own, *prompt.references))
    ]


def _references(equivalence: Equivalence, prompts: Sequence[Prompt], *, are_same: bool) -> Share:
    """Counts pairs of different references of one prompt that are merged; kept apart, where they are the same."""
    pairs: list[TextGroup] = [
        (prompt, pair)
        for prompt in prompts
        for pair in combinations(prompt.references[:_REFERENCES], 2)
        if normalised_form(pair[0]) != normalised_form(pair[1])
    ]
    return _kept_apart(equivalence, pairs) if are_same else _merged(equivalence, pairs)


def _reordered(equivalence: Equivalence, groups: Sequence[TextGroup], divided: Sequence[Partition]) -> Share:
    generator = numpy_generator("partition-audit")
    shuffled: list[TextGroup] = [
        (prompt, [texts[int(i)] for i in generator.permutation(len(texts))]) for prompt, texts in groups
    ]
    again = equivalence.partitions(shuffled)
    changed = sum(_n_clusters(before) != _n_clusters(after) for before, after in zip(divided, again, strict=True))
    return Share(changed, len(groups))


def _broken(equivalence: Equivalence, groups: Sequence[TextGroup]) -> Share:
    """Asks all pairs of some answers alone; counts, of triples with two same pairs, those whose third is not."""
    few: list[TextGroup] = [(prompt, list(dict.fromkeys(texts))[:_OF_TRIPLES]) for prompt, texts in groups]
    pairs: list[TextGroup] = [(prompt, pair) for prompt, texts in few for pair in combinations(texts, 2)]
    answers = iter(equivalence.partitions(pairs))
    failed = n = 0
    for _, texts in few:
        divided = {pair: next(answers) for pair in combinations(range(len(texts)), 2)}
        same = {pair: None if _n_labelled(of) < 2 else _n_clusters(of) == 1 for pair, of in divided.items()}
        for a, b, c in combinations(range(len(texts)), 3):
            triple = [same[a, b], same[b, c], same[a, c]]
            if None not in triple and sum(map(bool, triple)) >= 2:
                n += 1
                failed += not all(triple)
    return Share(failed, n)


def _wordings(groups: Sequence[TextGroup]) -> Share:
    """Counts answers that hold a shorter answer to the prompt, or a reference, and further words."""
    failed = n = 0
    for prompt, texts in groups:
        forms = {normalised_form(text) for text in (*texts, *prompt.references)} - {""}
        padded = {form: f" {form} " for form in forms}
        n += len(texts)
        failed += sum(
            any(other != form and padded.get(other, "") in padded.get(form, "") for other in forms)
            for form in map(normalised_form, texts)
        )
    return Share(failed, n)


def _is_open(groups: Sequence[TextGroup]) -> bool:
    lengths = [len(text.split()) for _, texts in groups for text in texts]
    return bool(lengths) and statistics.median(lengths) >= _OPEN_WORDS


def _agreement(second: Equivalence, groups: Sequence[TextGroup], divided: Sequence[Partition]) -> Agreement | None:
    from sklearn.metrics import adjusted_rand_score

    scores = []
    for first, other in zip(divided, second.partitions(groups), strict=True):
        both = (first.labels_N != MISSING) & (other.labels_N != MISSING)
        if both.sum() > 1:
            scores.append(float(adjusted_rand_score(first.labels_N[both], other.labels_N[both])))
    if not scores:
        return None
    low, high = (math.nan, math.nan)
    if len(scores) > 1:
        [(low, high)] = mean_intervals([np.array([scores])], Resampling())
    return Agreement(second.name, statistics.fmean(scores), low, high, len(scores))


def answers_of(rows: Sequence[GenerationRow]) -> dict[str, list[str]]:
    """Returns the texts of each prompt, by id, at the sampling setting of the first row."""
    answers: dict[str, list[str]] = {}
    for row in rows:
        if row.sampling == rows[0].sampling and row.finish != "missing":
            answers.setdefault(row.prompt_id, []).append(row.text)
    return answers


def unlabelled_warnings(tables: Mapping[tuple[str, int], PromptTable]) -> Iterator[ResultWarning]:
    """Warns of each arm and seed with answers that the equivalence gave no label, with the number and a reason."""
    for (arm, seed), table in tables.items():
        failed = {reason: n for reason, n in table.missing.items() if reason.startswith(UNLABELLED)}
        if failed:
            text = (
                f"{arm}, seed {seed}: {plural(sum(failed.values()), 'answer')} without a label, left out of every "
                f"count of different answers ({next(iter(failed))})"
            )
            yield ResultWarning("partition", arm, text)


def _n_clusters(partition: Partition) -> int:
    return len(set(partition.labels_N.tolist()) - {MISSING})


def _n_labelled(partition: Partition) -> int:
    return int((partition.labels_N != MISSING).sum())
