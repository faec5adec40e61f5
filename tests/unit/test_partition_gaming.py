"""The alarm for answers that differ by the training partition alone, and the verdict at other distances."""

from dataclasses import replace

import numpy as np
import pytest
from summary import summary_text

from polychromic.diversity.embedders import load_embedder
from polychromic.diversity.equivalence import Embedded, Exact, Normalised
from polychromic.evaluation import Criterion, Resampling, compare, measure_arms
from polychromic.evaluation.audits.gaming import partition_gaming
from polychromic.evaluation.audits.partition import audit_partition
from polychromic.evaluation.audits.threshold import OtherDistances, rests_on_partition, threshold_warnings
from polychromic.evaluation.measure import SameAnswers
from polychromic.evaluation.statistics.paired import paired_comparison
from polychromic.evaluation.tables import Plan, PromptTable, SampledTable
from polychromic.records import GenerationRow, Prompt, SamplingParameters, as_messages
from polychromic.report.view import as_text, plain_verdict
from polychromic.tasks.equivalence import LazyEmbedded
from polychromic.tasks.partitions.settings import AUTO, SameAnswer, SecondSameAnswer

QUICK = Resampling(bootstraps=1000, sign_patterns=2000)
LEVELS = {"minimum": [Criterion("clusters", "higher", 0.2)]}
THINGS = [
    "a lighthouse keeper's daughter", "seventeen rusty bicycles", "the mayor forgot his umbrella",
    "quiet snow over Helsinki", "an orchestra without violins", "grandmother's secret pickle recipe",
    "robots playing chess badly", "my neighbour breeds axolotls",
]  # fmt: skip
WORDINGS = ["{}", "{} indeed", "{}, yes", "so {}", "{} again", "well, {}", "{} then", "oh {}"]
PROMPTS = {f"p{i:02d}": Prompt(f"p{i:02d}", as_messages(f"Name {i}.")) for i in range(24)}


def rows(things, wordings, seed):
    rng = np.random.default_rng(seed)
    return [
        GenerationRow(
            prompt_id=name, index=index, n_tokens=4, finish="stop", sampling=SamplingParameters(1.0),
            sampling_seed=0, reward=1.0,
            text=WORDINGS[rng.integers(wordings)].format(THINGS[rng.integers(things)]),
        )
        for name in PROMPTS for index in range(8)
    ]  # fmt: skip


def compared(arms, first, second):
    same = SameAnswers(first, PROMPTS, second, SamplingParameters(1.0).label)
    found = {(arm, 0): rows(*shape, seed) for seed, (arm, shape) in enumerate(arms.items())}
    tables = measure_arms(found, pass_threshold=0.5, same=same)
    return compare(tables, baseline="baseline", criteria=LEVELS, resampling=QUICK), tables, found, same


ARMS = {"baseline": (3, 1), "gamed": (3, 8), "honest": (8, 1)}


def test_an_arm_that_games_the_partition_is_named_and_an_honest_one_is_not():
    """Wordings of the same three things against eight things, by spelling; shared wording never saw training."""
    second = LazyEmbedded(SameAnswer(kind="embedding", embedder="hash", distance=0.7), None)
    comparison, *_ = compared(ARMS, Normalised(), second)
    means = {(arm, key): comparison.mean(arm, key).mean for arm in ARMS for key in ("clusters", "second_clusters")}
    assert means["gamed", "clusters"] > 1.5 * means["baseline", "clusters"]
    assert means["gamed", "second_clusters"] < 1.2 * means["baseline", "second_clusters"]
    assert comparison.verdict.gamed == ("gamed",)
    assert {one.arm for one in comparison.warnings if one.kind == "partition gaming"} == {"gamed"}
    assert comparison.signatures["second_clusters"].startswith("second_clusters|same:embedding distance up to 0.7")
    told = "Partition gaming: in gamed different answers rose by task.same_answer and the second partition did not"
    assert told in comparison.verdict.sentence and told in summary_text(comparison)
    assert "does not confirm the different answers of gamed." in as_text(plain_verdict(comparison))


def test_a_partition_that_fails_is_named_before_the_verdict():
    audit = audit_partition(Exact(), list(PROMPTS.values()), {"p00": ["red", "Red."]})
    _, tables, *_ = compared(ARMS, Exact(), None)
    comparison = compare(tables, baseline="baseline", criteria=LEVELS, resampling=QUICK, partition=audit)
    said = "The partition fails its audit: task.same_answer (exact): clusters are wordings"
    assert comparison.verdict.sentence.startswith(said) and summary_text(comparison).startswith(said)
    assert as_text(plain_verdict(comparison)).startswith("Which answers count as the same is decided badly here.")
    assert comparison.warnings[0].kind == "partition"
    assert comparison.to_json()["partition"]["spelt"] == {"failed": 1, "n": 1}


def test_without_a_second_partition_nothing_is_said():
    comparison, *_ = compared(ARMS, Normalised(), None)
    assert comparison.verdict.gamed == () and comparison.mean("gamed", "second_clusters") is None


