"""Criteria, ceilings, outcomes and the verdict, on the origin's own numbers among others."""

import math

import numpy as np
import pytest

from polychromic.evaluation import (
    DEFAULT_LEVELS,
    MINIMUM,
    STRONG,
    Criterion,
    Resampling,
    criterion_possible,
    judge_means,
    paired_comparison,
)
from polychromic.evaluation.criteria import share_at_bound
from polychromic.evaluation.metrics import METRICS, Metric
from polychromic.evaluation.outcomes import Evidence, decide
from polychromic.evaluation.statistics.sensitivity import margin_test
from polychromic.evaluation.verdict import judge

HIGHER_10, LOWER_30 = Criterion("pass@10", "higher", 0.25), Criterion("self_bleu", "lower", 0.3)
QUICK = Resampling(bootstraps=1000, sign_patterns=4000)
ORIGIN_BASELINE = {"distinct_2": 0.2549, "self_bleu": 0.5247, "pass@1": 0.696, "pass@10": 0.998}
ORIGIN_ARM = {"distinct_2": 0.2590, "self_bleu": 0.5369, "pass@1": 0.678, "pass@10": 0.996}


def spread_around(mean, n_prompts=500, spread=0.05, seed=0):
    """Values of prompts with exactly this mean."""
    values = np.random.default_rng(seed).normal(0.0, spread, n_prompts)
    return np.clip(mean + values - values.mean(), None, None)[None]


def evidence_of(criterion, arm_SP, baseline_SP):
    comparison = paired_comparison(arm_SP, baseline_SP, resampling=QUICK)
    margin = margin_test(arm_SP, baseline_SP, criterion.margin, criterion.sign) if criterion.margin else None
    bound = share_at_bound(arm_SP.mean(axis=0), baseline_SP.mean(axis=0), criterion.metric)
    return Evidence(comparison.mean_a, comparison.mean_b, comparison, margin, bound)


def outcome_of(criterion, arm_SP, baseline_SP):
    found = {("arm", criterion): evidence_of(criterion, arm_SP, baseline_SP)}
    return judge({"level": [criterion]}, ["arm"], found).levels[0].outcomes[0]


def test_the_origins_means_are_not_met_worse_and_impossible():
    verdict = judge_means(ORIGIN_BASELINE, ORIGIN_ARM, name="moderate")
    outcomes = {outcome.criterion.metric: outcome for outcome in verdict.level("minimum").outcomes}

    assert verdict.status == "not met"
    assert outcomes["distinct_2"].status == "not met" and not outcomes["distinct_2"].worse
    assert outcomes["self_bleu"].status == "not met" and outcomes["self_bleu"].worse
    assert outcomes["pass@1"].status == "not met" and outcomes["pass@1"].worse
    assert outcomes["pass@10"].status == "impossible"
    assert "Pass@10 +25 % from 0.998 needs 1.2475" in verdict.sentence
    assert "Self-BLEU got worse: +2.33 % where −10 % was asked" in verdict.sentence
    assert verdict.sentence.startswith("moderate does not meet the minimum criteria")


def test_the_origins_numbers_with_prompts_behind_them():
    found = {
        ("moderate", criterion): evidence_of(
            criterion,
            spread_around(ORIGIN_ARM[criterion.metric], seed=1),
            spread_around(ORIGIN_BASELINE[criterion.metric]),
        )
        for level in DEFAULT_LEVELS.values()
        for criterion in level
    }

    verdict = judge(DEFAULT_LEVELS, ["moderate"], found)
    outcomes = {outcome.criterion.metric: outcome for outcome in verdict.level("minimum").outcomes}

    assert (verdict.status, verdict.level("strong").status) == ("not met", "not met")
    assert outcomes["distinct_2"].status == "not met"
    assert (outcomes["self_bleu"].status, outcomes["self_bleu"].worse) == ("not met", True)
    assert outcomes["pass@10"].status == "impossible"
    assert outcomes["pass@10"].needed == pytest.approx(1.2475)


