"""Finds gains by what training was paid for that a second opinion, which training never saw, does not confirm."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polychromic.diversity.tokens import Signature
from polychromic.evaluation.criteria import ResultWarning, signed
from polychromic.evaluation.statistics.paired import paired_comparison
from polychromic.evaluation.tables import Plan, share_a_prompt
from polychromic.evaluation.warnings import Contrasts

_FULL = 0.9
"""Share of the answers drawn from which nearly all differ by the second partition already: it has no room to follow."""


def reward_hacking(plan: Plan, contrasts: Contrasts) -> list[ResultWarning]:
    """Warns of arms, the baseline among them, whose training reward is higher than the other's while the judge's is
    not."""
    return [
        ResultWarning(
            "reward hacking",
            who,
            f"{who} has {signed(by_first)} training reward against {other}, but the judge, which training never saw, "
            f"says {signed(by_second)}: the reward is being gamed",
        )
        for who, other, by_first, by_second in _disagreements(plan, contrasts, "reward", "judge")
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
            who,
            f"{who} has {signed(by_first)} different answers to a prompt against {other} by task.same_answer, but the "
            f"second partition, which training never saw, says {signed(by_second)}: what counts as different is being "
            "gamed",
        )
        for who, other, by_first, by_second in _disagreements(plan, contrasts, "clusters", "second_clusters")
        if other == plan.baseline
    ]


def _has_room(plan: Plan) -> bool:
    """Tells whether the baseline's answers leave the second partition room to rise."""
    cells_SP = plan.study.cells(plan.baseline, plan.primary_sampling, "second_clusters")
    signature = plan.study.signatures.get("second_clusters")
    if cells_SP is None or signature is None or np.isnan(cells_SP).all():
        return False
    drawn = dict(Signature.parse(signature).choices)["k"]
    return not drawn.isdigit() or float(np.nanmean(cells_SP)) < _FULL * int(drawn)


def _disagreements(
    plan: Plan, contrasts: Contrasts, first: str, second: str
) -> Iterator[tuple[str, str, float, float]]:
    """Yields who gained significantly by the first measure and not by the second, against whom, and both differences:
    arm and baseline, either way round.

    The gap between both measures has to differ significantly as well, so that a second measure that is only noisier
    than the first is not taken for one that disagrees.
    """
    for arm in plan.judged:
        cells, second_cells = (plan.pair(arm, plan.primary_sampling, key) for key in (first, second))
        if cells is None or second_cells is None:
            continue
        gaps = (cells[0] - second_cells[0], cells[1] - second_cells[1])
        if not share_a_prompt(gaps):  # each measure has its own missing values
            continue
        gap = paired_comparison(*gaps, resampling=plan.resampling)
        of_first, of_second = contrasts[arm, first], contrasts[arm, second]
        if max(of_first.p_value, gap.p_value) >= plan.alpha or of_first.difference * gap.difference <= 0:
            continue
        sign = 1.0 if of_first.difference > 0 else -1.0
        if sign * of_second.difference > 0 and of_second.p_value < plan.alpha:
            continue
        who, other = (arm, plan.baseline) if sign > 0 else (plan.baseline, arm)
        yield who, other, sign * of_first.difference, sign * of_second.difference
