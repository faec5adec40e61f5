"""The first lines of the page and its numbers: what a manager reads, and what stands behind it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from polychromic.evaluation import Criterion, PromptTable, Resampling, SampledTable, compare, find_metric
from polychromic.evaluation.counting.formulas import pass_at_k_curve
from polychromic.evaluation.criteria import decimal_places, estimate, short_p
from polychromic.report.latex import escape_latex
from polychromic.report.tables import (
    criteria_groups,
    criteria_header,
    means_groups,
    no_warnings,
    only_arm_table,
    signatures,
)
from polychromic.report.terminal import status_style
from polychromic.report.view import as_text, how_made, plain_verdict, view_outcome

QUICK = Resampling(bootstraps=1000, sign_patterns=2000)
N_PROMPTS, N_SEEDS = 60, 3


def comparison_of(*, criteria, arms=("arm",), **shifts):
    """Arms whose metrics differ from the baseline's by a shift (one for all arms, or one each)."""
    base = {"pass@1": 0.5, "distinct_correct": 2.0, "self_bleu": 0.6, "tokens": 20.0, "distinct_2": 0.5}
    tables = {}
    for index, arm in enumerate(["base", *arms]):
        for seed in range(N_SEEDS):
            noise = np.random.default_rng(seed).normal(0.0, 0.05, (len(base), N_PROMPTS))
            own = np.random.default_rng((seed, index)).normal(0.0, 0.02, (len(base), N_PROMPTS))
            values = {}
            for row, (key, mean) in enumerate(base.items()):
                shift = shifts.get(key.replace("@", "_"), 0.0)
                shift = shift[index - 1] if isinstance(shift, tuple) and index else shift
                values[key] = mean + noise[row] + own[row] + (shift if index else 0.0)
            passing = values.pop("pass@1")[:, None]
            prompts = tuple(f"p{n:02}" for n in range(N_PROMPTS))
            tables[arm, seed] = PromptTable(prompts, {"T=1": SampledTable(values, {"pass": passing})})
    levels = criteria if isinstance(criteria, dict) else {"minimum": criteria}
    return compare(tables, baseline="base", criteria=levels, resampling=QUICK)


MORE = Criterion("distinct_correct", "higher", 0.5)
KEPT = Criterion("pass@1", "not_worse", margin=0.05)


def test_means_of_a_criterion_are_those_of_the_prompts_that_were_paired():
    """Self-BLEU 0.0235 stood beside a change from 0.0222: four of eighteen prompts had no value in the other arm."""
    comparison = comparison_of(criteria=[MORE], distinct_correct=1.4)
    [outcome] = comparison.verdict.levels[0].outcomes
    paired = replace(outcome, evidence=replace(outcome.evidence, mean_baseline=1.51, mean_arm=2.92))
    cells = view_outcome(comparison, paired).cells
    assert (float(cells[2].text), float(cells[3].text)) == (pytest.approx(1.51), pytest.approx(2.92))


def test_what_was_asked_and_reached_is_said_without_jargon():
    words = as_text(plain_verdict(comparison_of(criteria=[MORE, KEPT], distinct_correct=1.4)))
    assert words.startswith(
        "Yes: arm does what was asked of it. Against base, different correct answers to a prompt rose by 70 % "
        "and the chance that a single answer passes is no worse ("
    )
    assert words.endswith("; a loss of 0.05 was allowed).")
    assert "p =" not in words


def test_what_falls_short_says_by_how_much_and_which_way():
    short = as_text(plain_verdict(comparison_of(criteria=[MORE], distinct_correct=0.4)))
    assert short.startswith("No: arm falls short of what was asked. Against base, different correct answers")
    assert "rose by 20 % where 50 % was asked." in short
    wrong = as_text(plain_verdict(comparison_of(criteria=[MORE], distinct_correct=-0.4)))
    assert "fell by 20 % where a rise was asked." in wrong
    worse = as_text(plain_verdict(comparison_of(criteria=[KEPT], pass_1=-0.2)))
    assert "the chance that a single answer passes is worse (−0.198; a loss of 0.05 was allowed)." in worse


def test_a_share_of_nothing_is_said_to_have_no_meaning():
    """A rise from 0 was not decided and read "rose by 0.5 where a rise was asked"."""
    prompts = tuple(f"p{n:02}" for n in range(N_PROMPTS))
    tables = {
        (arm, 0): PromptTable(prompts, {"T=1": SampledTable({"distinct_correct": np.full(N_PROMPTS, mean)})})
        for arm, mean in (("base", 0.0), ("arm", 0.5))
    }
    words = as_text(plain_verdict(compare(tables, baseline="base", criteria={"minimum": [MORE]}, resampling=QUICK)))
    assert words.endswith(
        "different correct answers to a prompt rose by 0.5 where 50 % was asked, which has no meaning from 0."
    )


