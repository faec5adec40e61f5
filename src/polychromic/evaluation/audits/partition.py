"""Audits which answers count as the same, on control texts and on the answers that are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from polychromic.diversity.equivalence import MISSING, Equivalence, Exact, Partition, normalised_form
from polychromic.evaluation.criteria import ResultWarning, plural
from polychromic.evaluation.measure import UNLABELLED
from polychromic.evaluation.tables import PromptTable
from polychromic.records import GenerationRow, Prompt
from polychromic.seeding import numpy_generator
from polychromic.tasks.equivalence import TaskForms

_PROMPTS = 50
_MOST = 0.1
"""Share of controls, groups or answers from which a partition is called wrong."""


@dataclass(frozen=True, slots=True)
class Share:
    """Holds how many of n cases failed."""

    failed: int
    n: int

    @property
    def is_large(self) -> bool:
        """Returns True where more than a tenth failed."""
        return self.failed > _MOST * self.n

    def __str__(self) -> str:
        return f"{self.failed} of {self.n}"


@dataclass(frozen=True, slots=True)
class PartitionAudit:
    """Holds what was tried on a partition: spellings of one answer that it keeps apart, references of different prompts
    that it merges, groups whose number of clusters changes with the order of the answers."""

    name: str
    apart: Share
    merged: Share
    reordered: Share

    def warnings(self) -> Iterator[ResultWarning]:
        """Yields one warning that says all that is wrong; none where nothing is."""
        faults = []
        if self.name == Exact.name:
            faults.append("clusters are wordings: every change of spelling counts as another answer")
        elif self.apart.is_large:
            faults.append(
                f"keeps apart what differs in case, white space or a full stop ({self.apart} answers)"
            )
        if self.merged.is_large:
            faults.append(f"takes references of different prompts for the same ({self.merged} pairs)")
        if self.reordered.is_large:
            faults.append(
                f"the number of clusters depends on the order of the answers ({self.reordered} groups)"
            )
        if faults:
            text = f"task.same_answer ({self.name}): {'; '.join(faults)}. Every count of different answers rests on it"
            yield ResultWarning("partition", "", text)


def audit_partition(
    equivalence: Equivalence,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Sequence[str]],
    *,
    n_prompts: int = _PROMPTS,
) -> PartitionAudit | None:
    """Tries a partition on the references of prompts and on `answers` by prompt id; None for a task's canonical form.

    Where no prompt has references the first answers stand in. Costs three texts a reference and two groups a prompt,
    for the first `n_prompts` prompts.
    """
    if isinstance(equivalence, TaskForms):
        return None
    asked = [prompt for prompt in prompts if prompt.references or answers.get(prompt.id)][:n_prompts]
    first = [(prompt, (*prompt.references, *answers.get(prompt.id, ()))[0]) for prompt in asked]
    spelt = equivalence.partitions(
        [(prompt, [text, f"{text.upper().rstrip('.')}.", f"  {text} "]) for prompt, text in first]
    )
    pairs = [
        (prompt, [own, other])
        for (prompt, own), (_, other) in zip(first, [*first[1:], *first[:1]], strict=True)
        if normalised_form(other) not in map(normalised_form, (own, *prompt.references))
    ]
    strangers = equivalence.partitions(pairs)
    groups = [(prompt, list(answers[prompt.id])) for prompt in asked if answers.get(prompt.id)]
    generator = numpy_generator("partition-audit")
    shuffled = [(prompt, [texts[i] for i in generator.permutation(len(texts))]) for prompt, texts in groups]
    divided, again = equivalence.partitions(groups), equivalence.partitions(shuffled)
    return PartitionAudit(
        equivalence.name,
        apart=Share(sum(_n_clusters(one) > 1 for one in spelt), len(spelt)),
        merged=Share(sum(_n_labelled(one) == 2 and _n_clusters(one) == 1 for one in strangers), len(pairs)),
        reordered=Share(
            sum(_n_clusters(one) != _n_clusters(two) for one, two in zip(divided, again, strict=True)),
            len(groups),
        ),
    )


def partition_warnings(
    equivalence: Equivalence, prompts: Sequence[Prompt], rows_by_seed: Sequence[Sequence[GenerationRow]]
) -> list[ResultWarning]:
    """Warns of a partition that fails its audit on the answers of the first seed, at the first sampling setting."""
    rows: Sequence[GenerationRow] = next(iter(rows_by_seed), [])
    answers: dict[str, list[str]] = {}
    for row in rows:
        if row.sampling == rows[0].sampling and row.finish != "missing":
            answers.setdefault(row.prompt_id, []).append(row.text)
    audit = audit_partition(equivalence, prompts, answers)
    return list(audit.warnings()) if audit else []


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