@pytest.mark.parametrize(
    ("criterion", "baseline", "possible", "sentence"),
    [
        (HIGHER_10, 0.998, False, "Pass@10 +25 % from 0.998 needs 1.2475, and it cannot exceed 1"),
        (HIGHER_10, 0.8, True, "Pass@10 +25 % from 0.8 needs 1"),
        (MINIMUM[0], 0.96, False, "Distinct-2 +12 % from 0.96 needs 1.0752, and it cannot exceed 1"),
        (LOWER_30, 0.06, True, "Self-BLEU −30 % from 0.06 needs 0.042"),
        (LOWER_30, 0.0, False, "Self-BLEU −30 % from 0 cannot be met: the baseline is at the bound"),
        (
            Criterion("pass@16"),
            1.0,
            False,
            "Pass@16 higher from 1 cannot be met: the baseline is at the bound",
        ),
        (
            Criterion("distinct_correct", "higher", 0.5),
            40.0,
            True,
            "Distinct correct answers +50 % from 40 needs 60",
        ),
        (Criterion("distinct_correct@64", "higher", 0.5), 60.0, False, "needs 90, and it cannot exceed 64"),
        (Criterion("vendi", "higher", 0.5), math.nan, True, "Vendi score +50 % from – needs –"),
        (Criterion("pass@1", "not_worse", margin=0.02), 1.0, True, "can always be met"),
    ],
)
def test_what_arithmetic_rules_out_is_said_before_a_run(criterion, baseline, possible, sentence):
    found = criterion_possible(criterion, baseline)

    assert found.possible is possible
    assert sentence in found.sentence


def test_a_large_certain_gain_is_met():
    baseline = spread_around(0.25, 200)

    outcome = outcome_of(Criterion("distinct_2", "higher", 0.12), 1.2 * baseline, baseline)

    assert outcome.status == "met"
    assert outcome.sentence.startswith("Distinct-2 +20 % (p")
    assert outcome.would_take == ""


def test_a_gain_that_is_large_enough_but_uncertain_is_undecided_with_what_it_would_take():
    rng = np.random.default_rng(0)
    baseline = rng.random((1, 12))
    arm = baseline * 1.3 + rng.normal(0, 0.6, baseline.shape)
    arm += 1.3 * baseline.mean() - arm.mean()

    outcome = outcome_of(Criterion("distinct_2", "higher", 0.12), arm, baseline)

    assert outcome.status == "undecided"
    assert "prompts if it stays as it is (now 12)" in outcome.would_take


def test_a_gain_short_of_what_was_asked_is_undecided_while_the_interval_reaches_it():
    rng = np.random.default_rng(1)
    baseline = spread_around(0.5, 40)
    arm = baseline * 1.08 + rng.normal(0, 0.1, baseline.shape)
    arm += 0.54 - arm.mean()

    near = outcome_of(Criterion("distinct_2", "higher", 0.12), arm, baseline)
    far = outcome_of(Criterion("distinct_2", "higher", 0.50), arm, baseline)

    assert (near.status, far.status) == ("undecided", "not met")
    assert "prompts" in near.would_take


@pytest.mark.parametrize(("loss", "status"), [(0.0, "met"), (0.019, "undecided"), (0.05, "not met")])
def test_no_worse_needs_proof(loss, status):
    baseline = spread_around(0.7, 200, seed=3)
    noise = spread_around(0.0, 200, seed=4)

    outcome = outcome_of(Criterion("pass@1", "not_worse", margin=0.02), baseline - loss + noise, baseline)

    assert outcome.status == status


def test_no_worse_of_a_metric_where_lower_is_better():
    baseline = spread_around(0.5, 200)

    better, worse = (
        outcome_of(Criterion("self_bleu", "not_worse", margin=0.02), baseline + change, baseline)
        for change in (-0.1, 0.1)
    )

    assert (better.status, worse.status) == ("met", "not met")


def test_any_rise_is_asked_for_and_a_fall_is_not_met():
    baseline = spread_around(0.5, 100)

    criterion = Criterion("pass@16", "higher")

    assert outcome_of(criterion, baseline + 0.1, baseline).status == "met"
    fallen = outcome_of(criterion, baseline - 0.1, baseline)
    assert (fallen.status, fallen.worse) == ("not met", True)


def test_a_saturated_metric_cannot_distinguish():
    baseline = np.ones((1, 100))
    baseline[0, :3] = 0.9
    arm = baseline.copy()
    arm[0, :2] = [1.0, 0.8]

    outcome = outcome_of(Criterion("pass@16", "higher"), arm, baseline)

    assert outcome.status == "undecided"
    assert "Pass@16 cannot distinguish the arms, 97 % of prompts are at its bound" in outcome.would_take


def test_too_few_prompts_that_differ_are_named():
    baseline = np.full((1, 30), 0.5)
    arm = baseline.copy()
    arm[0, :4] = 1.0

    outcome = outcome_of(Criterion("pass@16", "higher"), arm, baseline)

    assert outcome.status == "undecided"
    assert outcome.would_take == "more prompts: only 4 differ between the arms, and p cannot fall below 0.12"


def test_one_seed_cannot_show_that_it_holds_over_seeds():
    baseline = spread_around(0.25, 200)
    criterion = Criterion("distinct_2", "higher", 0.25, over_seeds=True)

    one = outcome_of(criterion, 1.5 * baseline, baseline)
    three = outcome_of(criterion, np.repeat(1.5 * baseline, 3, axis=0), np.repeat(baseline, 3, axis=0))

    assert one.status == "undecided" and "at least 3 training seeds" in one.would_take
    assert three.status == "met"