def test_what_no_model_could_reach_says_why():
    found = comparison_of(criteria=[Criterion("distinct_2", "higher", 1.5)], distinct_2=0.1)
    words = as_text(plain_verdict(found))
    assert words.startswith("It cannot be: what was asked of arm lies beyond what there is to reach.")
    assert found.verdict.levels[0].outcomes[0].sentence in words
    assert "chance" not in words


def test_a_fall_that_was_asked_is_a_yes():
    words = as_text(plain_verdict(comparison_of(criteria=[Criterion("self_bleu", "lower", 0.1)], self_bleu=-0.2)))
    assert words.startswith("Yes: ")
    assert "the wording that answers share (Self-BLEU) fell by 33 %." in words


def test_of_several_arms_the_one_that_came_furthest_is_named():
    found = comparison_of(arms=("one", "two"), criteria=[MORE], distinct_correct=(0.0, 0.4))
    assert as_text(plain_verdict(found)).startswith("No: no arm does what was asked; ")
    reached = comparison_of(arms=("one", "two"), criteria=[MORE], distinct_correct=(0.0, 1.4))
    assert as_text(plain_verdict(reached)).startswith("Yes: two does what was asked of it.")


def test_who_meets_a_later_level_alone_does_not_also_meet_it():
    asked = {"minimum": [KEPT, Criterion("vendi")], "strong": [MORE]}
    words = as_text(plain_verdict(comparison_of(criteria=asked, distinct_correct=1.4)))
    assert words.startswith("Not decided: ") and words.endswith(" It meets the strong criteria.")


def test_an_interval_without_an_end_and_one_that_is_not_known_are_told_apart():
    """The page had "−93 % to undefined %"."""
    found = comparison_of(criteria=[MORE], distinct_correct=1.4)
    [outcome] = found.verdict.levels[0].outcomes
    for high, texts in ((math.inf, ("+51.2 % to +∞", "+51.2 % to +∞")), (math.nan, ("–", "–"))):
        low = math.nan if math.isnan(high) else 0.512
        compared = replace(outcome.evidence.comparison, relative_ci_low=low, relative_ci_high=high)
        view = view_outcome(found, replace(outcome, evidence=replace(outcome.evidence, comparison=compared)))
        assert (view.cells[6].text, view.row[7]) == texts
    assert escape_latex("+∞") == r"+$\infty$"


def test_a_metric_that_was_not_measured_is_said_to_be_missing():
    words = as_text(plain_verdict(comparison_of(criteria=[Criterion("vendi", "higher", 0.1)])))
    assert words.startswith("Not decided: this run cannot tell whether arm does what was asked.")
    assert "(Vendi score) was not measured." in words


def test_every_number_of_the_verdict_and_the_table_tells_interval_prompts_seeds_and_method():
    found = comparison_of(criteria=[MORE, KEPT], distinct_correct=1.4)
    numbers = [cell for cell in plain_verdict(found) if any(sign in cell.text for sign in "%−+")]
    (level,) = criteria_groups(found)
    change = criteria_header(found).index("change")
    for row in level.rows:
        assert len(row) == len(criteria_header(found))
        numbers += row[change : change + 3]
    assert len(numbers) == 2 + 2 * 3
    for cell in numbers:
        for part in ("95 % interval", "60 prompts", "3 training seeds", "sign-flip permutation test"):
            assert part in cell.detail, cell
    for row in level.rows:
        for cell in row[2:4]:
            assert "bootstrap over prompts" in cell.detail


def test_a_change_its_interval_and_its_mean_have_decimals_that_fit():
    found = comparison_of(criteria=[MORE], distinct_correct=1.4)
    (level,) = criteria_groups(found)
    cells = dict(zip(criteria_header(found), [cell.text for cell in level.rows[0]], strict=True))
    assert cells["change"].startswith("+70")
    assert cells["95 % interval"].count("%") == 2
    assert cells["p (Holm)"] == "0.00050"  # the least that 2,000 patterns can give


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.1027, 0.08201, 0.1235), "0.103 [0.082, 0.123]"),
        ((9.419, 7.316, 11.54), "9.4 [7.3, 11.5]"),
        ((1234.5, 1150.0, 1320.0), "1,234 [1,150, 1,320]"),
        ((-0.001, -0.2, 0.2), "0.00 [−0.20, 0.20]"),
        ((0.0, 0.0, 0.0), "0 [0, 0]"),
        ((0.5, math.nan, math.nan), "0.5 [–, –]"),
        ((0.5, 0.25, math.inf), "0.5 [0.25, ∞]"),
    ],
)
def test_an_estimate_shows_two_digits_of_its_half_width(values, text):
    assert estimate(*values) == text


def test_small_p_values_are_bounded_and_none_is_a_dash():
    assert [short_p(p) for p in (3e-5, 0.0002, 0.05, 0.137, 1.0, math.nan)] == [
        "< 0.0001", "0.00020", "0.050", "0.14", "1", "–",
    ]  # fmt: skip
    assert decimal_places(0.0, math.inf) is None


