"""Measures every arm, seed and sampling setting, and says what is undefined."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import TypeVar

import numpy as np

from polychromic.diversity import Embedder, measure_signatures
from polychromic.diversity.equivalence import Equivalence, Partition
from polychromic.diversity.tokens import Tokenizer, TokenOptions, sign
from polychromic.evaluation.group_metrics import (
    AnswerGroup,
    GroupMetrics,
    MeasureOptions,
    carry_forms,
    group_rows,
    measure_answers,
)
from polychromic.evaluation.metrics import Metric, load_metrics, require_addable
from polychromic.evaluation.tables import PromptTable, SampledTable
from polychromic.numerics import Float32Array, FloatArray, label_codes
from polychromic.processes import open_worker_pool
from polychromic.records import GenerationRow, Prompt
from polychromic.tasks.base import Split, Task
from polychromic.tasks.equivalence import equivalence_of


def count_reasons(reasons: Iterable[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """Returns metric → reason → number of groups, from each group's reasons by metric."""
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for of_group in reasons:
        for metric, reason in of_group.items():
            counted[metric][reason] += 1
    return {metric: dict(counts) for metric, counts in counted.items()}


Embedded = tuple[AnswerGroup, Float32Array | None]
_GROUPS_AT_ONCE = 64
Key = TypeVar("Key")
UNLABELLED = "same_answer: "
"""Begins the reason why an answer has no label, among those of missing rewards."""
Grouped = dict[Key, dict[str, list[AnswerGroup]]]


@dataclass(frozen=True)
class SameAnswers:
    """Divides answers by an equivalence that is asked with their prompts, by id; those of one sampling setting also by
    a second one, which training never saw."""

    equivalence: Equivalence
    prompts: Mapping[str, Prompt]
    second: Equivalence | None = None
    second_at: str = ""

    @classmethod
    def of(cls, task: Task, split: Split) -> SameAnswers:
        """Returns the task's equivalence with the prompts of a split."""
        return cls(equivalence_of(task), {prompt.id: prompt for prompt in task.prompts(split)})

    def divide(self, grouped: Mapping[Key, Mapping[str, list[AnswerGroup]]]) -> Grouped[Key]:
        """Returns the groups with labels: those of the rows' forms where all have one, else asked for together."""
        everything = [group for by_label in grouped.values() for groups in by_label.values() for group in groups]
        first = self._partitions(self.equivalence, [group for group in everything if not group.all_formed])
        at_once = [group for by_label in grouped.values() for group in by_label.get(self.second_at, [])]
        second = self._partitions(self.second, at_once) if self.second else {}

        def divided(group: AnswerGroup) -> AnswerGroup:
            own, other = first.get(id(group)), second.get(id(group))
            reasons = [UNLABELLED + reason for reason in own.reasons] if own else []
            return replace(
                group,
                labels=own.labels_N if own else label_codes(group.forms or []),
                second_labels=other.labels_N if other else None,
                errors=[*group.errors, *reasons],
            )

        return {
            key: {label: [divided(group) for group in groups] for label, groups in by_label.items()}
            for key, by_label in grouped.items()
        }

    def _partitions(self, equivalence: Equivalence, groups: Sequence[AnswerGroup]) -> dict[int, Partition]:
        """Returns the partitions by the identity of their groups."""
        partitions = equivalence.partitions([(self.prompts[group.prompt_id], group.texts) for group in groups])
        return dict(zip(map(id, groups), partitions, strict=True))


def measure_rows(
    rows: Sequence[GenerationRow],
    options: MeasureOptions,
    *,
    embedder: Embedder | None = None,
    extra: Mapping[str, Mapping[str, float]] | None = None,
    pool: Executor | None = None,
    same: SameAnswers | None = None,
) -> PromptTable:
    """Measures one arm's and seed's rows.

    `same` divides the answers; without it they are the same by the rows' forms, else by embedding, else by text.
    Without an embedder there are no semantic metrics. `extra` adds registered metrics made elsewhere to every way of
    sampling: metric key → prompt id → value. The groups are measured in `pool` where one is given.
    Raises ValueError without rows, or where a generation appears twice.
    """
    if not rows:
        raise ValueError("rows: expected at least one generation to measure")
    grouped = {"": group_rows(rows)}
    if same is not None:
        grouped = same.divide(grouped)
    return _measure_groups(grouped[""], options, embedder, extra or {}, pool, same=same)


