"""Makes the tables of a comparison: criteria, means, gains, the untrained model, signatures, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polychromic.evaluation import Comparison, find_metric
from polychromic.evaluation.counting.curves import BENCHMARK_KS, CURVES, key_at_k, split_at_k
from polychromic.evaluation.criteria import estimate, number, plural, signed, signed_percent
from polychromic.evaluation.statistics.frontier import MatchedGain
from polychromic.evaluation.statistics.paired import PairedComparison
from polychromic.evaluation.statistics.resampling import LEAST_SEEDS
from polychromic.report.view import (
    Cell,
    capital,
    comparison_detail,
    how_made,
    mean_detail,
    metric_detail,
    outcome_columns,
    outcome_views,
)

Table = list[list[str]]
"""Rows of plain, unescaped cells, the header first."""
_GROUPS: tuple[tuple[str, str], ...] = (
    ("quality", "Quality"),
    ("both", "Quality and diversity together"),
    ("diversity", "Diversity"),
    ("length", "Length"),
    ("fault", "Faults"),
)


@dataclass(frozen=True, slots=True)
class CellGroup:
    """Holds rows of a table that belong together under a title."""

    title: str
    rows: list[list[Cell]]


def criteria_table(comparison: Comparison) -> Table:
    """Returns one row a level, arm and criterion: baseline, arm, lengths, change with interval, p and status."""
    return [outcome_columns(comparison), *(view.row for view in outcome_views(comparison))]


def criteria_header(comparison: Comparison) -> list[str]:
    """Returns the columns of the page's table of criteria."""
    _, arm, criterion, *others = outcome_columns(comparison)
    return [criterion, arm, *others]


def criteria_groups(comparison: Comparison) -> list[CellGroup]:
    """Returns the criteria level by level, with how every change was measured and why its status."""
    views = outcome_views(comparison)
    return [
        CellGroup(f"{capital(level.name)} criteria", [view.cells for view in views if view.level == level.name])
        for level in comparison.verdict.levels
    ]


_OF_ONLY_ARM = ("reward", "distinct_correct", "clusters", "distinct_2", "self_bleu", "semantic_distance", "truncated")


def only_arm_table(comparison: Comparison) -> Table:
    """Returns the main measures of an arm that stands alone, a column each sampling setting; empty for several arms."""
    if len(comparison.arms) != 1:
        return []
    [arm] = comparison.arms
    settings = list(dict.fromkeys(mean.sampling for mean in comparison.means))
    keys = list(dict.fromkeys(mean.metric for mean in comparison.means))
    ks = sorted(k for curve, k in filter(None, map(split_at_k, keys)) if curve == "pass")
    of_pass = [key_at_k("pass", k) for k in ks if k in (*BENCHMARK_KS, ks[-1])]
    shown = [*of_pass, *(key for key in _OF_ONLY_ARM if key in keys and not (key == "reward" and of_pass))]
    rows = [[find_metric(key).name, *(_mean_cell(comparison, arm, key, at) for at in settings)] for key in shown]
    return [[f"{arm}, with {100 * comparison.resampling.confidence:g} % intervals", *settings], *rows]


def means_header(comparison: Comparison) -> list[str]:
    """Returns the columns of `means_groups`: after every judged arm its difference to the baseline."""
    header = ["measure"]
    for arm in comparison.arms:
        header += [arm, f"{arm} − {comparison.baseline}"] if _is_judged(comparison, arm) else [arm]
    return header


def means_groups(comparison: Comparison) -> list[CellGroup]:
    """Returns all means by kind of metric, what grows with k apart; behind each its seeds, prompts and method."""
    names = folded_metrics(comparison)
    keys = list(names)
    plain = [key for key in keys if split_at_k(key) is None]
    groups = [(title, [key for key in plain if find_metric(key).kind == kind]) for kind, title in _GROUPS]
    of_curves = {key: at_k[0] for key in keys if (at_k := split_at_k(key))}
    titles = {"pass": "Pass@k", "distinct_correct": "Distinct correct answers among k"}
    groups += [(title, [key for key, name in of_curves.items() if name == curve]) for curve, title in titles.items()]
    groups.append(("Other measures of k answers", [key for key, name in of_curves.items() if name not in titles]))
    return [
        CellGroup(title, [_mean_cells(comparison, key, names[key]) for key in members])
        for title, members in groups
        if members
    ]


def folded_metrics(comparison: Comparison) -> dict[str, str]:
    """Returns the metrics at the primary sampling with their names, each value once.

    A metric whose means and intervals are those of an earlier one in every arm is named with it, as in
    "Reward = Pass@1"; a constant, which many metrics may share by chance, is not. Rewards are missing only where there
    are any.
    """
    earlier: dict[tuple[tuple[float, float, float], ...], str] = {}
    names: dict[str, str] = {}
    measured = dict.fromkeys(mean.metric for mean in comparison.means)
    for key in measured:
        if key == "missing" and "reward" not in measured:
            continue
        means = [comparison.mean(arm, key) for arm in comparison.arms]
        values = tuple((mean.mean, mean.low, mean.high) for mean in means if mean)
        if not values:
            continue
        varies = len(values) == len(means) and any(low < high for _, low, high in values)
        if varies and values in earlier:
            names[earlier[values]] += f" = {find_metric(key).name}"
            continue
        names[key] = find_metric(key).name
        if varies:
            earlier[values] = key
    return names


