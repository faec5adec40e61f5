"""The first lines of the page: the verdict as one would tell it to a manager, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from polychromic.evaluation import Comparison, find_metric
from polychromic.evaluation.criteria import listed, plural, signed
from polychromic.evaluation.outcomes import CriterionOutcome, Evidence, Status
from polychromic.evaluation.verdict import LevelVerdict
from polychromic.report.cells import Cell, comparison_detail

_ANSWERS: dict[Status, str] = {
    "met": "Yes: {arm} does what was asked of it.",
    "not met": "No: {arm} falls short of what was asked.",
    "undecided": "Not decided: this run cannot tell whether {arm} does what was asked.",
    "impossible": "It cannot be: what was asked of {arm} lies beyond what there is to reach.",
}
_AMONG_MANY: dict[Status, str] = {
    **_ANSWERS,
    "not met": "No: no arm does what was asked; {arm} came furthest.",
    "undecided": "Not decided: this run cannot tell whether any arm does what was asked; {arm} came furthest.",
    "impossible": "It cannot be: what was asked lies beyond what there is to reach; {arm} came furthest.",
}


def plain_verdict(comparison: Comparison) -> list[Cell]:
    """Pieces that read as sentences without jargon or a p-value; behind each number stands how it was found."""
    verdict = comparison.verdict
    if not verdict.levels:
        return [Cell(verdict.sentence)]
    first = verdict.levels[0]
    answers = _AMONG_MANY if len(first.arms) > 1 else _ANSWERS
    pieces = [
        Cell(answers[first.status].format(arm=first.best_arm)),
        Cell(f" Against {comparison.baseline}, "),
    ]
    findings = [_finding(outcome) for outcome in first.of_arm(first.best_arm)]
    # A finding that falls short has clauses of its own.
    between, last = (", ", " and ") if first.status == "met" else ("; ", "; and ")
    for number, finding in enumerate(findings):
        joint = "" if number == 0 else last if number == len(findings) - 1 else between
        pieces += [Cell(joint), *finding]
    pieces.append(Cell("."))
    pieces += [Cell(_further(level, first.best_arm)) for level in verdict.levels[1:]]
    if verdict.hacked:
        pieces.append(Cell(f" But the judge does not confirm the reward of {listed(list(verdict.hacked))}."))
    if verdict.chosen_late:
        late = f"Changed then: {listed(list(verdict.chosen_late))}."
        pieces.append(Cell(" What decides this was changed after results had been seen.", late))
    if verdict.leaked:
        pieces.append(
            Cell(f" But {verdict.leaked.partition(':')[0].partition(' (')[0]}.", f"{verdict.leaked}.")
        )
    return [piece for piece in pieces if piece.text]


def facts(
    comparison: Comparison,
    *,
    n_answers: str,
    spent: str,
    work: Sequence[Sequence[str]],
    model_checks: Sequence[Mapping[str, Any]] = (),
) -> list[Cell]:
    """What the verdict rests on and what it took; each with how it was counted."""
    seeds = max((len(one) for one in comparison.seeds.values()), default=0)
    of_arms = "; ".join(f"{arm}: {', '.join(map(str, numbers))}" for arm, numbers in comparison.seeds.items())
    by_stage = "; ".join(f"{' '.join(filter(None, row[:2]))} {row[2]}" for row in work[1:])
    found = [
        Cell(
            plural(comparison.n_prompts, "prompt"),
            "The same prompts in every arm, compared pair by pair. Intervals are over prompts and, with two training "
            "seeds or more, over seeds.",
        ),
        Cell(
            n_answers and f"{n_answers} answers each",
            "Answers that every prompt got from each trained model at each sampling setting. Pass@k and distinct "
            "correct answers of k are unbiased estimates from all of them.",
        ),
        Cell(plural(seeds, "training seed"), f"Seeds by arm: {of_arms}."),
        Cell(
            f"sampled at {comparison.primary_sampling}",
            "The sampling setting at which the criteria are judged.",
        ),
    ]
    if model_checks:
        found.append(_model_fact(model_checks))
    if spent:
        found.append(Cell(spent, f"Machine minutes by arm and stage, all seeds: {by_stage}."))
        if "$" not in spent:
            found.append(
                Cell("no price stated", "budget.dollars_per_hour in the experiment file makes dollars of it.")
            )
    return [cell for cell in found if cell.text]


def _model_fact(checks: Sequence[Mapping[str, Any]]) -> Cell:
    """Tell how near the sampled and the trained policy lie to each other, over all arms, seeds and stages."""
    largest = max(max(check["sampling"], check["training"]) for check in checks)
    ways = dict.fromkeys(
        "answers {layout}, {head} head, {decoding} decoding".format(**check["path"]) for check in checks
    )
    return Cell(
        f"sampled = trained within {largest:.0e} nats per token",
        "The largest difference of log-probabilities, as sampled or as trained, from plain forward passes, "
        f"checked whenever it was loaded. Computed with {'; '.join(ways).replace('_', ' ')} (docs/models.md).",
    )


def no_warnings(comparison: Comparison) -> str:
    """What was looked for in vain, where no warning was due."""
    checker = "" if comparison.checker is None else "a lenient checker, "
    return (
        f"No warning was due. Looked for: {checker}saturated metrics, too few prompts or seeds, other lengths, "
        "missing rewards, cut answers, and gains that temperature also gives."
    )


def as_text(cells: Sequence[Cell], joint: str = "") -> str:
    """Cells without what is behind them."""
    return joint.join(cell.text for cell in cells)


def _further(level: LevelVerdict, arm: str) -> str:
    found = level.arms.get(arm, "undecided")
    return (
        f" It also meets the {level.name} criteria."
        if found == "met"
        else f" The {level.name} criteria: {found}."
    )


def _finding(outcome: CriterionOutcome) -> list[Cell]:
    """One criterion's finding as a clause, its number apart."""
    evidence, criterion = outcome.evidence, outcome.criterion
    metric = find_metric(criterion.metric)
    subject = metric.subject or f"the variety of wording ({metric.name})"
    if evidence is None:
        return [Cell(f"{subject} {'were' if metric.plural else 'was'} not measured")]
    if outcome.status == "impossible":
        return [Cell(outcome.sentence)]
    detail = comparison_detail(evidence.comparison) if evidence.comparison else ""
    if criterion.direction == "not_worse":
        verb = "are" if metric.plural else "is"
        words = {"met": f"{verb} no worse", "not met": f"{verb} worse"}
        found = words.get(outcome.status, f"{verb} not shown to be no worse")
        allowed = Cell(f"; a loss of {criterion.margin:g} was allowed)")
        return [Cell(f"{subject} {found} ("), Cell(signed(evidence.difference), detail), allowed]
    if not evidence.difference:
        return [Cell(f"{subject} did not change")]
    if outcome.change == "no clear change":
        verb = "show" if metric.plural else "shows"
        amount = Cell(("+" if evidence.difference > 0 else "−") + _amount(evidence), detail)
        return [Cell(f"{subject} {verb} no clear change ("), amount, Cell(f"){_asked(outcome)}")]
    moved = "rose" if evidence.difference > 0 else "fell"
    return [Cell(f"{subject} {moved} by "), Cell(_amount(evidence), detail), Cell(_shortfall(outcome))]


def _amount(evidence: Evidence) -> str:
    """The size of a change: whole percents where they say enough, the metric's own unit from a baseline of 0."""
    percent = abs(100 * evidence.relative)
    if not math.isfinite(percent):
        return f"{abs(evidence.difference):.2g}"
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _shortfall(outcome: CriterionOutcome) -> str:
    """Why a clear change is not what was asked: too small, or the wrong way."""
    evidence = outcome.evidence
    if outcome.status == "met" or evidence is None:
        return ""
    if outcome.worse or math.isnan(evidence.relative):
        return f" where {_way(outcome)} was asked"
    return _asked(outcome)


def _asked(outcome: CriterionOutcome) -> str:
    asked = f"{100 * outcome.criterion.asked:g} %" if outcome.criterion.asked else _way(outcome)
    return f" where {asked} was asked"


def _way(outcome: CriterionOutcome) -> str:
    return "a rise" if outcome.criterion.sign > 0 else "a fall"
