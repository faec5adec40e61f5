"""Same answers: one partition for training, evaluation and the page."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from polychromic.diversity.embedders import load_embedder
from polychromic.diversity.equivalence import (
    MISSING,
    Embedded,
    Exact,
    Normalised,
    calibrated_distance,
    normalised_form,
    partition,
)
from polychromic.errors import CheckerError, ConfigError
from polychromic.evaluation import MeasureOptions, measure_rows
from polychromic.evaluation.audits.checker import check_rows
from polychromic.evaluation.audits.partition import unlabelled_warnings
from polychromic.evaluation.measure import SameAnswers
from polychromic.files import read_jsonl
from polychromic.objective import subset_mean
from polychromic.records import (
    Check,
    Generation,
    GenerationRow,
    Group,
    Prompt,
    SamplingParameters,
    as_messages,
)
from polychromic.tasks.arithmetic import ArithmeticTask
from polychromic.tasks.base import Task, own_code
from polychromic.tasks.equivalence import build_equivalence, equivalence_of
from polychromic.tasks.jsonl_task import CustomTask
from polychromic.tasks.partitions.function import FunctionEquivalence
from polychromic.tasks.partitions.settings import SameAnswer
from polychromic.tasks.settings import CustomSettings
from polychromic.training.base import ArmRun
from polychromic.training.rollouts import group_signals
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import train_arm

PROMPT = Prompt("p", as_messages("Name a planet."), references=("Mars", "Venus"))
PLANETS = ["Mars", "Mars.", "mars ", " Mars!"]


def labels(equivalence, texts):
    return partition(equivalence, PROMPT, texts).tolist()


def test_spellings_of_one_answer_are_one_and_coverage_counts_them_once():
    """Past bug: the default paid for punctuation, with coverage 1.0 for four spellings of one right answer."""
    assert labels(Normalised(), PLANETS) == [0, 0, 0, 0]
    assert labels(Exact(), PLANETS) == [0, 1, 2, 3]
    for equivalence, expected in ((Normalised(), 0.25), (Exact(), 1.0)):
        clusters = np.array([labels(equivalence, PLANETS)])
        assert subset_mean("coverage", 4, rewards=np.ones((1, 4)), clusters=clusters) == pytest.approx(expected)


@pytest.mark.parametrize(
    "same",
    [
        ("Ｍａｒｓ", "mars"), ("Straße", "STRASSE"), ("cafe\u0301", "café"), ("“Mars”", "Mars"), ("don’t", "don't"),
        ("red, green", "red green"), ("red — green", "red green"), ("red,green", "Red; green."), ("a\u00a0b", "a b"),
        ("zero\u200bwidth", "zerowidth"), ("(Mars)", "Mars"), ("火星。", "火星"), ("−5", "-5"), ("5.", "5"),
        ("10²³", "10^23"),
    ],
)  # fmt: skip
def test_what_only_spelling_changes_is_one_answer(same):
    first, second = same
    assert normalised_form(first) == normalised_form(second)


@pytest.mark.parametrize(
    "apart",
    [
        ("5", "-5"), (".5", "5"), ("3.14", "314"), ("1,000", "1 000"), ("C#", "C"), ("C++", "C"), ("50%", "50"),
        ("Mars", "Venus"), ("!!!", "???"), ("re-sign", "resign"), ("12:30", "1230"), ("$5", "5"), ("", "?"),
        ("10²", "102"), ("x⁻¹²", "x12"),
    ],
)  # fmt: skip
def test_what_says_something_else_stays_apart(apart):
    first, second = apart
    assert normalised_form(first) != normalised_form(second)


@given(st.text())
def test_a_form_is_its_own_form(text):
    assert normalised_form(normalised_form(text)) == normalised_form(text)


@given(st.lists(st.sampled_from(["Mars", "mars.", "Venus", "venus ", "", "!"]), max_size=8), st.randoms())
def test_forms_and_embeddings_do_not_depend_on_the_order(texts, random):
    order = list(range(len(texts)))
    random.shuffle(order)
    for equivalence in (Normalised(), Exact(), Embedded(load_embedder("hash"), 0.3)):
        plain = labels(equivalence, texts)
        moved = labels(equivalence, [texts[index] for index in order])
        together = {(a, b) for a in range(len(texts)) for b in range(len(texts)) if plain[a] == plain[b]}
        assert {
            (order[a], order[b]) for a in range(len(texts)) for b in range(len(texts)) if moved[a] == moved[b]
        } == together


def test_embeddings_divide_by_distance_and_say_so():
    embedded = Embedded(load_embedder("hash"), 0.4)
    assert labels(embedded, ["the red planet", "the red planets", "a blue moon", "the red planet"]) == [
        0,
        0,
        1,
        0,
    ]
    assert embedded.name.startswith("embedding distance up to 0.4 (hashed")
    assert labels(embedded, []) == []


def test_a_calibrated_distance_lies_between_references_of_one_prompt_and_of_different_ones():
    embedder = load_embedder("hash")
    references = [
        ("the red planet", "the red planets"),
        ("a blue whale", "a blue whales"),
        ("some green tea",),
    ]
    distance = calibrated_distance(embedder, references)
    for one in references[:2]:
        assert labels(Embedded(embedder, distance), list(one)) == [0, 0]
    assert labels(Embedded(embedder, distance), [one[0] for one in references]) == [0, 1, 2]
    with pytest.raises(ValueError, match="two references or more"):
        calibrated_distance(embedder, [("a",), ("b",)])


FUNCTIONS = """
import time