def test_seeds_that_disagree_leave_a_strong_criterion_undecided():
    baseline = np.repeat(spread_around(0.25, 200), 3, axis=0)
    arm = baseline * np.array([[2.2], [1.0], [1.3]])
    found = {
        ("arm", criterion): evidence_of(criterion, arm, baseline)
        for criterion in (
            Criterion("distinct_2", "higher", 0.25, over_seeds=False),
            Criterion("distinct_2", "higher", 0.25),
        )
    }
    minimum, strong = (criterion for _, criterion in found)

    verdict = judge({"minimum": [minimum], "strong": [strong]}, ["arm"], found)

    assert (verdict.level("minimum").status, verdict.level("strong").status) == ("met", "undecided")
    assert "more training seeds than 3" in verdict.level("strong").outcomes[0].would_take


def test_what_was_not_measured_is_undecided_and_says_what_it_needs():
    outcome = decide("arm", "minimum", Criterion("judge"), None, math.nan)

    assert outcome.status == "undecided"
    assert outcome.would_take == "measuring judge in both arms (it needs a judge)"


def test_answers_of_one_word_need_more_words_and_not_texts():
    """Distinct-2 of one-word answers was "measured where it needs texts", which were there."""
    asked = Criterion("distinct_2", "higher", 0.1)
    [outcome] = judge({"level": [asked]}, ["arm"], {}).levels[0].outcomes

    assert outcome.would_take == (
        "measuring distinct_2 in both arms (it needs at least half of a prompt's answers to have 2 or more tokens)"
    )


def test_a_relative_change_from_zero_has_no_meaning():
    outcome = outcome_of(Criterion("distinct_correct", "higher", 0.5), np.ones((1, 9)), np.zeros((1, 9)))

    assert outcome.status == "undecided"
    assert "a baseline above 0 (a change relative to 0 has no meaning)" in outcome.would_take


def test_a_rise_from_below_zero_is_a_rise(monkeypatch):
    """A mean log-likelihood of −2 that rose to −1 was "−50 %", and a fall to −3 "+50 %"."""
    key = "mean_loglik"
    monkeypatch.setitem(METRICS, key, Metric(key, "Log-likelihood", "higher", "quality", -math.inf, math.inf))
    before, better = spread_around(-2.0), spread_around(-1.0, seed=1)
    risen, fallen = (outcome_of(Criterion(key, "higher"), *pair) for pair in ((better, before), (before, better)))
    asked = outcome_of(Criterion(key, "higher", 0.1), better, before)

    assert risen.status == "met" and risen.sentence.startswith("Log-likelihood +1 (")
    assert fallen.label == "not met (worse)" and "got worse: −1 where higher was asked" in fallen.sentence
    assert asked.status == "undecided" and "a change relative to −2 has no meaning" in asked.would_take
    assert "has no meaning from −2" in criterion_possible(asked.criterion, -2.0).sentence
    assert math.isnan(risen.evidence.comparison.relative_difference)


def test_more_arms_make_each_criterion_harder():
    rng = np.random.default_rng(0)
    baseline = rng.random((1, 60))
    arm = baseline + 0.07 + rng.normal(0, 0.38, baseline.shape)
    criterion = Criterion("distinct_2", "higher")
    evidence = evidence_of(criterion, arm, baseline)
    assert 0.01 < evidence.comparison.p_value < 0.05

    alone = judge({"minimum": [criterion]}, ["a"], {("a", criterion): evidence})
    names = list("abcde")
    crowd = judge({"minimum": [criterion]}, names, {(name, criterion): evidence for name in names})

    assert (alone.status, crowd.status) == ("met", "undecided")


def test_the_verdict_names_the_arm_that_came_furthest():
    baseline = spread_around(0.25, 200)
    good, poor = Criterion("distinct_2", "higher", 0.12), Criterion("self_bleu", "lower", 0.1)
    found = {
        (arm, criterion): evidence_of(criterion, factor * baseline, baseline)
        for arm, factors in {"weak": (1.01, 0.99), "best": (1.3, 0.7)}.items()
        for criterion, factor in zip((good, poor), factors, strict=True)
    }

    verdict = judge({"minimum": [good, poor]}, ["weak", "best"], found, basis="200 prompts, 1 seed")

    assert verdict.level("minimum").arms == {"weak": "not met", "best": "met"}
    assert verdict.sentence.startswith(
        "best meets the minimum criteria: Distinct-2 +30 % (p = 0.001) and Self-BLEU −30 %"
    )
    assert verdict.sentence.endswith("(200 prompts, 1 seed)")
    with pytest.raises(ValueError, match="level 'middling'"):
        verdict.level("middling")