def test_all_means_stand_in_one_group_each_and_every_measure_says_what_it_is():
    found = comparison_of(criteria=[MORE], distinct_correct=1.4)
    groups = means_groups(found)
    shown = [row[0].text for group in groups for row in group.rows]
    assert sorted(shown) == sorted(set(shown))
    assert len(shown) == len({one.metric for one in found.means})
    assert all(row[0].detail for group in groups for row in group.rows)
    assert find_metric("pass@8").meaning == "Chance that at least one of 8 answers passes the checker"
    assert how_made(found, "pass@1").startswith("pass|passes(reward >= pass_threshold)|estimator:1-C(n-c,k)/C(n,k)")
    assert set(signatures(found)) >= {"pass@k", *found.signatures}


def test_no_warning_names_only_what_was_looked_for():
    found = comparison_of(criteria=[MORE], distinct_correct=1.4)
    assert found.checker is None
    assert "lenient checker" not in no_warnings(found)


def test_no_clear_change_is_said_so_in_headline_table_and_colour():
    """Past bug: "got worse: −0.06 %" with p = 0.96, in red."""
    found = comparison_of(criteria=[MORE, Criterion("distinct_correct")], distinct_correct=0.003)
    words = as_text(plain_verdict(found))
    [group] = criteria_groups(found)
    far, any_rise = (row[-1].text for row in group.rows)

    assert "different correct answers to a prompt show no clear change (" in words
    assert "where 50 % was asked" in words and "rose" not in words and "fell" not in words
    assert (far, any_rise) == ("not met (no clear change)", "undecided (no clear change)")
    assert [status_style(one) for one in (far, any_rise, "not met (worse)", "met")] == [
        "",
        "yellow",
        "red",
        "green",
    ]


def test_one_seed_leaves_the_word_on_a_change_to_these_models():
    """A fall of 67 % (−85 to −34 %) that met one level was "no clear change" in the level that asks over seeds."""
    prompts = tuple(f"p{n:02}" for n in range(N_PROMPTS))
    rng = np.random.default_rng(1)
    tables = {
        (arm, 0): PromptTable(prompts, {"T=1": SampledTable({"self_bleu": rng.normal(mean, 0.1, N_PROMPTS)})})
        for arm, mean in (("base", 0.6), ("arm", 0.2), ("alike", 0.6))
    }
    criteria = {"minimum": [Criterion("self_bleu", "lower", 0.3, over_seeds=True)]}
    found = compare(tables, baseline="base", criteria=criteria, resampling=QUICK)
    labels = {outcome.arm: outcome.label for outcome in found.verdict.levels[0].outcomes}
    assert labels == {"arm": "undecided", "alike": "not met (no clear change)"}
    assert "where 30 % was asked, in these trained models alone." in as_text(plain_verdict(found))
    assert "at least 3 training seeds" in found.verdict.sentence and "no clear change" not in found.verdict.sentence


def test_one_p_stands_and_the_other_says_what_it_is_of():
    found = comparison_of(criteria=[MORE], distinct_correct=1.4)
    detail = criteria_groups(found)[0].rows[0][5].detail

    assert "before correction, over prompts and training seeds: it is of the way of training" in detail
    assert "Over prompts alone, of these trained models, p" in detail
    assert found.verdict.question.startswith("This answers for the way of training")


def test_an_arm_alone_is_told_by_its_main_measures_at_every_sampling_setting():
    """The page of samples of a benchmark began with an empty table of criteria, and pass@k stood at one setting."""
    right = {"T=0.2": 3, "T=0.8": 6}  # of 12 answers; two prompts of which one is never passed
    sampled = {
        label: SampledTable(
            {"distinct_correct": np.array([1.0, 0.0])},
            {"pass": pass_at_k_curve(12, [n, 0], 12), "distinct_correct": np.ones((2, 12)) * [[1.0], [0.0]]},
        )
        for label, n in right.items()
    }
    alone = compare({("only", 0): PromptTable(("a", "b"), sampled)}, baseline="only", criteria={}, resampling=QUICK)
    [header, *rows] = only_arm_table(alone)
    assert header == ["only, with 95 % intervals", "T=0.2", "T=0.8"]
    assert [row[0] for row in rows] == ["Pass@1", "Pass@10", "Pass@12", "Distinct correct answers"]
    # Of 12 answers with 3 (6) right, ten miss all right ones with a chance of 0 (C(9, 10) = 0).
    for key, wanted in (("pass@1", (0.125, 0.25)), ("pass@10", (0.5, 0.5)), ("pass@12", (0.5, 0.5))):
        assert [alone.mean("only", key, label).mean for label in right] == pytest.approx(wanted)
    assert as_text(plain_verdict(alone)) == (
        f"At {alone.primary_sampling} an answer of only passes with a chance of "
        f"{'0.125' if alone.primary_sampling == 'T=0.2' else '0.25'}, at least one of 12 with 0.5; different ones that "
        "pass: 0.5 of 12. Nothing to judge: the baseline is the only arm."
    )
    several = comparison_of(criteria=[MORE])
    assert only_arm_table(several) == []
    assert several.mean("arm", "pass@10") is None