def form(prompt, text):
    return next((one for one in prompt.references if one.casefold() in text.casefold()), text)

def pair(prompt, a, b):
    return form(prompt, a) == form(prompt, b)

def groups(prompt, texts):
    return [form(prompt, text) for text in texts]

def none(prompt, text):
    return None if "?" in text else text

def fails(prompt, text):
    return [][1]

def hangs(prompt, a, b):
    time.sleep(60)

def number(prompt, text):
    return 5

def dies(prompt, texts):
    import os
    os._exit(3)

def short(prompt, texts):
    return ["one"]

def wrong(text):
    return text
"""


@pytest.fixture
def function(tmp_path):
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    return lambda name, seconds=10.0: FunctionEquivalence(f"{tmp_path / 'mine.py'}:{name}", seconds)


ANSWERS = ["How about Mars?", "Venus.", "It is Mars.", "Venus.", "Pluto"]


@pytest.mark.parametrize(("name", "call"), [("form", "form"), ("pair", "pair"), ("groups", "labels")])
def test_a_function_of_the_users_own_divides_answers(function, name, call):
    equivalence = function(name)
    assert equivalence.call == call
    assert labels(equivalence, ANSWERS) == [0, 1, 0, 1, 2]
    assert equivalence.name == f"mine.py:{name}{', greedy assignment' * (call == 'pair')}"
    assert equivalence.form(PROMPT, "It is Mars.") == ("Mars" if call == "form" else None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fails", "IndexError: list index out of range"), ("number", "it returned 5, expected a text"),
        ("dies", "its process ended before it answered"), ("short", "it returned 1 labels for 4 texts"),
    ],
)  # fmt: skip
def test_what_a_function_fails_on_has_no_label_and_a_reason(function, name, reason):
    equivalence = function(name)
    [found] = equivalence.partitions([(PROMPT, PLANETS)])
    assert found.labels_N.tolist() == [MISSING] * 4
    assert len(found.reasons) == 4 and found.reasons[0].startswith(reason)


def test_one_text_without_a_label_leaves_the_others_theirs(function):
    [found] = function("none").partitions([(PROMPT, ["Mars", "Mars?", "Venus"])])
    assert found.labels_N.tolist() == [0, MISSING, 1]
    assert found.reasons == ("it returned None, expected a text",)


def test_a_function_that_hangs_is_ended(function):
    [found] = function("hangs", seconds=0.2).partitions([(PROMPT, ["a", "b", "b"])])
    assert found.labels_N.tolist() == [0, MISSING, MISSING]
    assert "no answer within 0.2 seconds" in found.reasons[0]


@pytest.mark.parametrize(("name", "reason"), [("wrong", "it takes text; expected f"), ("gone", "does not define")])
def test_a_function_that_cannot_be_called_is_refused_at_once(function, name, reason):
    with pytest.raises(CheckerError, match=reason):
        function(name)


@pytest.mark.parametrize(
    ("same", "reason"),
    [
        ("meaning", "expected normalised, exact"), ("canonical", "no canonical form"),
        ({"kind": "exact", "distance": 0.3}, "read with kind embedding"),
        ({"kind": "embedding", "distance": 3.0}, "between 0 and 2"),
    ],
)  # fmt: skip
def test_a_section_that_says_something_else_is_refused(same, reason):
    with pytest.raises(ValidationError, match=reason):
        CustomSettings(name="custom", train="a", validation="a", test="a", same_answer=same)


def test_a_function_is_code_that_a_report_asks_for_before_it_runs():
    files = dict.fromkeys(("train", "validation", "test"), "a")

    def section(**keys):
        return CustomSettings.model_validate({"name": "custom", **files, **keys})

    judged = section(checker="mine.py:check", same_answer="mine.py:same")
    assert own_code(judged) == ["mine.py:check", "mine.py:same"]
    assert own_code(judged.without_code()) == ["mine.py:same"]
    assert not own_code(section(same_answer="embedding"))


def test_tasks_have_their_forms_or_normalised_texts():
    arithmetic = equivalence_of(ArithmeticTask(8, 2, 2))
    assert labels(arithmetic, ["8-(3-2)", "2+8-3", "8+3"]) == [0, 0, 1]
    assert arithmetic.name == "the task's canonical form"

    class Mine(Task):
        name = "mine"

    assert equivalence_of(Mine()).name == "normalised"  # type: ignore[abstract]


# Training and evaluation.

SAMPLING = SamplingParameters(1.0)


@pytest.fixture
def task(tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"id": "p", "prompt": "1+1=", "references": ["Mars", "Venus"]}\n' * 1)
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    file = tmp_path / "prompts.jsonl"

    def build(kind, **keys):
        kind = f"{tmp_path / kind}" if ":" in kind else kind
        return CustomTask(file, file, file, checker="contains", embedder="hash", same=SameAnswer(kind=kind, **keys))

    return build


def group(task, texts):
    [prompt] = task.prompts("train")
    generations = tuple(Generation(text, (1,), "stop", 0.0) for text in texts)
    return Group(prompt, generations, tuple(Check(1.0) for _ in texts))


def signals_of(task, texts):
    sampled = group(task, texts)
    partitions = equivalence_of(task).partitions([(sampled.prompt, sampled.texts)])
    return group_signals(task, [sampled], partitions, with_distances=False)


def rows(task, texts):
    [prompt] = task.prompts("test")
    made = [GenerationRow("p", i, text, 1, "stop", SAMPLING, 0, reward=None) for i, text in enumerate(texts)]
    return check_rows(task, [prompt] * len(made), made)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("normalised", 4), ("exact", 4), ("mine.py:form", 3), ("mine.py:pair", 3), ("mine.py:groups", 3)],
)
def test_training_and_evaluation_have_one_partition(task, kind, expected):
    task = task(kind)
    signals = signals_of(task, ANSWERS)
    table = measure_rows(rows(task, ANSWERS), MeasureOptions(0.5), same=SameAnswers.of(task, "test"))
    assert len(set(signals.clusters_PN[0].tolist())) == expected
    assert table.sampled[SAMPLING.label].metric("clusters") == pytest.approx([expected])
    assert f"same:{equivalence_of(task).name}" in table.signatures["clusters"]


def test_rows_keep_the_form_where_the_kind_has_one_per_text(task):
    assert [row.cluster for row in rows(task("normalised"), PLANETS)] == ["mars"] * 4
    assert [row.cluster for row in rows(task("mine.py:form"), ANSWERS)][:2] == ["Mars", "Venus"]
    for kind in ("exact", "embedding", "mine.py:pair"):
        assert {row.cluster for row in rows(task(kind), PLANETS)} == {None}


def test_a_failure_is_a_missing_reward_in_training_and_a_missing_label_in_evaluation(task):
    task, texts = task("mine.py:none"), ["Mars", "Mars?", "Venus", "Venus?", "Mars"]
    signals = signals_of(task, texts)
    assert np.isnan(signals.rewards_PN).tolist() == [[False, True, False, True, False]]
    table = measure_rows(rows(task, texts), MeasureOptions(0.5), same=SameAnswers.of(task, "test"))
    sampled = table.sampled[SAMPLING.label]
    assert table.missing == {"same_answer: it returned None, expected a text": 2}
    [warning] = unlabelled_warnings({("ours", 0): table})
    assert warning.text.startswith("ours, seed 0: 2 answers without a label")
    assert sampled.curves["pass"][0].tolist() == [1.0] * 5
    assert sampled.curves["distinct_correct"][0, 2] == pytest.approx(2.0)
    assert np.isnan(sampled.curves["distinct_correct"][0, 3:]).all()


@pytest.fixture
def run(tmp_path, tiny_settings, task):
    def build(kind, **keys):
        training = TrainingSettings(
            loss="rl", steps=2, prompts_per_step=1, num_samples=4, max_new_tokens=8, checkpoint_every=1
        )
        return ArmRun(
            experiment="test", arm="coverage", seed=0, folder=tmp_path / "run", task=task(kind, **keys),
            model=tiny_settings, training=training, diversity=DiversitySettings(weight=1.0, set_size=2),
        )  # fmt: skip

    return build


@pytest.mark.parametrize(
    ("kind", "keys"), [("embedding", {"distance": 0.4}), ("mine.py:form", {}), ("mine.py:pair", {})]
)
def test_training_takes_embeddings_and_functions(run, kind, keys):
    arm = run(kind, **keys)
    train_arm(arm)
    metrics = read_jsonl(arm.folder / "metrics.jsonl")
    assert len(metrics) == 2 and all(1.0 <= row["groups/clusters"] <= 4.0 for row in metrics)


def test_training_stops_where_the_equivalence_fails_too_often(run):
    with pytest.raises(CheckerError, match=r"task.same_answer failed on 100% .* IndexError"):
        train_arm(run("mine.py:fails"))


# The audit.


def test_calibration_without_references_is_refused_in_words(task):
    with pytest.raises(ConfigError, match="state a distance"):
        build_equivalence(SameAnswer(kind="embedding", distance="calibrated"), task("exact")).partitions(
            [(PROMPT, PLANETS)]
        )
