"""Judges the arms again with embeddings clustered at other distances: does the verdict stand on the threshold?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from polychromic.diversity.equivalence import Embedded
from polychromic.diversity.tokens import Signature
from polychromic.evaluation.compare import at_primary_sampling, contrasts_of, evidence
from polychromic.evaluation.criteria import Levels, ResultWarning, listed
from polychromic.evaluation.group_metrics import MeasureOptions
from polychromic.evaluation.measure import SameAnswers, measure_rows
from polychromic.evaluation.metrics import find_metric
from polychromic.evaluation.tables import Plan, PromptTable, SampledTable
from polychromic.evaluation.verdict import AtDistance, Comparison, Verdict, judge
from polychromic.numerics import FloatArray
from polychromic.records import GenerationRow

FACTORS = (0.5, 0.75, 1.25, 1.5)
"""Of the stated distance: half of it and half of it more, and what lies between."""

Tables = Mapping[tuple[str, int], PromptTable]
Rows = Mapping[tuple[str, int], Sequence[GenerationRow]]


@dataclass(frozen=True)
class OtherDistances:
    """Measures what rests on the partition at other distances. `embedded` is the partition that was used, `same` asks
    it with the prompts, and `pass_threshold` is the task's."""

    embedded: Embedded
    same: SameAnswers
    pass_threshold: float

    def judge(self, comparison: Comparison, tables: Tables, rows: Rows, criteria: Levels) -> tuple[AtDistance, ...]:
        """Returns the verdict's status at each distance, the used one among them; empty where no criterion rests on the
        partition."""
        metrics = {criterion.metric for level in criteria.values() for criterion in level}
        if not any(rests_on_partition(key) for key in metrics):
            return ()
        used = AtDistance(self.embedded.distance, comparison.verdict.status, comparison.verdict.sentence)
        verdicts = [used]
        for factor in FACTORS:
            distance = factor * self.embedded.distance
            others = self._tables_at(distance, comparison.primary_sampling, tables, rows)
            verdict = _verdict(comparison, others, criteria)
            verdicts.append(AtDistance(distance, verdict.status, verdict.sentence))
        return tuple(sorted(verdicts, key=lambda at_distance: at_distance.distance))

    def _tables_at(self, distance: float, label: str, tables: Tables, rows: Rows) -> Tables:
        same = replace(self.same, equivalence=self.embedded.at(distance), second=None)
        return {
            key: self._table_at(table, label, [row for row in rows[key] if row.sampling.label == label], same)
            for key, table in tables.items()
        }

    def _table_at(
        self, table: PromptTable, label: str, rows: Sequence[GenerationRow], same: SameAnswers
    ) -> PromptTable:
        """Replaces what rests on the partition; measures of texts, which do not, see one answer and cost nothing."""
        drawn = dict(Signature.parse(table.signatures["clusters"]).choices)["k"]
        options = MeasureOptions(self.pass_threshold, draws=int(drawn) if drawn.isdigit() else None, answers=1)
        measured = measure_rows(rows, options, same=same)
        [again] = measured.sampled.values()
        before = table.sampled[label]
        # The table has the prompts of every sampling setting, and some may not have been sampled at this one.
        places = np.searchsorted(table.prompts, measured.prompts)

        def placed(column: FloatArray) -> FloatArray:
            rows_of_table = np.full((len(table.prompts), *column.shape[1:]), np.nan)
            rows_of_table[places] = column
            return rows_of_table

        values = {key: placed(column) for key, column in again.values.items() if rests_on_partition(key)}
        curves = {name: placed(curve) for name, curve in again.curves.items()}
        sampled = SampledTable({**before.values, **values}, {**before.curves, **curves})
        return replace(table, sampled={label: sampled})


def _verdict(comparison: Comparison, tables: Tables, criteria: Levels) -> Verdict:
    """Judges tables as the comparison was judged."""
    plan = Plan.of(
        tables, comparison.baseline, criteria, comparison.primary_sampling, comparison.resampling, comparison.untrained
    )
    label = plan.primary_sampling
    pairs = {(arm, label, key): plan.pair(arm, label, key) for arm in plan.judged for key in plan.asked}
    contrasts = at_primary_sampling(plan, contrasts_of(plan, pairs))
    return judge(plan.levels, plan.judged, evidence(plan, contrasts))


def rests_on_partition(key: str) -> bool:
    """Returns True where a metric counts answers that are the same."""
    return "{same}" in find_metric(key).signature


def threshold_warnings(at_distances: Sequence[AtDistance], used: float) -> list[ResultWarning]:
    """Warns of a verdict that is another one at a distance nearby."""
    status = {at_distance.distance: at_distance.status for at_distance in at_distances}
    others = [
        f"{at_distance.status} at {at_distance.distance:.3g}"
        for at_distance in at_distances
        if at_distance.status != status[used]
    ]
    if not others:
        return []
    text = (
        f"the verdict depends on the distance within which embeddings count as the same: {status[used]} at {used:.3g}, "
        f"{listed(others)}"
    )
    return [ResultWarning("threshold", "", text)]
