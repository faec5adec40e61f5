"""Thinking text: kept, stripped before checking and measuring, or measured apart; in training as in evaluation."""

import json

import pytest
from tests.architectures.zoo import tokenizer

from polychromic.experiment.config import Experiment
from polychromic.experiment.external import ExternalExperiment, evaluate_external
from polychromic.models.chat import Thinking, thinking_of_files, thinking_of_model
from polychromic.records import Check, Generation, GenerationRow, Prompt, SamplingParameters, as_messages
from polychromic.run_folder import RunFolder
from polychromic.sampling.local import AnswerSampler
from polychromic.training.rollouts import sample_groups

STRIP = Thinking(True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>hm</think>\n\n4", ("4", "hm", "stop")),
        ("\n<think>\nhm\n</think>4", ("4", "hm", "stop")),
        ("<think></think>4", ("4", "", "stop")),
        ("hm</think>\n4", ("4", "hm", "stop")),  # the template opened it
        ("<think>hm", ("", "hm", "length")),
        ("<think>a</think><think>b</think>4", ("4", "a\nb", "stop")),
        ("<think>a</think><think>b", ("", "a\nb", "length")),
        ("plain", ("plain", None, "stop")),
        ("", ("", None, "stop")),
        ("I write <think> and </think> here", ("I write <think> and </think> here", None, "stop")),
    ],
)
def test_an_answer_is_told_apart_from_the_thinking_before_it(text, expected):
    assert tuple(STRIP.read(text, "stop")) == expected
    assert tuple(Thinking(False).read(text, "stop")) == (text, None, "stop")


def test_a_generation_that_never_closes_what_the_template_opened_has_no_answer():
    assert tuple(Thinking(True, opened=True).read("hm, so", "length")) == ("", "hm, so", "length")


PLAIN = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}{{ 'assistant:' }}"
KNOWS = "{# of <think>…</think> #}" + PLAIN


@pytest.mark.parametrize(
    ("mode", "template", "expected"),
    [
        ("auto", PLAIN, Thinking(False)),
        ("auto", KNOWS, Thinking(True)),
        ("auto", KNOWS + "<think>\n", Thinking(True, opened=True)),
        ("auto", KNOWS + "<think>\n\n</think>\n\n", Thinking(True)),
        ("keep", KNOWS + "<think>", Thinking(False)),
        ("strip", None, Thinking(True)),
        ("apart", KNOWS, Thinking(True)),
    ],
)
def test_the_chat_template_decides_by_default(mode, template, expected):
    known = tokenizer()
    known.chat_template = template
    assert thinking_of_model(mode, known, {}) == expected


def test_files_carry_their_own_mark():
    assert thinking_of_files("auto").strips and not thinking_of_files("keep").strips


class Thinker:
    """Thinks of the answer first, and now and then forgets to stop thinking."""

    def sample(self, prompts, n, parameters, seeds):
        texts = ["<think>four?</think>five", "<think>five?</think>four", "<think>four", "four"]
        return [[Generation(text, (1, 2), "stop") for text in texts[:n]] for _ in prompts]


class WordTask:
    pass_threshold = 1.0

    def check(self, prompts, texts):
        return [Check(float("four" in text)) for text in texts]


def test_training_rewards_see_the_answer_alone():
    """A checker that looks for a word was once paid for thinking of it."""
    prompts = [Prompt("p", as_messages("2+2?"))]
    arguments = (WordTask(), prompts, 4, SamplingParameters(), [0])
    (group,) = sample_groups(AnswerSampler(Thinker(), STRIP), *arguments)
    assert group.rewards == [0.0, 1.0, 0.0, 1.0]
    assert group.texts == ["five", "four", "", "four"]
    assert [one.finish for one in group.generations] == ["stop", "stop", "length", "stop"]
    assert group.generations[0].token_ids == (1, 2)  # what is trained is the whole generation
    (kept,) = sample_groups(Thinker(), *arguments)
    assert kept.rewards == [1.0, 1.0, 1.0, 1.0]


def test_rows_keep_the_thinking_beside_the_answer():
    row = GenerationRow("p", 0, "4", 9, "stop", SamplingParameters(), 0, 1.0, thinking="hm")
    assert GenerationRow.from_json(row.to_json()) == row
    plain = GenerationRow("p", 0, "4", 9, "stop", SamplingParameters(), 0, 1.0)
    assert "thinking" not in plain.to_json() and GenerationRow.from_json(plain.to_json()) == plain


# Files and the page. -----------------------------------------------------------------------------------------------


@pytest.fixture
def compare(tmp_path):
    prompts = [{"id": f"p{i}", "prompt": f"Number {i}?", "references": ["right"]} for i in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (tmp_path / "e.yaml").write_text("name: mine\ntask: {name: custom, test: prompts.jsonl, checker: contains}\n")
    texts = {
        "a": [
            "<think>is it right or not</think>\nno",
            "<think>right right right",
            "<think>well then now so</think>right",
        ],
        "b": ["no", "right", "right"],
    }
    files = {}
    for arm, members in texts.items():
        rows = [{"id": f"p{i}", "texts": members, "finish_reason": "stop"} for i in range(6)]
        (tmp_path / f"{arm}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[arm] = [str(tmp_path / f"{arm}.jsonl")]

    def run(*overrides):
        experiment = ExternalExperiment.from_file(tmp_path / "e.yaml", files, overrides)
        return evaluate_external(experiment, RunFolder(tmp_path / "mine")).comparison

    return run


def test_files_with_thinking_are_checked_by_their_answers_and_that_is_said(compare, tmp_path):
    found = compare()
    assert found.mean("a", "pass@1").mean == pytest.approx(1 / 3)
    assert found.mean("a", "truncated").mean == pytest.approx(1 / 3)
    assert [one.text for one in found.warnings if one.kind == "thinking"] == [
        "a: thinking stands before 18 of 18 answers and is left out of checks and measures; 6 never came to an answer, "
        "which is empty and counts as truncated; lengths count it"
    ]
    rows = [json.loads(line) for line in RunFolder(tmp_path / "mine").arm("a", 0).generations.read_text().splitlines()]
    assert [row["text"] for row in rows[:3]] == ["no", "", "right"]  # what the page's samples are made from
    assert rows[1]["thinking"] == "right right right"


def test_thinking_may_be_kept_as_text(compare):
    found = compare("task.thinking=keep")
    assert found.mean("a", "pass@1").mean == 1.0
    assert not [one for one in found.warnings if one.kind == "thinking"]


def test_thinking_may_be_measured_apart(compare):
    found = compare("task.thinking=apart")
    assert found.mean("a", "pass@1").mean == pytest.approx(1 / 3)
    assert found.mean("a", "thinking_distinct_2") is None  # b does not think


def test_every_task_has_the_key():
    experiment = Experiment.from_file("experiments/quickstart.yaml", ["task.thinking=apart"])
    assert experiment.task.thinking == "apart"