def measure_arms(
    rows_by_arm_seed: Mapping[tuple[str, int], Sequence[GenerationRow]],
    *,
    pass_threshold: float,
    cluster_distance: float = 0.25,
    embedder: Embedder | None = None,
    tokens: str | Tokenizer = "words",
    metrics: Sequence[str] = (),
    extra: Mapping[tuple[str, int], Mapping[str, Mapping[str, float]]] | None = None,
    workers: int = 1,
    same: SameAnswers | None = None,
) -> dict[tuple[str, int], PromptTable]:
    """Returns tables of all arms and seeds that may be compared: at one number of answers, of draws and of bigrams.

    Each is the largest that 95 % of the prompts have in every arm, seed and sampling setting, so that no arm gains by
    talking longer or by being sampled less or more often. `tokens` are the units of text (see `TokenOptions`).
    `metrics` are import paths of the user's own: their code runs here, on as many answers as the measures of texts see.
    `extra` is that of `measure_rows`, by arm and seed, and `same` its own. Groups are measured in `workers` processes.
    Raises ValueError where an arm and seed has no row, a generation appears twice, or `extra` is of other arms or
    prompts.
    """
    empty = [key for key, rows in rows_by_arm_seed.items() if not rows]
    if empty or not rows_by_arm_seed:
        raise ValueError(f"rows_by_arm_seed: expected generations of every arm and seed; none for {empty or 'any'}")
    if strangers := [key for key in extra or {} if key not in rows_by_arm_seed]:
        raise ValueError(f"extra: {strangers} have no generations; expected arms and seeds of {list(rows_by_arm_seed)}")
    # An arm without one answer that has a form must not fall back on another notion of equal answers.
    has_forms = carry_forms(chain.from_iterable(rows_by_arm_seed.values()))
    grouped = {key: group_rows(rows, has_forms=has_forms) for key, rows in rows_by_arm_seed.items()}
    if same is not None:
        grouped = same.divide(grouped)
    everything = [group for labels in grouped.values() for groups in labels.values() for group in groups]
    answers = _common(everything, len)
    options = MeasureOptions(pass_threshold, cluster_distance, _common(everything, _n_rewarded), answers)
    # One bigram is always distinct: a budget of 1 would measure nothing.
    units = TokenOptions(tokens)
    budget = max(2, _common(everything, lambda group: _n_bigrams(units.split(group.texts[:answers]))))
    options = replace(options, measures=replace(options.measures, budget=budget, tokens=tokens))
    own = load_metrics(metrics)
    with open_pool(workers) as pool:
        return {
            key: _measure_groups(labels, options, embedder, (extra or {}).get(key, {}), pool, own, same)
            for key, labels in grouped.items()
        }


def _measure_groups(
    by_label: Mapping[str, list[AnswerGroup]],
    options: MeasureOptions,
    embedder: Embedder | None,
    extra: Mapping[str, Mapping[str, float]],
    pool: Executor | None,
    own: Sequence[Metric] = (),
    same: SameAnswers | None = None,
) -> PromptTable:
    named = replace(options.measures, embedder=embedder.name if embedder else "none")
    options = replace(options, measures=named)
    groups = [group for members in by_label.values() for group in members]
    answers = options.answers or max(map(len, groups))
    prompts = tuple(sorted({group.prompt_id for group in groups}))
    spread = pool.map if pool else map
    measured = chain.from_iterable(spread(_measure_chunk, _embedded_chunks(groups, embedder), repeat(options)))
    sampled, undefined = {}, {}
    for label, members in by_label.items():
        by_prompt = {group.prompt_id: next(measured) for group in members}
        for group in members:
            _add_own(by_prompt[group.prompt_id], group, answers, own)
        sampled[label] = _columns(prompts, by_prompt, extra)
        undefined[label] = count_reasons(metrics.undefined for metrics in by_prompt.values())
    clusters = same.equivalence.name if same else _cluster_method(groups[0], options, embedder)
    return PromptTable(
        prompts,
        sampled,
        clusters,
        _signatures(options, answers, clusters, sampled, own, same.second if same else None),
        dict(Counter(error for group in groups for error in group.errors)),
        answers,
        {label: max(map(len, members)) for label, members in by_label.items()},
        undefined,
    )


def _common(groups: list[AnswerGroup], count: Callable[[AnswerGroup], int]) -> int:
    """Returns the largest number (at least 1) that 95 % of the prompts have in each of their groups.

    Groups that lack half of the answers asked for, or more, do not count: one arm that fails to answer would shrink
    all others.
    """
    least: dict[str, int] = {}
    for group in [group for group in groups if group.n_missing < max(1, len(group))] or groups:
        number = count(group)
        least[group.prompt_id] = min(number, least.get(group.prompt_id, number))
    return max(1, int(np.quantile(list(least.values()), 0.05, method="lower")))


