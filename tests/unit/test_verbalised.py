"""Several answers from one reply: every one is read, none is made up, and what is missing is counted."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chat import byte_tokenizer

from polychromic.errors import ConfigError, ModelError
from polychromic.evaluation import MeasureOptions, compare, measure_arms, measure_rows
from polychromic.evaluation.collect import CollectionPlan, collect
from polychromic.experiment.config import Experiment
from polychromic.records import Check, Generation, Message, Prompt, SamplingParameters, as_messages
from polychromic.sampling.verbalized import VerbalizedSampler, parse_verbalised, verbalised_prompt

CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def texts(reply: str, n: int = 5) -> list[str]:
    return [one.text for one in parse_verbalised(reply, n)]


def pairs(reply: str) -> list[tuple[str, float | None]]:
    return [(one.text, one.probability) for one in parse_verbalised(reply, 5)]


TAGGED = """Sure!
<response><text>Mars</text><probability>0.5</probability></response>
<response>
  <text>The red one,
  Mars.</text>
  <probability>20%</probability>
</response>"""


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (TAGGED, [("Mars", 0.5), ("The red one,\n  Mars.", 0.2)]),
        ("<response><text>a<probability>0.1</probability></response><response><text>b", [("a", 0.1), ("b", None)]),
        ("<TEXT>a</TEXT> <text></text> <text>b</text><probability>7</probability>", [("a", None), ("b", None)]),
        ('[{"text": "a", "probability": 0.4}, {"response": "b"}]', [("a", 0.4), ("b", None)]),
        ('```json\n{"responses": [{"text": "a \\"b\\"", "probability": "30%"}]}\n```', [('a "b"', 0.3)]),
        ('[{"text": "a", "probability": 0.4}, {"text": "b", "prob', [("a", 0.4)]),
        ('["a", "b"]', [("a", None), ("b", None)]),
        ("1. Mars (0.5)\n2) Venus - 30%\n3: Pluto, probability: 0.1", [("Mars", 0.5), ("Venus", 0.3), ("Pluto", 0.1)]),
        ('- "Mars" (probability: 1)\n* Venus [p = 0.2].\n• Io', [("Mars", 1.0), ("Venus", 0.2), ("Io", None)]),
        # A number that ends an answer belongs to it.
        ("1. 2 + 1\n2. Room 101\n3. Figure (1)\n4. See 3.5", ["2 + 1", "Room 101", "Figure (1)", "See 3.5"]),
        ("I would say Mars.", []),
        ("", []),
    ],
)  # fmt: skip
def test_replies_of_several_forms_are_read(reply, expected):
    found = pairs(reply)
    assert found == [one if isinstance(one, tuple) else (one, None) for one in expected]


def test_no_more_answers_than_were_asked_for():
    assert texts("\n".join(f"{i}. a{i}" for i in range(1, 9)), 3) == ["a1", "a2", "a3"]


WORDS = st.text(st.characters(categories=["L", "N", "Zs", "Po"], exclude_characters="<>"), min_size=1).map(str.strip)
ANSWERS = st.lists(WORDS.filter(bool), min_size=1, max_size=5)


@given(ANSWERS, st.floats(0, 1))
def test_tagged_answers_come_back_as_they_were(answers, probability):
    reply = "\n".join(
        f"<response><text>{text}</text><probability>{probability:.3f}</probability></response>" for text in answers
    )
    assert pairs(reply) == [(text, pytest.approx(probability, abs=1e-3)) for text in answers]


@given(ANSWERS)
def test_json_answers_come_back_as_they_were(answers):
    assert texts("Here: " + json.dumps([{"text": text, "probability": 0.2} for text in answers])) == answers


@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from(["<text>", "</text>", "[", "{", '"a"', "]", "1. ", "\n", " (0.3)"])).map("".join)
)
@settings(max_examples=500, deadline=None)  # fmt: skip
def test_nothing_is_made_up(reply):
    found = parse_verbalised(reply, 5)
    assert len(found) <= 5
    for one in found:
        assert one.text
        assert one.text in reply or '"' in reply  # JSON may spell its texts with escapes
        assert one.probability is None or 0 <= one.probability <= 1


@pytest.mark.parametrize(
    "reply",
    ["[" * 5000, '{"a":' * 3000, "<text>a" * 3000, "1. a" + " " * 20000 + "x", "1. " + "(0.3" * 5000],
    ids=lambda reply: reply[:6],
)
def test_hostile_replies_are_read_in_time(reply):
    started = time.process_time()
    assert len(parse_verbalised(reply, 5)) <= 5
    assert time.process_time() - started < 2


def test_the_request_stands_in_the_last_message_only():
    prompt = Prompt("p", (Message("system", "s"), Message("user", "Name a planet.")), ("Mars",))
    asked = verbalised_prompt(prompt, 4)
    assert asked.messages[0] == prompt.messages[0]
    assert asked.text.startswith("Name a planet.")
    assert "4 different answers" in asked.text
    assert (asked.id, asked.references) == (prompt.id, prompt.references)


# The sampler. -------------------------------------------------------------------------------------------------------


class Replies:
    """Gives each prompt the same replies; remembers what it was asked."""

    def __init__(self, *replies: Generation) -> None:
        self.replies = replies
        self.asked = []

    def sample(self, prompts, n, parameters, seeds):
        self.asked.append((len(prompts), n, parameters.max_new_tokens))
        return [list(self.replies[:n]) for _ in prompts]


def chat_tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tagged(*answers: str) -> str:
    return "".join(f"<response><text>{text}</text><probability>0.1</probability></response>" for text in answers)


def test_each_answer_is_a_generation_and_missing_ones_stay_missing():
    replies = Replies(
        Generation(tagged("ab", "c", "d"), (1,), "stop"),
        Generation(tagged("e") + "<response><text>cut of", (1,), "length"),
        Generation("no idea", (1,), "stop"),
    )
    sampler = VerbalizedSampler(replies, chat_tokenizer(), 3)
    prompts = [Prompt("p", as_messages("x"))]
    (group,) = sampler.sample(prompts, 8, SamplingParameters(max_new_tokens=10), [0])
    assert [one.text for one in group] == ["ab", "c", "d", "e", "", "", "", ""]
    assert [one.finish for one in group] == ["stop"] * 4 + ["missing"] * 4
    assert [len(one.token_ids) for one in group] == [2, 1, 1, 1, 0, 0, 0, 0]
    assert replies.asked == [(1, 3, 3 * (10 + 24))]


def test_a_model_without_a_chat_template_is_refused():
    with pytest.raises(ModelError, match=r"verbalized sampling asks a chat model .* no chat template"):
        VerbalizedSampler(Replies(), byte_tokenizer(), 5)


class Task:
    """Passes the texts it is shown, which must never be those of missing answers."""

    name, pass_threshold = "any", 1.0

    def prompts(self, split):
        return [Prompt(f"p{i}", as_messages("x")) for i in range(20)]

    def check(self, prompts, texts):
        assert all(texts)
        return [Check(1.0)] * len(texts)

    def judge(self, prompts, texts):
        return None

    def cluster(self, prompt, text):
        return text


def rows_of(sampler, path):
    task = Task()
    plan = CollectionPlan(tuple(task.prompts("test")), 4, (SamplingParameters(),), ("run", 0))
    return collect(plan, lambda: sampler, task, path)


def arm_rows(tmp_path, name, *replies):
    return rows_of(VerbalizedSampler(Replies(*replies), chat_tokenizer(), 4), tmp_path / f"{name}.jsonl")


def test_missing_answers_are_rows_that_no_measure_sees(tmp_path):
    rows = arm_rows(tmp_path, "a", Generation(tagged("ab", "c", "c"), (1,), "stop"))
    assert len(rows) == 20 * 4
    table = measure_rows(rows, MeasureOptions(1.0, draws=3))
    sampled = table.sampled["T=1"]
    assert sampled.metric("distinct_texts").tolist() == [2.0] * 20
    assert sampled.metric("distinct_correct").tolist() == [2.0] * 20
    assert sampled.metric("reward").tolist() == [1.0] * 20
    assert sampled.metric("missing").tolist() == [0.0] * 20
    assert sampled.metric("unanswered").tolist() == [0.25] * 20
    assert sampled.metric("pass@4") is None
    assert table.missing == {"the model gave fewer answers than it was asked for": 20}


def test_a_prompt_without_any_answer_is_undefined_and_counted(tmp_path):
    rows = arm_rows(tmp_path, "a", Generation("no", (1,), "stop"))
    sampled = measure_rows(rows, MeasureOptions(1.0)).sampled["T=1"]
    assert sampled.metrics == ["unanswered"]
    assert sampled.metric("unanswered").tolist() == [1.0] * 20


def test_an_arm_that_leaves_answers_out_is_told_so_and_does_not_shrink_the_others(tmp_path):
    rows = {
        ("full", 0): arm_rows(tmp_path, "full", Generation(tagged("a", "b", "c", "d"), (1,), "stop")),
        ("short", 0): arm_rows(tmp_path, "short", Generation(tagged("a", "b"), (1,), "stop")),
    }
    tables = measure_arms(rows, pass_threshold=1.0)
    assert np.unique(tables["full", 0].sampled["T=1"].metric("distinct_correct")).tolist() == [4.0]
    comparison = compare(tables, baseline="full")
    (warning,) = [one for one in comparison.warnings if one.kind == "missing answers"]
    assert warning.text.startswith("short: 50.0 % of the answers asked for were not given")


# The arm. -----------------------------------------------------------------------------------------------------------


def quickstart(**arm) -> Experiment:
    content = Experiment.from_file("experiments/quickstart.yaml").model_dump(mode="json")
    return Experiment.from_mapping(content | {"arms": content["arms"] | {"asked": arm}})


def test_an_arm_is_verbalised_and_untrained():
    arm = quickstart(untrained=True, verbalized=5).arm("asked")
    assert (arm.untrained, arm.verbalized) == (True, 5)
    with pytest.raises(ConfigError, match=r"arms\.asked: verbalized sampling is an arm without training"):
        quickstart(verbalized=5)
    with pytest.raises(ConfigError, match=r"arms\.asked\.verbalized: input should be greater than or equal to 2"):
        quickstart(untrained=True, verbalized=1)


def test_an_experiment_without_trained_arms_needs_no_training_section():
    content = Experiment.from_file("experiments/quickstart.yaml").model_dump(mode="json")
    del content["training"]
    content["comparison"]["baseline"] = "each"
    untrained = {"each": {"untrained": True}, "asked": {"untrained": True, "verbalized": 5}}
    assert Experiment.from_mapping(content | {"arms": untrained}).arm("each").untrained
    with pytest.raises(ConfigError, match=r"training: missing"):
        Experiment.from_mapping(content | {"arms": untrained | {"trained": {}}})
