"""Finds gains by what training was paid for that a second opinion, which training never saw, does not confirm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from polychromic.diversity.tokens import Signature
from polychromic.evaluation.criteria import ResultWarning, signed
from polychromic.evaluation.statistics.paired import PairedComparison, paired_comparison
from polychromic.evaluation.tables import Plan
from polychromic.evaluation.warnings import Contrasts

_FULL = 0.9
"""Share of the answers drawn from which nearly all differ by the second partition already: it has no room to follow."""


@dataclass(frozen=True, slots=True)
class _Disagreement:
    """Holds who gained by the first measure and not by the second, against whom, and both differences."""

    who: str
    other: str
    first: float
    second: float


def reward_hacking(plan: Plan, contrasts: Contrasts) -> list[ResultWarning]:
    """Warns of arms, the baseline among them, whose training reward is higher than the other's while the judge's is
    not."""
    return [
        ResultWarning(
            "reward hacking",
            gap.who,
            f"{gap.who} has {signed(gap.first)} training reward against {gap.other}, but the judge, which "
            f"training never saw, says {signed(gap.second)}: the reward is being gamed",
        )
        for gap in _disagreements(plan, contrasts, "reward", "judge")
    ]


def partition_gaming(plan: Plan, contrasts: Contrasts) -> list[ResultWarning]:
    """Warns of arms with more different answers than the baseline by the partition that training was paid for, and not
    by the second one.

    A second partition by which nearly all of the baseline's answers differ already cannot contradict, and is not asked.
    """
    if not _has_room(plan):
        return []
    return [
        ResultWarning(
            "partition gaming",
            gap.who,
            f"{gap.who} has {signed(gap.first)} different answers to a prompt against {gap.other} by "
            f"task.same_answer, but the second partition, which training never saw, says {signed(gap.second)}: what "
            "counts as different is being gamed",
        )
        for gap in _disagreements(plan, contrasts, "clusters", "second_clusters")
        if gap.other == plan.baseline
    ]


def _has_room(plan: Plan) -> bool:
    """Tells whether the baseline's answers leave the second partition room to rise."""
    cells_SP = plan.study.cells(plan.baseline, plan.primary_sampling, "second_clusters")
    signature = plan.study.signatures.get("second_clusters")
    if cells_SP is None or signature is None or np.isnan(cells_SP).all():
        return False
    drawn = dict(Signature.parse(signature).choices)["k"]
    return not drawn.isdigit() or float(np.nanmean(cells_SP)) < _FULL * int(drawn)


def _disagreements(plan: Plan, contrasts: Contrasts, first: str, second: str) -> Iterator[_Disagreement]:
    """Yields arms that differ significantly from the baseline in the first measure, and not that way in the second.

    The gap between both measures has to differ significantly as well, so that a second measure that is only noisier
    than the first is not taken for one that disagrees.
    """
    for arm, gap in _gaps(plan, first, second).items():
        of_first, of_second = contrasts[arm, first], contrasts[arm, second]
        if max(of_first.p_value, gap.p_value) >= plan.alpha or of_first.difference * gap.difference <= 0:
            continue
        sign = 1.0 if of_first.difference > 0 else -1.0
        if sign * of_second.difference > 0 and of_second.p_value < plan.alpha:
            continue
        who, other = (arm, plan.baseline) if sign > 0 else (plan.baseline, arm)
        yield _Disagreement(who, other, sign * of_first.difference, sign * of_second.difference)


def _gaps(plan: Plan, first: str, second: str) -> dict[str, PairedComparison]:
    """Compares, by arm, the first measure minus the second with the baseline's; arms that lack one are left out."""
    gaps = {}
    for arm in plan.judged:
        cells, second_cells = (plan.pair(arm, plan.primary_sampling, key) for key in (first, second))
        if cells is not None and second_cells is not None:
            gaps[arm] = paired_comparison(
                cells[0] - second_cells[0], cells[1] - second_cells[1], resampling=plan.resampling
            )
    return gaps