def _is_judged(comparison: Comparison, arm: str) -> bool:
    return arm not in (comparison.baseline, comparison.untrained)


def _mean_cells(comparison: Comparison, key: str, name: str) -> list[Cell]:
    cells = [Cell(name, metric_detail(comparison, key))]
    for arm in comparison.arms:
        cells.append(Cell(_mean_cell(comparison, arm, key), mean_detail(comparison, arm, key)))
        if _is_judged(comparison, arm):
            cells.append(difference_cell(comparison, arm, key))
    return cells


def difference_cell(comparison: Comparison, arm: str, key: str) -> Cell:
    """Returns an arm's difference to the baseline, with an arrow where the change is clear and the word on it."""
    contrast = comparison.contrast(arm, key)
    if contrast is None or math.isnan(contrast.difference):
        return Cell("–")
    metric = find_metric(key)
    word = contrast.change(metric.sign)
    relative = contrast.relative_difference
    text = signed(contrast.difference) if math.isnan(relative) else signed_percent(relative)
    detail = comparison_detail(contrast)
    if word not in ("better", "worse"):
        return Cell(text, detail, "unclear")
    arrow = "▲" if contrast.difference > 0 else "▼"
    if metric.kind == "length":  # neither good nor bad
        return Cell(f"{arrow} {text}", detail, "unclear")
    return Cell(f"{arrow} {text} {word}", detail, word)


def means_table(comparison: Comparison) -> Table:
    """Returns one row a metric with each arm's mean and interval at the primary sampling."""
    rows = [
        [name, *(_mean_cell(comparison, arm, metric) for arm in comparison.arms)]
        for metric, name in folded_metrics(comparison).items()
    ]
    return [["metric", *comparison.arms], *rows]


def gains_table(comparison: Comparison) -> Table:
    """Returns one row a metric, arm and sampling setting: the gain over what the baseline reaches at the same quality.

    Only the header where the baseline was sampled in one way and so has no frontier.
    """
    interval = f"{100 * comparison.resampling.confidence:g} % interval"
    header = [
        "at matched quality", "arm", "sampled at", "quality", "arm's value", "baseline's there", "gain", interval,
        "note",
    ]  # fmt: skip
    rows = [
        [
            find_metric(gain.metric).name, gain.arm, gain.sampling,
            f"{find_metric(gain.quality_metric).name} {gain.quality:.3g}", number(gain.diversity),
            number(gain.baseline_diversity), signed(gain.gain), f"{signed(gain.low)} to {signed(gain.high)}",
            _gain_note(gain),
        ]
        for gain in comparison.frontier
    ]  # fmt: skip
    return [header, *rows]


def _gain_note(gain: MatchedGain) -> str:
    if gain.reached_by:
        return f"the baseline at {gain.reached_by} is as good and as diverse"
    if gain.position == "within":
        return ""
    word = "at least" if gain.position == "above" else "at most"
    return f"{word}: its quality is {gain.position} all of the baseline's"


def untrained_table(comparison: Comparison) -> Table:
    """Returns one row a metric of the criteria: the untrained model's mean, and how far each arm moved from it.

    Empty where the untrained model was not sampled.
    """
    contrasts = {(contrast.metric, contrast.arm): contrast.comparison for contrast in comparison.against_untrained}
    if not contrasts or comparison.untrained is None:
        return []
    arms = [arm for arm in comparison.arms if arm != comparison.untrained]
    rows = [
        [
            find_metric(metric).name,
            _mean_cell(comparison, comparison.untrained, metric),
            *(_moved(metric, contrasts.get((metric, arm))) for arm in arms),
        ]
        for metric in dict.fromkeys(metric for metric, _ in contrasts)
    ]
    return [["against the untrained model", comparison.untrained, *arms], *rows]


def _moved(metric: str, contrast: PairedComparison | None) -> str:
    """Returns a change from the untrained model with its interval and the word on it."""
    if contrast is None:
        return "–"
    relative = not math.isnan(contrast.relative_difference)
    written = signed_percent if relative else signed
    change = written(contrast.relative_difference if relative else contrast.difference)
    ends = (contrast.relative_ci_low, contrast.relative_ci_high) if relative else (contrast.ci_low, contrast.ci_high)
    return f"{change} ({written(ends[0])} to {written(ends[1])}), {contrast.change(find_metric(metric).sign)}"


SAMENESS_NOTE = (
    "Chance that an answer of the one arm and an answer of the other are the same, beside the chance that two answers "
    "of one trained model are. Overlap is the first over the mean of the others: at 1 the two arms answer as one model "
    "would, whatever their training; at 0 they share no answer."
)


