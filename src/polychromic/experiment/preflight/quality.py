"""Checks of what judges: the diversity measures, the checker, and how much room the untrained model leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping

from polychromic.diversity.embedder import load_embedder
from polychromic.diversity.selftest import check_measures
from polychromic.evaluation.audit_checker import audit_checker
from polychromic.evaluation.ceilings import impossible_criteria
from polychromic.experiment.preflight.checks import Finding
from polychromic.experiment.preflight.probe import Probe

_AUDITED_PROMPTS = 100
_NEAR = 0.02


def measures_order_known_groups(probe: Probe) -> Finding:
    """Every measure puts identical, mixed and different texts in order: none is silently 0."""
    embedder = load_embedder(probe.experiment.evaluation.embedder or "hash")
    checks = check_measures(embedder)
    wrong = [check.measure for check in checks if not check.passed]
    if wrong:
        return Finding(
            "failed",
            f"out of order on known groups: {', '.join(wrong)} (embedder: {embedder.name})",
            "choose another embedder, or report the measure as broken",
        )
    return Finding(
        "passed",
        f"{len(checks)} measures order identical < mixed < different groups, those of meaning by {embedder.name}",
    )


def checker_tells_good_from_bad(probe: Probe) -> Finding:
    """The checker passes references and refuses shuffled, empty, echoed and repeated text."""
    audit = audit_checker(
        probe.task.check,
        probe.task.prompts("validation")[:_AUDITED_PROMPTS],
        pass_threshold=probe.task.pass_threshold,
    )
    figures = {name: control.pass_rate for name, control in audit.controls.items() if control.n}
    rates = ", ".join(f"{name} {100 * rate:.0f} %" for name, rate in figures.items())
    mend = "make the checker stricter: what it passes is what training will produce"
    return Finding(
        "warned" if audit.lenient or audit.harsh else "passed",
        f"{audit.sentence} Passing: {rates}.",
        mend if audit.lenient else "check the references and the threshold" if audit.harsh else "",
        figures,
    )


def room_to_improve(probe: Probe) -> Finding:
    """What the untrained model reaches, where a metric has no room left, and which criteria that rules out."""
    n = len(probe.generations.rows) // len({row.prompt_id for row in probe.generations.rows})
    keys = ("pass@1", f"pass@{n}", "distinct_2", "self_bleu")
    shown = {key: value for key in keys if not math.isnan(value := probe.metric(key))}
    result = "untrained: " + ", ".join(f"{key} {value:.3f}" for key, value in shown.items())
    criteria = [one for level in probe.experiment.comparison.levels().values() for one in level]
    impossible = impossible_criteria(criteria, {one.metric: probe.metric(one.metric) for one in criteria})
    edges = _at_an_edge(shown, f"pass@{n}")
    if not impossible and not edges:
        return Finding("passed", result, figures=shown)
    return Finding(
        "warned",
        f"{result}. {'. '.join([*impossible, *edges])}",
        "a criterion that the untrained model already rules out is going to come out as impossible: state another "
        "one, or make the task harder",
        shown,
    )


def _at_an_edge(metrics: Mapping[str, float], last: str) -> list[str]:
    """pass@k with nothing left to win, and pass@n so low that training would hardly ever see a reward."""
    full = [
        f"{key} is {metrics[key]:.3f}, which cannot rise"
        for key in ("pass@1", last)
        if metrics.get(key, math.nan) >= 1 - _NEAR
    ]
    if metrics.get(last, math.nan) <= _NEAR:
        return [*full, f"{last} is {metrics[last]:.3f}: hardly any reward to learn from"]
    return full