def test_a_single_arm_or_no_criterion_leaves_nothing_to_judge():
    assert judge(DEFAULT_LEVELS, [], {}).sentence == "Nothing to judge: the baseline is the only arm."
    assert judge({"minimum": []}, ["arm"], {}).sentence == "Nothing to judge: no criterion was stated."


def test_default_levels_are_the_missions():
    asked = [[(one.metric, one.direction, one.relative_change) for one in level[:3]] for level in (MINIMUM, STRONG)]

    assert asked == [
        [("distinct_2", "higher", 0.12), ("pass@10", "higher", 0.25), ("self_bleu", "lower", 0.10)],
        [("distinct_2", "higher", 0.25), ("pass@10", "higher", 0.50), ("self_bleu", "lower", 0.30)],
    ]
    assert [(level[3].metric, level[3].direction) for level in (MINIMUM, STRONG)] == [("pass@1", "not_worse")] * 2
    assert not any(one.over_seeds for one in MINIMUM) and all(one.over_seeds for one in STRONG)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "nonsense"}, "metric 'nonsense' is not known"),
        ({"metric": "self_bleu", "direction": "higher"}, "direction higher, but lower is better here"),
        ({"metric": "pass@1", "direction": "not_worse"}, "not_worse with margin=None"),
        ({"metric": "pass@1", "direction": "not_worse", "margin": 0.0}, "not_worse with margin=0.0"),
        (
            {"metric": "pass@1", "direction": "not_worse", "margin": 0.1, "relative_change": 0.1},
            "relative_change=0.1",
        ),
        ({"metric": "pass@1", "margin": 0.1}, "only not_worse takes one"),
        ({"metric": "pass@1", "relative_change": -0.1}, "expected 0 or more"),
        (
            {"metric": "self_bleu", "direction": "lower", "relative_change": 1.2},
            "asks for a fall of more than 100 %",
        ),
        ({"metric": "pass@1", "alpha": 5}, "alpha=5"),
        ({"metric": "pass@1", "direction": "up"}, "direction 'up'"),
    ],
)
def test_criteria_that_do_not_fit_together_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Criterion(**arguments)


def test_a_change_whose_interval_holds_zero_is_no_clear_change_everywhere():
    """Past bug: "Semantic distance got worse: −0.06 %" with p = 0.96, in red."""
    rng = np.random.default_rng(0)
    baseline = rng.random((1, 80))
    arm = baseline + rng.normal(0.0, 0.05, baseline.shape)
    arm -= (arm - baseline).mean() + 0.0003

    any_rise = outcome_of(Criterion("distinct_2", "higher"), arm, baseline)
    far = outcome_of(Criterion("distinct_2", "higher", 0.5), arm, baseline)

    assert (any_rise.status, any_rise.label) == ("undecided", "undecided (no clear change)")
    assert (far.status, far.label) == ("not met", "not met (no clear change)")
    assert not any_rise.worse and not far.worse
    assert far.sentence.startswith("Distinct-2: no clear change, −0.0")


def test_what_is_met_at_a_looser_level_is_a_clear_change_at_that_level():
    """At alpha 0.1 a rise with p = 0.07 was met, and "no clear change (+13 %) where a rise was asked"."""
    baseline = spread_around(2.0, 50)
    moved = np.random.default_rng(0).normal(0.0, 1.0, baseline.shape)
    risen = baseline + moved - moved.mean() + 0.26

    strict, loose = (outcome_of(Criterion("vendi", "higher", alpha=alpha), risen, baseline) for alpha in (0.05, 0.1))
    assert 0.05 < loose.p_adjusted < 0.1
    assert (strict.status, strict.change) == ("undecided", "no clear change")
    assert (loose.status, loose.change, loose.label) == ("met", "better", "met")


def test_the_verdict_says_whom_it_answers_for():
    baseline = np.repeat(spread_around(0.25, 200), 3, axis=0)
    default, models = Criterion("distinct_2", "higher"), Criterion("distinct_2", "higher", over_seeds=False)

    def question(*criteria, n_seeds=3):
        found = {("arm", one): evidence_of(one, 1.5 * baseline[:n_seeds], baseline[:n_seeds]) for one in criteria}
        return judge({"minimum": criteria}, ["arm"], found).question

    assert question(default).startswith("This answers for the way of training, on other prompts and with other seeds")
    assert question(models).startswith("This answers for these trained models, on other prompts")
    assert question(default, n_seeds=2) == question(models)
    assert question(default, models).startswith("Criteria over seeds answer for this way of training")
    assert judge_means(ORIGIN_BASELINE, ORIGIN_ARM).question == ""