def sameness_table(comparison: Comparison) -> Table:
    """Returns one row a pair of arms: how often they give the same answer, and each the same twice; empty for one
    arm."""
    if not comparison.sameness:
        return []
    confidence = f"{100 * comparison.resampling.confidence:g} % interval"
    header = ["the same answer", "between", "within the first", "within the other", "overlap", confidence]
    rows = [
        [
            f"{sameness.arm} and {sameness.other}",
            *map(number, (sameness.between, sameness.within_arm, sameness.within_other, sameness.overlap)),
            "–"
            if math.isnan(sameness.overlap_low)
            else f"{number(sameness.overlap_low)} to {number(sameness.overlap_high)}",
        ]
        for sameness in comparison.sameness
    ]
    return [header, *rows]


def overtaking_lines(comparison: Comparison) -> list[str]:
    """Returns from which k on the untrained model finds more than each arm, a sentence an arm."""
    confidence = 100 * comparison.resampling.confidence
    return [overtaking.sentence.format(confidence=confidence) for overtaking in comparison.overtakings]


def _mean_cell(comparison: Comparison, arm: str, metric: str, sampling: str | None = None) -> str:
    """Returns a mean with its interval, and its number of prompts where they are not those that are compared: prompts
    without a value are seldom like the rest."""
    mean = comparison.mean(arm, metric, sampling)
    if mean is None:
        return "–"
    n = f", n = {mean.n_prompts:,}" if mean.n_prompts != comparison.n_prompts else ""
    return f"{estimate(mean.mean, mean.low, mean.high)}{n}"


def means_basis(comparison: Comparison) -> str:
    """Returns what the means are over, and what an n beside one says where there is one."""
    shown = [mean for mean in comparison.means if mean.sampling == comparison.primary_sampling]
    some = any(mean.n_prompts != comparison.n_prompts for mean in shown)
    n = "; n counts the prompts that have a value, where they are others" if some else ""
    return f"means over {plural(comparison.n_prompts, 'prompt')} and all seeds{n}"


def signature_lines(comparison: Comparison) -> list[str]:
    """Returns how each measure of the means was made, one a line; numbers whose lines differ must not be compared."""
    shown = {mean.metric for mean in comparison.means if mean.sampling == comparison.primary_sampling}
    made = [f"{key}: {signature}" for key, signature in comparison.signatures.items() if key in shown]
    return ["how each measure was made:", *made] if made else []


def signatures(comparison: Comparison) -> dict[str, str]:
    """Returns every signature of the comparison's measures at the primary sampling, those at k once for all k."""
    lines: dict[str, str] = {}
    for key in dict.fromkeys(mean.metric for mean in comparison.means if mean.sampling == comparison.primary_sampling):
        made = how_made(comparison, key)
        at_k = split_at_k(key)
        if at_k is not None:
            lines.setdefault(f"{CURVES[at_k[0]].mark}k", made.rsplit("|", 1)[0])
        elif made:
            lines[key] = made
    return lines


def facts(
    comparison: Comparison,
    *,
    n_answers: str,
    spent: str,
    work: Sequence[Sequence[str]],
    model_checks: Sequence[Mapping[str, Any]] = (),
) -> list[Cell]:
    """Returns what the verdict rests on and what it took; each with how it was counted."""
    seeds = max((len(seeds_of_arm) for seeds_of_arm in comparison.seeds.values()), default=0)
    of_arms = "; ".join(f"{arm}: {', '.join(map(str, numbers))}" for arm, numbers in comparison.seeds.items())
    by_stage = "; ".join(f"{' '.join(filter(None, row[:2]))} {row[2]}" for row in work[1:])
    cells = [
        Cell(
            plural(comparison.n_prompts, "prompt"),
            f"The same prompts in every arm, compared pair by pair. Intervals are over prompts and, with {LEAST_SEEDS} "
            "training seeds or more, over seeds.",
        ),
        Cell(
            n_answers and f"{n_answers} answers each",
            "Answers that every prompt got from each trained model at each sampling setting. Pass@k and distinct "
            "correct answers of k are unbiased estimates from all of them.",
        ),
        Cell(plural(seeds, "training seed"), f"Seeds by arm: {of_arms}."),
        Cell(f"sampled at {comparison.primary_sampling}", "The sampling setting at which the criteria are judged."),
    ]
    if model_checks:
        cells.append(_model_fact(model_checks))
    if spent:
        cells.append(Cell(spent, f"Machine minutes by arm and stage, all seeds: {by_stage}."))
        if "$" not in spent:
            cells.append(Cell("no price stated", "budget.dollars_per_hour in the experiment file makes dollars of it."))
    return [cell for cell in cells if cell.text]


def _model_fact(checks: Sequence[Mapping[str, Any]]) -> Cell:
    """Tells how near the sampled and the trained policy lie to each other, over all arms, seeds and stages."""
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
    """Returns what was looked for in vain, where no warning was due."""
    checker = "" if comparison.checker is None else "a lenient checker, "
    return (
        f"No warning was due. Looked for: {checker}saturated metrics, too few prompts or seeds, other lengths, "
        "missing rewards, cut answers, and gains that temperature also gives."
    )
