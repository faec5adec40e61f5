"""Warns of what a reader has to know before trusting a number; warnings stand on top of a report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from polychromic.evaluation.audits.checker import CheckerAudit
from polychromic.evaluation.criteria import ResultWarning, listed, number, p_text, plural, signed, signed_percent
from polychromic.evaluation.group_metrics import UNJUDGED
from polychromic.evaluation.measure import UNLABELLED
from polychromic.evaluation.metrics import METRICS, find_metric
from polychromic.evaluation.outcomes import CriterionOutcome
from polychromic.evaluation.statistics.frontier import MatchedGain
from polychromic.evaluation.statistics.paired import PairedComparison
from polychromic.evaluation.statistics.resampling import LEAST_SEEDS
from polychromic.evaluation.tables import PromptTable
from polychromic.records import NO_CHECKER, NO_REASON, NOT_GIVEN, GenerationRow

Contrasts = Mapping[tuple[str, str], PairedComparison]
"""Comparisons at the primary sampling, by (arm, metric key)."""

LENGTH_CHANGE = 0.10
"""Relative difference from which the texts of two arms are called of different length."""
_SATURATED = 0.5
_MISSING, _TRUNCATED = 0.01, 0.05


def temperature_warnings(
    gains: Sequence[MatchedGain], contrasts: Contrasts, primary_sampling: str, alpha: float
) -> Iterator[ResultWarning]:
    """Warns of significant gains at the primary sampling that another sampling setting the baseline also gives, or may
    give."""
    for gain in gains:
        contrast = contrasts.get((gain.arm, gain.metric))
        if gain.sampling != primary_sampling or contrast is None or not contrast.p_value < alpha:
            continue
        if find_metric(gain.metric).sign * contrast.difference > 0:
            text = _temperature_text(gain)
            if text:
                yield ResultWarning("temperature", gain.arm, f"{gain.arm}: {find_metric(gain.metric).name} {text}")


def _temperature_text(gain: MatchedGain) -> str:
    if gain.reached_by:
        return f"{number(gain.diversity)} is also reached by the baseline at {gain.reached_by}, at no loss of quality"
    if gain.position == "below":
        quality = f"{find_metric(gain.quality_metric).name} {number(gain.quality)}"
        return (
            f"{number(gain.diversity)} comes at a quality ({quality}) below all of the baseline's; sample the baseline "
            "at a higher temperature to compare at equal quality"
        )
    if gain.low <= 0:
        return (
            f"at matched quality differs by {signed(gain.gain)} (from {signed(gain.low)} to {signed(gain.high)}): "
            "another temperature of the baseline may give as much"
        )
    return ""


def length_warnings(
    contrasts: Contrasts, equal_length: Contrasts, arms: Sequence[str], alpha: float
) -> Iterator[ResultWarning]:
    """Warns of arms whose texts differ in length, and differences that vanish when length is matched: by rarefying, or
    where `equal_length` compares texts cut to the same lengths."""
    for arm in arms:
        tokens = contrasts.get((arm, "tokens"))
        if tokens and abs(tokens.relative_difference) > LENGTH_CHANGE and tokens.p_value < alpha:
            text = (
                f"{arm}: texts are {signed_percent(tokens.relative_difference)} in length ({number(tokens.mean_a)} "
                f"against {number(tokens.mean_b)} tokens); read diversity by the rarefied measure"
            )
            yield ResultWarning("length", arm, text)
        matched = {
            key: (f"{find_metric(metric.at_equal_length).name} ", contrasts.get((arm, metric.at_equal_length)))
            for key, metric in METRICS.items()
            if metric.at_equal_length
        } | {
            key: ("with texts cut to equal lengths ", comparison)
            for (of_arm, key), comparison in equal_length.items()
            if of_arm == arm and not find_metric(key).at_equal_length
        }
        for key, (how, comparison) in matched.items():
            text = _vanishing(key, contrasts.get((arm, key)), comparison, how, alpha)
            if text:
                yield ResultWarning("length", arm, f"{arm}: {text}")


def criterion_warnings(outcomes: Sequence[CriterionOutcome]) -> Iterator[ResultWarning]:
    """Warns of saturated metrics, and criteria that so few prompts or seeds could hardly have decided."""
    for outcome in outcomes:
        evidence, criterion = outcome.evidence, outcome.criterion
        if evidence is None or evidence.comparison is None:
            continue
        name, comparison = find_metric(criterion.metric).name, evidence.comparison
        if evidence.share_at_bound >= _SATURATED:
            text = (
                f"{outcome.arm}: {name} is at its bound in both arms on {100 * evidence.share_at_bound:.0f} % of "
                f"prompts; {comparison.n_informative} of {comparison.n_prompts} prompts can tell them apart"
            )
            yield ResultWarning("saturated", outcome.arm, text)
        wanted = criterion.margin or criterion.asked * max(evidence.mean_baseline, 0.0)
        if outcome.status == "undecided" and comparison.minimum_detectable_effect > wanted > 0:
            text = (
                f"{outcome.arm}: {name} asks for {wanted:.3g}, and {plural(comparison.n_prompts, 'prompt')} show no "
                f"less than {comparison.minimum_detectable_effect:.3g} with 80 % power"
            )
            yield ResultWarning("underpowered", outcome.arm, text)


def seed_warnings(
    contrasts: Contrasts, metrics: Sequence[str], alpha: float, alone: Sequence[str] = ()
) -> Iterator[ResultWarning]:
    """Warns of too few training seeds, of arms that have one beside several of another (`alone`), and of differences
    that stand for these models but not against the spread of seeds."""
    n_seeds = {arm: comparison.n_seeds for (arm, _), comparison in contrasts.items()}
    everywhere = len(set(n_seeds.values())) == 1
    for arm, n in list(n_seeds.items())[: 1 if everywhere else None]:
        if n < LEAST_SEEDS:
            seeds = plural(n, "training seed")
            text = (
                f"{seeds if everywhere else f'{arm}: {seeds} that the baseline has too'}: the tests are of these "
                f"trained models, and say nothing of training again; use at least {LEAST_SEEDS}"
            )
            yield ResultWarning("few seeds", "" if everywhere else arm, text)
    for arm in alone:
        text = (
            f"{arm} has one training seed and stands against each of several: p and intervals over seeds hold the "
            f"spread of the others alone; where {arm} was trained too, give it as many seeds"
        )
        yield ResultWarning("few seeds", arm, text)
    for (arm, metric), comparison in contrasts.items():
        if (
            metric in metrics
            and comparison.n_seeds > 1
            and comparison.over_prompts.p_value < alpha <= comparison.p_over_seeds
        ):
            text = (
                f"{arm}: {find_metric(metric).name} differs for these trained models "
                f"({p_text(comparison.over_prompts.p_value)} over prompts alone) but not beyond the spread of "
                f"{comparison.n_seeds} seeds ({p_text(comparison.p_over_seeds)} over seeds)"
            )
            yield ResultWarning("few seeds", arm, text)


def answer_warnings(tables: Mapping[tuple[str, int], PromptTable]) -> Iterator[ResultWarning]:
    """Warns of arms with more answers a prompt than the measures of texts saw, because another has fewer."""
    most: dict[str, int] = {}
    for (arm, _), table in tables.items():
        most[arm] = max(most.get(arm, 0), *table.most_answers.values(), 0)
    seen = next(iter(tables.values())).answers
    more = [f"{arm} ({n})" for arm, n in most.items() if n > seen]
    if seen and more:
        text = (
            f"not every arm has as many answers to every prompt as {listed(more)}: measures of texts see the first "
            f"{seen} of each prompt, and a prompt with fewer is left out of them"
        )
        yield ResultWarning("number of answers", "", text)


def unchecked_warnings(tables: Mapping[tuple[str, int], PromptTable]) -> Iterator[ResultWarning]:
    """Warns of arms without a single reward though there is a checker, which failed on every answer, and of answers
    that the judge failed on."""
    reasons = _why_rewards_are_missing(tables)
    rewarded = {
        arm for (arm, _), table in tables.items() for sampled in table.sampled.values() if "reward" in sampled.values
    }
    for arm, counts in reasons.items():
        if arm not in rewarded:
            text = f"{arm}: no answer has a reward, so that nothing that needs one is measured: {_most(counts)}"
            yield ResultWarning("missing rewards", arm, text)
    for arm, counts in _reasons(tables, of_judge=True).items():
        text = (
            f"{arm}: the judge gave no mark to {plural(counts.total(), 'answer')}, which its mean leaves out: "
            f"{_most(counts)}"
        )
        yield ResultWarning("missing rewards", arm, text)


def _why_rewards_are_missing(tables: Mapping[tuple[str, int], PromptTable]) -> dict[str, Counter[str]]:
    """Counts by arm why the checker gave no reward; where none was named, or no answer given, it did not fail."""
    return _reasons(tables, of_judge=False)


def _reasons(tables: Mapping[tuple[str, int], PromptTable], *, of_judge: bool) -> dict[str, Counter[str]]:
    reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for (arm, _), table in tables.items():
        for reason, n in table.missing.items():
            passed_over = reason in (NO_CHECKER, NOT_GIVEN, NO_REASON) or reason.startswith(UNLABELLED)
            if reason.startswith(UNJUDGED) == of_judge and not passed_over:
                reasons[arm][reason.removeprefix(UNJUDGED)] += n
    return dict(reasons)


def _most(counts: Counter[str]) -> str:
    """Returns the reason that most answers have, with their number where there are others."""
    [(reason, n)] = counts.most_common(1)
    return reason if len(counts) == 1 else f"{reason} ({n:,} of {counts.total():,})"


def fault_warnings(
    means: Mapping[str, Mapping[str, float]], tables: Mapping[tuple[str, int], PromptTable]
) -> Iterator[ResultWarning]:
    """Warns of missing rewards and answers, and truncated texts; `means` by arm and metric."""
    reasons = _why_rewards_are_missing(tables)
    for arm, of_arm in means.items():
        if of_arm.get("missing", 0.0) > _MISSING and "reward" in of_arm:
            why = f": {_most(reasons[arm])}" if reasons.get(arm) else ""
            text = f"{arm}: {100 * of_arm['missing']:.1f} % of rewards are missing, because the checker failed{why}"
            yield ResultWarning("missing rewards", arm, text)
        if of_arm.get("unanswered", 0.0) > _MISSING:
            text = (
                f"{arm}: {100 * of_arm['unanswered']:.1f} % of the answers asked for were not given; what needs many "
                "answers is measured only on prompts that have them"
            )
            yield ResultWarning("missing answers", arm, text)
        if of_arm.get("truncated", 0.0) > _TRUNCATED:
            text = f"{arm}: {100 * of_arm['truncated']:.0f} % of texts were cut off before their end"
            yield ResultWarning("truncated", arm, text)


def unjudged(means: Mapping[str, Mapping[str, float]], arms: Sequence[str], metrics: Sequence[str]) -> str:
    """Says how many rewards of these arms are missing, where some of the metrics rests on rewards; empty where none
    are. An arm on whose wrong answers the checker fails looks better for it."""
    of_rewards = [find_metric(key).name for key in metrics if find_metric(key).rests_on_rewards]
    shares = {arm: means[arm].get("missing", 0.0) for arm in arms if "reward" in means.get(arm, {})}
    parts = [f"{100 * share:.3g} % of the rewards of {arm}" for arm, share in shares.items() if share > _MISSING]
    if not of_rewards or not parts:
        return ""
    verb = "is" if len(of_rewards) == 1 else "are"
    return f"{listed(parts)} are missing: {listed(of_rewards)} {verb} of the other answers alone"


def left_out_warnings(left_out: Sequence[str], n_prompts: int) -> Iterator[ResultWarning]:
    """Yields one line on everything that was given and is not compared, and on what is left."""
    if left_out:
        yield ResultWarning("left out", "", f"{'; '.join(left_out)}; {plural(n_prompts, 'prompt')} are compared")


def checker_warnings(audit: CheckerAudit | None) -> Iterator[ResultWarning]:
    """Warns of a checker that passes what it must not, or does not pass or judge the references: every quality rests on
    it."""
    if audit is not None and (audit.lenient or audit.harsh or audit.failing):
        yield ResultWarning("checker", "", f"{audit.sentence} Every quality here rests on this checker")


def sandbox_notes(rows: Iterable[GenerationRow]) -> list[ResultWarning]:
    """Says once what kept executed answers from the rest of the system, and of how many where it was not one thing."""
    counts = Counter(row.protection for row in rows if row.protection)
    if not counts:
        return []
    each = [words if len(counts) == 1 else f"{words} ({n:,})" for words, n in counts.most_common()]
    return [ResultWarning("sandbox", "", f"answers were executed apart: {'; '.join(each)} (SECURITY.md)")]


def _vanishing(
    key: str, plain: PairedComparison | None, matched: PairedComparison | None, how: str, alpha: float
) -> str:
    """Tells of a significant difference that does not stay when length is matched; empty where it stays."""
    if plain is None or matched is None or plain.p_value >= alpha:
        return ""
    if matched.p_value < alpha and plain.difference * matched.difference > 0:
        return ""
    return (
        f"{find_metric(key).name} {signed_percent(plain.relative_difference)} vanishes when length is matched "
        f"({how}{signed_percent(matched.relative_difference)})"
    )


def undefined_warnings(tables: Mapping[tuple[str, int], PromptTable], label: str) -> Iterator[ResultWarning]:
    """Yields for each arm the measures that some prompt lacks under one sampling setting, with the number and the
    reason; once for all arms where they lack the same."""
    groups: Counter[str] = Counter()
    lacking: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (arm, _), table in tables.items():
        groups[arm] += len(table.prompts)
        for metric, reasons in table.undefined.get(label, {}).items():
            for reason, n in reasons.items():
                lacking[arm, reason][metric] += n
    parts: dict[str, str] = {}
    alike = len(set(groups.values())) == 1
    for (arm, reason), counts in lacking.items():
        part = f"{_named(counts, groups[arm], alike)}: {reason}"
        parts[arm] = f"{parts[arm]}; {part}" if arm in parts else f"no value of {part}"
    if len(parts) == len(groups) and len(set(parts.values())) == 1:
        parts = {"": f"in every arm {next(iter(parts.values()))}"}
    for arm, text in parts.items():
        yield ResultWarning("undefined", arm, f"{arm}: {text}" if arm else text)


def _named(counts: Mapping[str, int], n_groups: int, alike: bool) -> str:
    """Measures that as many groups lack, together: "Distinct-2 and Distinct-3 in 10 of 40 groups". Where arms have
    different numbers of groups (not `alike`), "in every group" lets them be told together."""
    by_number: defaultdict[int, list[str]] = defaultdict(list)
    for metric in sorted(counts, key=list(METRICS).index):
        by_number[counts[metric]].append(find_metric(metric).name)

    def place(n: int) -> str:
        return "every group" if n == n_groups and not alike else f"{n} of {n_groups} groups"

    return ", ".join(f"{listed(names)} in {place(n)}" for n, names in by_number.items())
