"""Where measures are undefined and why: a number that is missing must not go unnoticed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from polychromic.evaluation.metrics import METRICS, find_metric
from polychromic.evaluation.tables import PromptTable
from polychromic.evaluation.wording import Caution, listed


def count_reasons(reasons: Iterable[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """metric → reason → number of groups, from each group's reasons by metric."""
    counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for of_group in reasons:
        for metric, reason in of_group.items():
            counted[metric][reason] += 1
    return {metric: dict(counts) for metric, counts in counted.items()}


def undefined_cautions(tables: Mapping[tuple[str, int], PromptTable], label: str) -> Iterator[Caution]:
    """For each arm the measures that some prompt lacks under one way of sampling, with the number and the reason; once
    for all arms where they lack the same."""
    groups: Counter[str] = Counter()
    lacking: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (arm, _), table in tables.items():
        groups[arm] += len(table.prompts)
        for metric, reasons in table.undefined.get(label, {}).items():
            for reason, n in reasons.items():
                lacking[arm, reason][metric] += n
    told: dict[str, str] = {}
    alike = len(set(groups.values())) == 1
    for (arm, reason), counts in lacking.items():
        part = f"{_named(counts, groups[arm], alike)}: {reason}"
        told[arm] = f"{told[arm]}; {part}" if arm in told else f"no value of {part}"
    if len(told) == len(groups) and len(set(told.values())) == 1:
        told = {"": f"in every arm {next(iter(told.values()))}"}
    for arm, text in told.items():
        yield Caution("undefined", arm, f"{arm}: {text}" if arm else text)


def _named(counts: Mapping[str, int], n_groups: int, alike: bool) -> str:
    """Measures that as many groups lack, together: "Distinct-2 and Distinct-3 in 10 of 40 groups". Where arms have
    different numbers of groups (not `alike`), "in every group" lets them be told together."""
    by_number: defaultdict[int, list[str]] = defaultdict(list)
    for metric in sorted(counts, key=list(METRICS).index):
        by_number[counts[metric]].append(find_metric(metric).name)

    def place(n: int) -> str:
        return "every group" if n == n_groups and not alike else f"{n} of {n_groups} groups"

    return ", ".join(f"{listed(names)} in {place(n)}" for n, names in by_number.items())
