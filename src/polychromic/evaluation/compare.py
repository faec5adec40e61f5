"""Compares all arms with the baseline: turns tables into a comparison with a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from polychromic.diversity import Signature
from polychromic.evaluation.audits.checker import CheckerAudit
from polychromic.evaluation.audits.gaming import partition_gaming, reward_hacking
from polychromic.evaluation.audits.partition import PartitionAudit
from polychromic.evaluation.counting.curves import BENCHMARK_KS, curve_order, key_at_k, split_at_k
from polychromic.evaluation.criteria import DEFAULT_LEVELS, Criterion, Levels, ResultWarning, plural, share_at_bound
from polychromic.evaluation.lengths import EqualLength
from polychromic.evaluation.metrics import METRICS, find_metric
from polychromic.evaluation.outcomes import Evidence
from polychromic.evaluation.statistics.frontier import MatchedGain, matched_gains, simultaneous_curve
from polychromic.evaluation.statistics.intervals import Resampling, mean_intervals
from polychromic.evaluation.statistics.paired import paired_comparisons
from polychromic.evaluation.statistics.resampling import differences
from polychromic.evaluation.statistics.sensitivity import Overtaking, margin_test, overtakings, robustness
from polychromic.evaluation.tables import Pair, Plan, PromptTable, share_a_prompt
from polychromic.evaluation.verdict import ArmCurve, ArmMean, Comparison, Contrast, Sensitivity, Verdict, judge
from polychromic.evaluation.warnings import (
    Contrasts,
    answer_warnings,
    checker_warnings,
    criterion_warnings,
    fault_warnings,
    left_out_warnings,
    length_warnings,
    seed_warnings,
    temperature_warnings,
    unchecked_warnings,
    undefined_warnings,
    unjudged,
)
from polychromic.numerics import FloatArray


def compare(
    tables: Mapping[tuple[str, int], PromptTable],
    *,
    baseline: str,
    criteria: Levels = DEFAULT_LEVELS,
    primary_sampling: str | None = None,
    resampling: Resampling | None = None,
    quality_metric: str | None = None,
    audit: CheckerAudit | None = None,
    partition: PartitionAudit | None = None,
    equal_length: EqualLength | None = None,
    notes: Sequence[ResultWarning] = (),
    chosen_late: Sequence[str] = (),
    untrained: str | None = None,
    trained: bool = True,
) -> Comparison:
    """Compares every arm with the baseline and judges it by the criteria.

    `tables` are by (arm, seed) in the order in which arms are shown. The criteria are judged at `primary_sampling` (the
    first of the baseline's unless named). `quality_metric` is the frontier's quality: the judge where there is one,
    else the reward. `audit` and `partition` rate the checker and the partition into same answers, `equal_length` (from
    `at_equal_length`) has the arms with texts of the same lengths, `notes` are the caller's warnings: all are shown.
    `chosen_late` names settings changed after results were seen, `untrained` the arm that is shown and not judged.
    `trained` says that arms are trained, each seed anew.
    Raises ValueError where the baseline, another arm or the primary sampling is missing, no prompt is shared, or a
    measure was made in different ways (see `measure_arms`).
    """
    plan = Plan.of(tables, baseline, criteria, primary_sampling, resampling or Resampling(), untrained)
    contrasts = _contrasts(plan)
    cut = {(arm, plan.primary_sampling, metric): pair for (arm, metric), pair in (equal_length or {}).items()}
    at_equal_length = contrasts_of(plan, cut)
    at_primary, at_primary_cut = (at_primary_sampling(plan, found) for found in (contrasts, at_equal_length))
    means, gains = _means(plan), _frontier(plan, quality_metric)
    gaming = [*reward_hacking(plan, at_primary), *partition_gaming(plan, at_primary)]
    primary_means = _primary_means(means, plan.primary_sampling)
    missing = unjudged(primary_means, (plan.baseline, *plan.judged), plan.asked)
    verdict = _verdict(plan, at_primary, gaming, partition, chosen_late, notes, missing)
    warnings = (
        *unchecked_warnings(tables), *(partition.warnings() if partition is not None else ()), *gaming,
        *checker_warnings(audit),
        *temperature_warnings(gains, at_primary, plan.primary_sampling, plan.alpha),
        *criterion_warnings([outcome for level in verdict.levels for outcome in level.outcomes]),
        *length_warnings(at_primary, at_primary_cut, plan.judged, plan.alpha),
        *answer_warnings(tables),
        *fault_warnings(primary_means, tables),
        *left_out_warnings(plan.left_out, plan.n_prompts),
        *undefined_warnings(tables, plan.primary_sampling),
        *(seed_warnings(at_primary, plan.asked, plan.alpha, plan.alone) if trained else ()), *notes,
    )  # fmt: skip
    return Comparison(
        baseline=baseline, arms=tuple(plan.study.arms), seeds=plan.study.arms, prompts=plan.study.prompts,
        primary_sampling=plan.primary_sampling, clusters=plan.study.clusters, signatures=plan.study.signatures,
        means=means, contrasts=contrasts, equal_length=at_equal_length, sensitivity=_sensitivity(plan),
        frontier=gains, curves=_curves(plan), warnings=tuple(dict.fromkeys(warnings)), verdict=verdict,
        resampling=plan.resampling, checker=audit, partition=partition, untrained=plan.untrained,
        against_untrained=_against_untrained(plan), overtakings=_overtakings(plan), n_answered=plan.n_prompts,
    )  # fmt: skip


def _verdict(
    plan: Plan,
    at_primary: Contrasts,
    gaming: Sequence[ResultWarning],
    partition: PartitionAudit | None,
    chosen_late: Sequence[str],
    notes: Sequence[ResultWarning],
    missing: str,
) -> Verdict:
    """Judges the arms; what was gamed, leaked, not judged or divided badly stands beside the status."""
    return judge(
        plan.levels,
        plan.judged,
        evidence(plan, at_primary),
        basis=_basis(plan),
        hacked=[alarm.arm for alarm in gaming if alarm.kind == "reward hacking"],
        gamed=[alarm.arm for alarm in gaming if alarm.kind == "partition gaming"],
        chosen_late=chosen_late,
        alone=plan.alone,
        unsound=partition.finding if partition is not None and partition.faults else "",
        leaked=next((note.text for note in notes if note.kind == "leakage"), ""),
        unjudged=missing,
    )


def at_primary_sampling(plan: Plan, contrasts: Sequence[Contrast]) -> Contrasts:
    """Returns the contrasts of the judged arms at the sampling setting that the criteria are judged at."""
    return {
        (contrast.arm, contrast.metric): contrast.comparison
        for contrast in contrasts
        if contrast.sampling == plan.primary_sampling and contrast.arm in plan.judged
    }


def _contrasts(plan: Plan) -> tuple[Contrast, ...]:
    """Returns every metric that an arm shares with the baseline, under all sampling settings that both have."""
    return contrasts_of(
        plan,
        {
            (arm, label, metric): plan.pair(arm, label, metric)
            for arm in plan.others
            for label in plan.study.labels(arm)
            for metric in _metrics(plan, arm, label)
        },
    )


def contrasts_of(plan: Plan, pairs: Mapping[tuple[str, str, str], Pair | None]) -> tuple[Contrast, ...]:
    """Compares pairs by (arm, sampling, metric); those that are None, or share no defined prompt, are left out."""
    shared = {name: pair for name, pair in pairs.items() if pair is not None and share_a_prompt(pair)}
    compared = paired_comparisons(list(shared.values()), resampling=plan.resampling)
    facts = [find_metric(metric) for _, _, metric in shared]
    return tuple(
        Contrast(*name, comparison.within(metric.lowest, metric.highest))
        for name, metric, comparison in zip(shared, facts, compared, strict=True)
    )


def _metrics(plan: Plan, arm: str, label: str) -> list[str]:
    """Lists metrics in the order of the registry, then those of curves: all k at the primary sampling, else the k of
    the criteria. Of an arm that stands alone all k everywhere, and those at which benchmarks state pass@k."""
    present = plan.study.metrics(arm, label)
    plain = [key for key in METRICS if key in present]
    at_k = {key for key in plan.asked if split_at_k(key)}
    is_alone = len(plan.study.arms) == 1
    if label == plan.primary_sampling or is_alone:
        at_k |= {key for key in present if split_at_k(key)}
    if is_alone:
        at_k |= {key_at_k("pass", k) for k in BENCHMARK_KS}
    return [*plain, *sorted(at_k, key=curve_order)]


def evidence(plan: Plan, at_primary: Contrasts) -> dict[tuple[str, Criterion], Evidence]:
    """Returns what is known of each criterion in each judged arm, from comparisons by arm and metric."""
    by_criterion, n_compared = {}, plan.n_prompts
    for arm in plan.judged:
        for criterion in plan.criteria:
            comparison = at_primary.get((arm, criterion.metric))
            pair = plan.pair(arm, plan.primary_sampling, criterion.metric)
            if comparison is None or pair is None:
                continue
            kept_P = ~np.isnan(pair[0] + pair[1]).any(axis=0)
            a_SP, b_SP = pair[0][:, kept_P], pair[1][:, kept_P]
            margin, metric = None, find_metric(criterion.metric)
            kept = (_kept_if_failed(plan, arm, metric.key), _kept_if_failed(plan, plan.baseline, metric.key))
            if_failed = (kept[0] * comparison.mean_a, kept[1] * comparison.mean_b) if min(kept) < 1.0 else None
            if criterion.margin:
                worst = metric.lowest if criterion.sign > 0 else metric.highest
                margin = margin_test(
                    a_SP, b_SP, criterion.margin, criterion.sign, worst=worst, resampling=plan.resampling
                )
            at_bound = share_at_bound(a_SP.mean(axis=0), b_SP.mean(axis=0), criterion.metric)
            by_criterion[arm, criterion] = Evidence(
                comparison.mean_a, comparison.mean_b, comparison, margin, at_bound, n_compared, if_failed
            )
    return by_criterion


def _kept_if_failed(plan: Plan, arm: str, key: str) -> float:
    """Returns what is left of an arm's mean, as a share, with answers that have no reward counted as failed.

    Of k answers as many have a reward as are expected to, and a curve says what these find. 1 where none is missing, or
    the metric is none of those of which this can be told.
    """
    label, study = plan.primary_sampling, plan.study
    cells_SP = study.cells(arm, label, "missing")
    missing = 0.0 if cells_SP is None or np.isnan(cells_SP).all() else float(np.nanmean(cells_SP))
    if key == "distinct_correct":
        drawn = dict(Signature.parse(study.signatures[key]).choices)["k"] if key in study.signatures else ""
        key = key_at_k(key, int(drawn)) if drawn.isdigit() else key
    name, k = ("pass", 1) if key == "reward" else split_at_k(key) or ("", 0)
    cells_SPK = study.curves(arm, label, name) if missing and name in ("pass", "distinct_correct") else None
    if cells_SPK is None:
        return 1.0
    found_K = np.append(0.0, np.nanmean(cells_SPK[..., :k], axis=(0, 1)))
    of_all, of_judged = np.interp([k, (1.0 - missing) * k], np.arange(len(found_K)), found_K)
    return float(of_judged / of_all) if of_all > 0.0 else 1.0


def _sensitivity(plan: Plan) -> tuple[Sensitivity, ...]:
    sensitivities = []
    for arm in plan.others:
        for metric in plan.asked:
            pair = plan.pair(arm, plan.primary_sampling, metric)
            if pair is None:
                continue
            difference_P = differences(*pair).mean(axis=0)
            kept_P = ~np.isnan(difference_P)
            second = robustness(pair[0][:, kept_P], pair[1][:, kept_P], plan.resampling.confidence)
            sensitivities.append(Sensitivity(arm, metric, tuple(difference_P.tolist()), second))
    return tuple(sensitivities)


def _frontier(plan: Plan, quality_metric: str | None) -> tuple[MatchedGain, ...]:
    """Returns gains at matched quality in every diversity metric that a criterion names, else in all that were
    measured."""
    measured = plan.study.metrics(plan.baseline, plan.primary_sampling)
    quality = quality_metric or ("judge" if "judge" in measured else "reward")
    kinds = ("diversity", "both")
    metrics = [key for key in plan.asked if find_metric(key).kind in kinds] or [
        key for key in measured if find_metric(key).kind == "diversity"
    ]
    return tuple(
        gain
        for arm in plan.others
        for metric in metrics
        for gain in matched_gains(plan.study, arm, plan.baseline, metric, quality, plan.resampling)
    )


def _means(plan: Plan) -> tuple[ArmMean, ...]:
    complete: dict[tuple[str, str, str], FloatArray] = {}
    for arm in plan.study.arms:
        for label in plan.study.labels(arm):
            for metric in _metrics(plan, arm, label):
                cells_SP = plan.study.cells(arm, label, metric)
                if cells_SP is not None and not np.isnan(cells_SP).any(axis=0).all():
                    complete[arm, label, metric] = cells_SP[:, ~np.isnan(cells_SP).any(axis=0)]
    means = []
    intervals = mean_intervals(list(complete.values()), plan.resampling)
    for (name, cells_SP), interval in zip(complete.items(), intervals, strict=True):
        info = find_metric(name[2])
        low, high = max(interval[0], info.lowest), min(interval[1], info.highest)
        seeds = tuple(cells_SP.mean(axis=1).tolist())
        means.append(ArmMean(*name, float(cells_SP.mean()), low, high, seeds, cells_SP.shape[1]))
    return tuple(means)


def _primary_means(means: Sequence[ArmMean], primary_sampling: str) -> dict[str, dict[str, float]]:
    by_arm: dict[str, dict[str, float]] = {}
    for arm_mean in means:
        if arm_mean.sampling == primary_sampling:
            by_arm.setdefault(arm_mean.arm, {})[arm_mean.metric] = arm_mean.mean
    return by_arm


def _curves(plan: Plan) -> tuple[ArmCurve, ...]:
    curves = []
    for arm in plan.study.arms:
        for label in plan.study.labels(arm):
            for name, highest in (("pass", 1.0), ("distinct_correct", np.inf)):
                cells_SPK = plan.study.curves(arm, label, name)
                if cells_SPK is None:
                    continue
                curve = simultaneous_curve(cells_SPK.mean(axis=0), plan.resampling, highest)
                if curve is not None:
                    curves.append(ArmCurve(arm, label, name, curve))
    return tuple(curves)


def _against_untrained(plan: Plan) -> tuple[Contrast, ...]:
    if plan.untrained is None:
        return ()
    label = plan.primary_sampling
    return contrasts_of(
        plan,
        {
            (arm, label, metric): plan.study.pair(arm, plan.untrained, label, metric)
            for metric in plan.asked
            for arm in (plan.baseline, *plan.judged)
        },
    )


def _overtakings(plan: Plan) -> tuple[Overtaking, ...]:
    if plan.untrained is None:
        return ()
    return overtakings(
        plan.study, plan.untrained, (plan.baseline, *plan.judged), plan.primary_sampling, plan.resampling
    )


def _basis(plan: Plan) -> str:
    """Says what a verdict rests on; of arms whose seeds the baseline has in part, the seeds that both have."""
    numbers = [_n_seeds(plan, arm) for arm in plan.judged or (plan.baseline,)]
    fewest, most = min(numbers), max(numbers)
    seeds = plural(most, "seed") if fewest == most else f"{fewest} to {plural(most, 'seed')}"
    return f"{plural(plan.n_prompts, 'prompt')}, {seeds}, sampled at {plan.primary_sampling}"


def _n_seeds(plan: Plan, arm: str) -> int:
    """Counts the seeds on which an arm stands against the baseline: one where either has one."""
    own, base = plan.study.arms[arm], plan.study.arms[plan.baseline]
    return 1 if 1 in (len(own), len(base)) else len(set(own) & set(base))
