"""A run's cost in lines of text."""

from __future__ import annotations

from polychromic.experiment.cost import RunCost
from polychromic.report.work import dollars_text


def cost_lines(cost: RunCost) -> list[str]:
    """Spent by arm and stage, the total, what is left, and what a percent of gain cost."""
    lines = [f"{'arm':<20} {'stage':<10} {'hours':>8} {'tokens':>14} {'dollars':>9}"]
    for one in cost.stages:
        price = str(one.money).removeprefix("$")
        lines.append(f"{one.arm:<20} {one.stage:<10} {one.seconds / 3600:>8.3f} {one.tokens:>14,} {price:>9}")
    spent = duration(cost.seconds)
    lines.append(f"spent: {spent}" if cost.money.dollars is None else f"spent: {spent}, {cost.money}")
    lines.append(_left(cost))
    for gain in cost.gains:
        price = priced_duration(gain.seconds_a_percent, gain.dollars_a_percent)
        lines.append(f"{gain.arm}: {gain.metric} {gain.percent:+.1f} %, {price} a percent")
    return lines


def _left(cost: RunCost) -> str:
    if not cost.left:
        return "left: nothing"
    named = ", ".join(f"{arm}/seed-{seed} {stage}" for arm, seed, stage in cost.left)
    if cost.left_seconds is None:
        return f"left: {named} (not projected: no such stage has ended yet; `polychromic preflight` estimates it)"
    spent = cost.money.dollars
    whole = None if spent is None or cost.left_dollars is None else spent + cost.left_dollars
    projected = priced_duration(cost.seconds + cost.left_seconds, whole)
    source = " (preflight's estimate)" if cost.left_by_preflight else ""
    return f"left: {priced_duration(cost.left_seconds, cost.left_dollars)}{source}, whole run {projected}: {named}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best, such as `7.1 min`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"


def priced_duration(seconds: float, dollars: float | None) -> str:
    """Time, and what it costs where there is a price: `7.1 min, $0.31`."""
    return duration(seconds) if dollars is None else f"{duration(seconds)}, ${dollars_text(dollars)}"
