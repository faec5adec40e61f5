"""A whole comparison from rows: verdict, warnings, frontier, JSON and tables, hostile names among them."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from summary import summary_text

from polychromic.evaluation import Criterion, Resampling, compare, measure_arms
from polychromic.records import NO_CHECKER, GenerationRow, SamplingParameters
from polychromic.report.latex import escape_latex, to_latex
from polychromic.report.tables import criteria_table, means_table
from polychromic.report.text import escape_markdown, to_markdown

QUICK = Resampling(bootstraps=1000, sign_patterns=2000)
LEVELS = {
    "minimum": [
        Criterion("distinct_correct", "higher", 0.5),
        Criterion("pass@8", "higher", over_seeds=False),
        Criterion("pass@1", "not_worse", margin=0.1),
    ],
    "strong": [Criterion("distinct_correct", "higher", 1.0, over_seeds=True)],
}
HOSTILE = "<script>alert(1)</script>|`*_[x](http://evil)\x1b[31m\u202e\\input{/etc/passwd}$%&#^~"

ARMS = {
    "baseline": {"pass_rate": 0.25, "modes": 2},
    "coverage": {"pass_rate": 0.45, "modes": 7},
    HOSTILE: {"pass_rate": 0.1, "modes": 2},
}


def make_rows(
    *,
    pass_rate,
    modes,
    seed,
    temperatures=(1.0, 1.5),
    n_prompts=30,
    judge_rate=None,
    words=4,
    missing=0.0,
    cut=0.0,
):
    rng = np.random.default_rng(seed)
    rows = []
    for temperature in temperatures:
        for prompt in range(n_prompts):
            chance = pass_rate / temperature * (0.5 + prompt / n_prompts)
            for index in range(8):
                passed = float(rng.random() < chance)
                mode = int(rng.integers(max(1, int(modes * temperature))))
                text = " ".join(f"w{mode}{place}" for place in range(words))
                rows.append(
                    GenerationRow(
                        prompt_id=f"p{prompt:02d}",
                        index=index,
                        text=text,
                        n_tokens=words,
                        finish="length" if rng.random() < cut else "stop",
                        sampling=SamplingParameters(temperature=temperature),
                        sampling_seed=seed,
                        reward=None if rng.random() < missing else passed,
                        judge=None if judge_rate is None else float(rng.random() < judge_rate),
                        cluster=f"{mode}",
                    )
                )
    return rows


def compared(arms, *, seeds=(0, 1, 2), levels=LEVELS, baseline="baseline", **options):
    rows = {
        (name, seed): make_rows(seed=hash_of(name) + seed, **settings)
        for name, settings in arms.items()
        for seed in seeds
    }
    tables = measure_arms(rows, pass_threshold=1.0)
    return compare(tables, baseline=baseline, criteria=levels, resampling=QUICK, **options)


def hash_of(name):
    return 1000 * (1 + sum(map(ord, name)))


@pytest.fixture(scope="module")
def diverse():
    return compared(ARMS)


def kinds(comparison, arm=None):
    return {warning.kind for warning in comparison.warnings if arm is None or warning.arm == arm}


def test_a_diverse_arm_meets_its_criteria(diverse):
    assert diverse.verdict.status == "met"
    assert diverse.verdict.sentence.startswith("coverage meets the minimum criteria: Distinct correct answers +")
    assert "It also meets the strong criteria." in diverse.verdict.sentence
    assert diverse.verdict.sentence.endswith("(30 prompts, 3 seeds, sampled at T=1)")
    outcome = diverse.verdict.level("minimum").of_arm("coverage")[0]
    assert (outcome.status, outcome.criterion.metric) == ("met", "distinct_correct")
    assert diverse.verdict.level("strong").arms == {"coverage": "met", HOSTILE: "not met"}
    assert diverse.verdict.level("minimum").arms[HOSTILE] == "not met"


def test_records_are_found_by_name(diverse):
    contrast = diverse.contrast("coverage", "distinct_correct")
    mean, base = diverse.mean("coverage", "distinct_correct"), diverse.mean("baseline", "distinct_correct")

    assert contrast.difference == pytest.approx(mean.mean - base.mean)
    assert contrast.difference > 0
    assert mean.low < mean.mean < mean.high
    assert mean.mean == pytest.approx(np.mean(mean.seeds))
    assert diverse.contrast("coverage", "vendi") is None
    assert (diverse.n_prompts, diverse.primary_sampling, diverse.baseline) == (30, "T=1", "baseline")


def test_pass_at_k_runs_over_the_whole_curve(diverse):
    curve = next(
        one.curve for one in diverse.curves if (one.arm, one.name, one.sampling) == ("coverage", "pass", "T=1")
    )

    assert curve.k == tuple(range(1, 9))
    assert list(curve.mean) == sorted(curve.mean)
    assert curve.mean[7] == pytest.approx(diverse.mean("coverage", "pass@8").mean)


def test_scrutiny_holds_every_prompts_difference(diverse):
    sensitivity = next(one for one in diverse.sensitivity if (one.arm, one.metric) == ("coverage", "distinct_correct"))

    assert len(sensitivity.differences) == len(diverse.prompts)
    assert np.mean(sensitivity.differences) == pytest.approx(
        diverse.contrast("coverage", "distinct_correct").difference
    )
    assert sensitivity.robustness.t_p_value < 0.001


def test_json_is_strict_and_versioned(diverse):
    text = json.dumps(diverse.to_json(), allow_nan=False)
    back = json.loads(text)

    assert back["schema_version"] == 2
    assert back["verdict"]["status"] == diverse.verdict.status
    assert back["seeds"]["coverage"] == [0, 1, 2]
    assert back["verdict"]["levels"][0]["outcomes"][0]["criterion"]["metric"] == "distinct_correct"
    assert {one["metric"] for one in back["contrasts"]} >= {"pass@8", "self_bleu", "reward"}


def test_two_runs_give_the_same_bytes(diverse):
    again = compared(ARMS)

    assert json.dumps(again.to_json()) == json.dumps(diverse.to_json())


def test_texts_from_outside_stay_text(diverse):
    summary = summary_text(diverse)
    markdown = to_markdown(criteria_table(diverse))
    latex = to_latex(means_table(diverse))

    assert "coverage" in summary
    assert not any(character in summary for character in "\x1b\u202e")
    assert "<script>" not in markdown and "\x1b" not in markdown
    assert "http://" not in markdown
    assert all(line.count(" | ") == markdown.splitlines()[0].count(" | ") for line in markdown.splitlines())
    assert r"\textbackslash{}input\{/etc/passwd\}\$\%\&\#" in latex
    assert r"\input" not in latex


@pytest.mark.parametrize(
    ("text", "markdown", "latex"),
    [
        ("a|b", r"a\|b", "a|b"),
        ("50 % & more_less", r"50 % &amp; more\_less", r"50 \% \& more\_less"),
        ("<b>\n", "&lt;b&gt; ", r"\textless{}b\textgreater{} "),
        ("−0.1 – x ≥ y", "−0.1 – x ≥ y", r"$-$0.1 -- x $\geq$ y"),
        ("\ud800", " ", " "),
    ],
)
def test_escapes(text, markdown, latex):
    assert escape_markdown(text) == markdown
    assert escape_latex(text) == latex


def test_a_reward_that_rises_while_the_judge_does_not_is_hacking():
    comparison = compared(
        {
            "baseline": {"pass_rate": 0.4, "modes": 2, "judge_rate": 0.5},
            "hacker": {"pass_rate": 0.8, "modes": 2, "judge_rate": 0.45},
            "honest": {"pass_rate": 0.8, "modes": 2, "judge_rate": 0.9},
        }
    )

    assert comparison.verdict.hacked == ("hacker",)
    assert "Reward hacking: in hacker" in comparison.verdict.sentence
    assert "reward hacking" not in kinds(comparison, "honest")


def test_a_baseline_that_games_the_reward_is_named_too():
    comparison = compared(
        {
            "baseline": {"pass_rate": 0.8, "modes": 2, "judge_rate": 0.4},
            "arm": {"pass_rate": 0.4, "modes": 2, "judge_rate": 0.5},
        }
    )

    assert comparison.verdict.hacked == ("baseline",)


def test_a_judge_and_a_reward_that_have_no_prompt_in_common_are_not_held_against_each_other():
    """The judge failed where the reward did not: the comparison ended with "nothing can be compared"."""
    of_arm = [
        replace(row, judge=1.0, reward=None) if row.prompt_id < "p15" else replace(row, judge=None, reward=1.0)
        for row in make_rows(pass_rate=0.5, modes=2, seed=1)
    ]
    of_baseline = [replace(row, judge=1.0) for row in make_rows(pass_rate=0.5, modes=2, seed=2)]
    tables = measure_arms({("baseline", 0): of_baseline, ("arm", 0): of_arm}, pass_threshold=1.0)
    comparison = compare(tables, baseline="baseline", criteria=LEVELS, resampling=QUICK)

    assert comparison.contrast("arm", "reward").n_prompts == comparison.contrast("arm", "judge").n_prompts == 15
    assert comparison.verdict.hacked == ()


@pytest.mark.parametrize("single", ["baseline", "arm"])
def test_an_arm_of_one_seed_beside_several_of_another_is_taken_as_it_stands(single):
    """The verdict answered "for the way of training, as far as 3 training seeds can tell" of a model trained once."""
    rows = {
        (arm, seed): make_rows(pass_rate=0.5, modes=2, seed=hash_of(arm) + seed)
        for arm in ("baseline", "arm")
        for seed in range(1 if arm == single else 3)
    }
    comparison = compare(measure_arms(rows, pass_threshold=1.0), baseline="baseline", criteria=LEVELS, resampling=QUICK)
    [warning] = [warning for warning in comparison.warnings if warning.kind == "few seeds" and warning.arm == single]

    assert warning.text.startswith(f"{single} has one training seed and stands against each of several")
    assert comparison.verdict.question.endswith(f"; {single} has one seed and is taken as it stands.")


def test_arms_of_equal_numbers_of_seeds_stand_for_themselves(diverse):
    assert "taken as it stands" not in diverse.verdict.question


def test_warnings_stand_where_they_belong():
    comparison = compared(
        {
            "baseline": {"pass_rate": 3.0, "modes": 4},
            "long": {"pass_rate": 3.0, "modes": 4, "words": 9, "missing": 0.05, "cut": 0.2},
        },
        seeds=(0,),
    )

    assert kinds(comparison, "long") >= {"length", "missing rewards", "truncated", "saturated"}
    assert "few seeds" in kinds(comparison, "")


def test_a_checker_that_fails_everywhere_is_named_first_with_its_reason():
    """Of a checker that raised on every answer the report said no more than that Pass@1 "needs a checker"."""
    rows = {(arm, 0): make_rows(pass_rate=0.5, modes=2, seed=1, missing=1.0) for arm in ("baseline", "arm")}
    compared_without = []
    for error in ("TypeError: no text", NO_CHECKER):
        failed = {key: [replace(row, error=error) for row in members] for key, members in rows.items()}
        tables = measure_arms(failed, pass_threshold=1.0)
        compared_without.append(compare(tables, baseline="baseline", criteria=LEVELS, resampling=QUICK).warnings)
    failing, none = compared_without
    assert [warning.arm for warning in failing[:2]] == ["baseline", "arm"]
    assert failing[0].kind == "missing rewards" and failing[0].text.endswith(" is measured: TypeError: no text")
    assert "missing rewards" not in {warning.kind for warning in none}


def test_missing_rewards_are_told_with_the_reason_that_most_have():
    rows = {(arm, 0): make_rows(pass_rate=0.5, modes=2, seed=1, missing=0.1) for arm in ("baseline", "arm")}
    reasons = iter(["down", "late", "down"] * 1000)
    rows = {
        key: [row if row.reward is not None else replace(row, error=next(reasons)) for row in members]
        for key, members in rows.items()
    }
    found = compare(measure_arms(rows, pass_threshold=1.0), baseline="baseline", criteria=LEVELS, resampling=QUICK)
    [text] = {warning.text for warning in found.warnings if (warning.kind, warning.arm) == ("missing rewards", "arm")}
    assert re.search(r"because the checker failed: down \(\d+ of \d+\)$", text)


def test_models_that_nobody_trained_are_not_said_to_have_few_training_seeds():
    arms = {"baseline": {"pass_rate": 0.4, "modes": 2}, "asked": {"pass_rate": 0.4, "modes": 4}}
    assert "few seeds" not in kinds(compared(arms, seeds=(0,), trained=False), "")
    assert "few seeds" in kinds(compared(arms, seeds=(0,)), "")


def test_a_gain_of_the_plain_measure_that_vanishes_at_equal_length_is_flagged():
    """Longer answers repeat words less often within the same number of draws only in appearance."""
    rng = np.random.default_rng(0)

    def rows(words, seed):
        made = []
        for prompt in range(40):
            for index in range(6):
                text = " ".join(f"w{rng.integers(12)}" for _ in range(words))
                sampling = SamplingParameters()
                made.append(GenerationRow(f"p{prompt}", index, text, words, "stop", sampling, seed, 1.0))
        return made

    tables = measure_arms({("baseline", 0): rows(12, 0), ("short", 0): rows(6, 1)}, pass_threshold=1.0)
    levels = {"minimum": [Criterion("distinct_2", "higher", 0.05)]}

    comparison = compare(tables, baseline="baseline", criteria=levels, resampling=QUICK)

    assert comparison.contrast("short", "distinct_2").p_value < 0.01
    assert any("vanishes when length is matched" in warning.text for warning in comparison.warnings)


def test_a_gain_that_temperature_also_gives_is_flagged():
    comparison = compared(
        {
            "baseline": {"pass_rate": 0.5, "modes": 2, "temperatures": (0.7, 1.0, 2.5)},
            "warm": {"pass_rate": 0.2, "modes": 5, "temperatures": (0.7, 1.0, 2.5)},
        },
        levels={"minimum": [Criterion("distinct_2", "higher", 0.1)]},
        primary_sampling="T=1",
    )

    assert "temperature" in kinds(comparison, "warm")
    gain = next(one for one in comparison.frontier if one.sampling == "T=1")
    assert gain.reached_by == "T=2.5"


def test_an_untrained_arm_with_one_seed_stands_against_every_seed():
    rows = {("trained", seed): make_rows(pass_rate=0.6, modes=5, seed=seed) for seed in (3, 4)}
    rows["untrained", 0] = make_rows(pass_rate=0.6, modes=2, seed=9)

    comparison = compare(
        measure_arms(rows, pass_threshold=1.0), baseline="untrained", criteria=LEVELS, resampling=QUICK
    )

    assert comparison.contrast("trained", "distinct_correct").n_seeds == 2


def test_prompts_that_an_arm_lacks_are_left_out_and_said():
    rows = {
        ("baseline", 0): make_rows(pass_rate=0.5, modes=2, seed=1),
        ("arm", 0): make_rows(pass_rate=0.5, modes=2, seed=2, n_prompts=20),
    }

    comparison = compare(measure_arms(rows, pass_threshold=1.0), baseline="baseline", criteria=LEVELS, resampling=QUICK)

    assert comparison.n_prompts == 20
    assert "left out" in kinds(comparison)


def test_the_baseline_alone_is_described_and_not_judged():
    comparison = compared({"baseline": {"pass_rate": 0.5, "modes": 2}})

    assert comparison.verdict.sentence == "Nothing to judge: the baseline is the only arm."
    assert comparison.mean("baseline", "pass@1").mean > 0
    assert criteria_table(comparison)[1:] == []
    json.dumps(comparison.to_json(), allow_nan=False)


def test_a_metric_that_was_not_measured_leaves_its_criterion_undecided():
    comparison = compared(
        {"baseline": {"pass_rate": 0.5, "modes": 2}, "arm": {"pass_rate": 0.5, "modes": 2}},
        levels={"minimum": [Criterion("semantic_distance", "higher", 0.1), Criterion("pass@64", "higher", 0.1)]},
    )

    statuses = [outcome.status for outcome in comparison.verdict.levels[0].outcomes]
    assert statuses == ["undecided", "undecided"]
    assert all(math.isnan(outcome.p_value) for outcome in comparison.verdict.levels[0].outcomes)


def test_what_cannot_be_compared_is_named():
    one = {("baseline", 0): make_rows(pass_rate=0.5, modes=2, seed=1, n_prompts=2)}
    other = {("arm", 1): make_rows(pass_rate=0.5, modes=2, seed=1, n_prompts=2, temperatures=(0.5,))}
    tables = measure_arms(one | other, pass_threshold=1.0)

    with pytest.raises(ValueError, match="baseline 'missing': expected one of the arms"):
        compare(tables, baseline="missing", resampling=QUICK)
    with pytest.raises(ValueError, match="arm 'arm' was not sampled at T=1"):
        compare(tables, baseline="baseline", resampling=QUICK)
    with pytest.raises(ValueError, match="expected the measurements"):
        compare({}, baseline="baseline", resampling=QUICK)


def test_arms_without_a_common_seed_or_prompt_are_refused():
    def tables(arm_seeds, base_seeds, offset=0):
        rows = {("baseline", seed): make_rows(pass_rate=0.5, modes=2, seed=seed, n_prompts=2) for seed in base_seeds}
        rows |= {("arm", seed): make_rows(pass_rate=0.5, modes=2, seed=seed, n_prompts=2) for seed in arm_seeds}
        return measure_arms(rows, pass_threshold=1.0)

    with pytest.raises(ValueError, match="share no seed"):
        compare(tables((0, 1), (2, 3)), baseline="baseline", resampling=QUICK)
    apart = tables((0,), (0,))
    moved = apart["arm", 0]
    renamed = type(moved)(("z1", "z2"), moved.sampled)
    with pytest.raises(ValueError, match="share no prompt id"):
        compare(apart | {("arm", 0): renamed}, baseline="baseline", resampling=QUICK)