def _n_rewarded(group: AnswerGroup) -> int:
    return int((~np.isnan(group.rewards)).sum()) or len(group)


def _n_bigrams(tokenized: Sequence[Sequence[str]]) -> int:
    return sum(max(len(tokens) - 1, 0) for tokens in tokenized)


def open_pool(workers: int) -> AbstractContextManager[Executor | None]:
    """Opens that many worker processes, and None for one: then the work is done in this process."""
    return open_worker_pool(workers) if workers > 1 else nullcontext()


def _embedded_chunks(groups: list[AnswerGroup], embedder: Embedder | None) -> Iterator[list[Embedded]]:
    for start in range(0, len(groups), _GROUPS_AT_ONCE):
        chunk = groups[start : start + _GROUPS_AT_ONCE]
        if embedder is None:
            yield [(group, None) for group in chunk]
            continue
        embeddings = embedder.encode([text for group in chunk for text in group.texts])
        ends = np.cumsum([len(group) for group in chunk])[:-1]
        yield list(zip(chunk, np.split(embeddings, ends), strict=True))


def _measure_chunk(chunk: list[Embedded], options: MeasureOptions) -> list[GroupMetrics]:
    return [measure_answers(group, options, embeddings) for group, embeddings in chunk]


def _add_own(measured: GroupMetrics, group: AnswerGroup, answers: int, own: Sequence[Metric]) -> None:
    """Adds the user's metrics of the first `answers` answers. In this process: their functions need not pickle."""
    enough = len(group) >= answers
    for metric in own:
        value = metric(group.first(answers)) if enough else np.nan
        measured.values[metric.key] = value
        if np.isnan(value):
            measured.undefined[metric.key] = "its function returned nan" if enough else f"fewer than {answers} answers"


def _columns(
    prompts: tuple[str, ...], measured: Mapping[str, GroupMetrics], extra: Mapping[str, Mapping[str, float]]
) -> SampledTable:
    """Returns arrays over all prompts; a prompt that was not sampled this way is nan. An all-nan metric is left out,
    and so is the share of answers not given where all were."""
    first = next(iter(measured.values()))
    values = {
        key: np.array([measured[p].values[key] if p in measured else np.nan for p in prompts]) for key in first.values
    }
    for key, column in extra.items():
        require_addable(key, column.values(), values)
        if column and not any(prompt in column for prompt in prompts):
            raise ValueError(
                f"extra: {key} has values of {next(iter(column))!r} and the like, and of no prompt that is measured, "
                f"such as {prompts[0]!r}; expected its values by prompt id"
            )
    values |= {key: np.array([column.get(p, np.nan) for p in prompts]) for key, column in extra.items()}
    curves = {
        key: _stack([measured[p].curves[key] if p in measured else None for p in prompts]) for key in first.curves
    }
    if not np.nansum(values["unanswered"]):
        del values["unanswered"]
    return SampledTable(
        {key: column for key, column in values.items() if not np.isnan(column).all()},
        {key: curve for key, curve in curves.items() if not np.isnan(curve).all()},
    )


def _stack(rows: Sequence[FloatArray | None]) -> FloatArray:
    """Returns [P, n] rows of different length, filled up with nan."""
    filled = np.full((len(rows), max(len(row) for row in rows if row is not None)), np.nan)
    for target, row in zip(filled, rows, strict=True):
        if row is not None:
            target[: len(row)] = row
    return filled


def _cluster_method(group: AnswerGroup, options: MeasureOptions, embedder: Embedder | None) -> str:
    if group.forms is not None:
        return "the task's canonical form"
    if embedder is not None:
        return f"embedding distance up to {options.cluster_distance:g} ({embedder.name})"
    return "same text"


def _signatures(
    options: MeasureOptions,
    n: int,
    clusters: str,
    sampled: Mapping[str, SampledTable],
    own: Sequence[Metric],
    second: Equivalence | None,
) -> dict[str, str]:
    present = {key for table in sampled.values() for key in table.values}
    drawn = {"same": clusters, "k": options.draws or "all"}
    by_second = {"same": second.name if second else "", "k": options.draws or "all"}
    signatures = {
        **measure_signatures(options.measures, n),
        "clusters": sign("clusters", **drawn),
        "second_clusters": sign("second_clusters", **by_second),
        **{f"hill_{q}": sign("hill", q=q, of="first k", **drawn) for q in (1, 2)},
        "sameness": sign("sameness", same=clusters),
        "distinct_correct": sign("distinct_correct", passes=f"reward >= {options.pass_threshold:g}", **drawn),
        **{metric.key: sign(metric.key, function=metric.place, k=n) for metric in own},
    }
    return {key: str(signature) for key, signature in signatures.items() if key in present}