@pytest.mark.parametrize(
    ("rise", "second_rise", "second_level", "least", "most"),
    [
        (2.0, 0.0, 3.0, 29, 30),  # gamed
        (2.0, 2.0, 3.0, 0, 1),  # honest
        (2.0, 1.0, 3.0, 0, 1),  # honest, and the second partition is coarser
        (0.0, 0.0, 3.0, 0, 1),  # no change at all
        (2.0, 0.0, 15.8, 0, 0),  # the second has no room to rise among 16 answers
        (-2.0, 0.0, 3.0, 0, 0),  # fewer answers are no gaming
    ],
)
def test_the_alarm_in_thirty_simulated_runs(rise, second_rise, second_level, least, most):
    alarms = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        prompts = tuple(f"p{i:02d}" for i in range(40))
        difficulty = rng.normal(0.0, 1.0, 40)

        def table(first, second, rng=rng, difficulty=difficulty, prompts=prompts):
            values = {
                "clusters": first + difficulty + rng.normal(0.0, 1.0, 40),
                "second_clusters": second + 0.1 * difficulty + rng.normal(0.0, 1.0, 40),
            }
            signatures = {"second_clusters": "second_clusters|same:x|k:16|version:1"}
            return PromptTable(prompts, {"T=1": SampledTable(values, {})}, "x", signatures)

        tables = {
            ("baseline", 0): table(6.0, second_level),
            ("arm", 0): table(6.0 + rise, second_level + second_rise),
        }
        plan = Plan.of(tables, "baseline", LEVELS, None, QUICK, None)
        contrasts = {
            ("arm", key): paired_comparison(*plan.pair("arm", "T=1", key), resampling=QUICK)
            for key in ("clusters", "second_clusters")
        }
        alarms += len(partition_gaming(plan, contrasts))
    assert least <= alarms <= most


@pytest.mark.parametrize(
    ("first", "embedder", "expected"),
    [
        ({"kind": "normalised"}, None, ("embedding", "hash", 0.7)),
        ({"kind": "normalised"}, "minilm", ("embedding", "minilm", None)),
        ({"kind": "mine.py:same"}, "minilm", ("embedding", "minilm", None)),
        ({"kind": "judge", "model": "m"}, "hash", ("embedding", "hash", 0.7)),
        ({"kind": "embedding"}, "minilm", ("embedding", "hash", 0.7)),
        ({"kind": "embedding", "embedder": "hash"}, "minilm", None),
        ({"kind": "canonical"}, "minilm", None),
        (None, "minilm", None),
    ],
)
def test_the_second_partition_is_blind_to_other_things_than_the_first(first, embedder, expected):
    found = AUTO.beside(SameAnswer(**first) if first else None, embedder)
    assert (found and (found.kind, found.embedder, found.distance)) == expected


def test_a_second_partition_may_be_stated_or_switched_off():
    stated = SecondSameAnswer(kind="classifier", model="m")
    assert stated.beside(SameAnswer(kind="normalised"), None) is stated
    assert SecondSameAnswer.model_validate("none").beside(SameAnswer(kind="normalised"), None) is None


def test_the_verdict_is_judged_again_at_other_distances():
    """Things lie beyond 0.75 of one another, wordings within 0.3: at half of that wordings count as gains."""
    embedded = Embedded(load_embedder("hash"), 0.3)
    arms = {"baseline": (3, 1), "gamed": (3, 8)}
    comparison, tables, found, same = compared(arms, embedded, None)
    others = OtherDistances(embedded, same, 0.5).judge(comparison, tables, found, LEVELS)
    status = {round(one.distance, 3): one.status for one in others}
    assert [*status] == [0.15, 0.225, 0.3, 0.375, 0.45]
    assert status[0.15] == "met" and "met" not in (status[0.3], status[0.45])
    # Judged again at a distance is what a comparison at that distance says.
    at_half, *_ = compared(arms, embedded.at(0.15), None)
    assert status[0.15] == at_half.verdict.status and status[0.3] == comparison.verdict.status
    [warning] = threshold_warnings(others, 0.3)
    assert warning.kind == "threshold" and f"{status[0.3]} at 0.3, met at 0.15" in warning.text


def test_prompts_that_were_sampled_another_way_alone_do_not_shift_the_verdict_at_other_distances():
    """Files of two temperatures need not have all prompts at both: their tables ended in an IndexError."""
    embedded = Embedded(load_embedder("hash"), 0.3)
    arms = {"baseline": (3, 1), "gamed": (3, 8)}
    comparison, tables, found, same = compared(arms, embedded, None)
    alone = OtherDistances(embedded, same, 0.5).judge(comparison, tables, found, LEVELS)
    prompts = PROMPTS | {"a first one": Prompt("a first one", as_messages("Name one."))}
    same = SameAnswers(embedded, prompts)
    elsewhere = [
        replace(row, prompt_id="a first one", sampling=SamplingParameters(0.5))
        for row in rows(3, 1, seed=9)[:8]
    ]  # fmt: skip
    found = {key: [*members, *elsewhere] for key, members in found.items()}
    tables = measure_arms(found, pass_threshold=0.5, same=same)
    comparison = compare(tables, baseline="baseline", criteria=LEVELS, resampling=QUICK, primary_sampling="T=1")

    assert OtherDistances(embedded, same, 0.5).judge(comparison, tables, found, LEVELS) == alone
    # The prompt that only T=0.5 has was counted among those that the verdict rests on.
    assert "(24 prompts, 1 seed, sampled at T=1)" in comparison.verdict.sentence


def test_criteria_that_do_not_count_same_answers_are_not_judged_again():
    embedded = Embedded(load_embedder("hash"), 0.3)
    comparison, tables, found, same = compared({"baseline": (3, 1), "gamed": (3, 8)}, embedded, None)
    levels = {"minimum": [Criterion("distinct_2", "higher", 0.1)]}
    assert OtherDistances(embedded, same, 0.5).judge(comparison, tables, found, levels) == ()
    assert [rests_on_partition(key) for key in ("clusters", "distinct_correct@4", "pass@1", "self_bleu")] == [
        True, True, False, False,
    ]  # fmt: skip
