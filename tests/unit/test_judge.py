"""`same_answer: judge`: a language model behind an OpenAI-compatible endpoint, against a server that runs here."""

import re
import time
from collections import Counter

import pytest
from chat_endpoint import NOW, Endpoint, completion, verdict
from pydantic import ValidationError

from polychromic.cli.report import _ask_before_running
from polychromic.diversity.equivalence import MISSING
from polychromic.errors import ConfigError
from polychromic.ledger import Calls, calls_so_far
from polychromic.records import Message, Prompt, as_messages
from polychromic.tasks.partitions.judge import JudgeEquivalence
from polychromic.tasks.partitions.settings import SameAnswer
from polychromic.tasks.settings import CustomSettings

PROMPT = Prompt("p", as_messages("Name a planet."))


@pytest.fixture
def judge(tmp_path):
    def build(url, **keys):
        keys = {"retries": 2, "seconds": 5.0, **keys}
        return JudgeEquivalence(SameAnswer(kind="judge", model="m", base_url=url, **keys), tmp_path / "cache")

    return build


def divided(equivalence, texts, prompt=PROMPT):
    [found] = equivalence.partitions([(prompt, texts)])
    return found.labels_N.tolist(), set(found.reasons)


TEXTS = ["mars", "venus", "mars!", "vesta", "mars", "saturn"]


@pytest.mark.parametrize("rule", ["greedy", "transitive"])
def test_a_judge_divides_answers_and_no_pair_is_asked_or_paid_twice(judge, rule):
    endpoint, before = Endpoint(), calls_so_far()
    with endpoint.serving() as url:
        equivalence = judge(url, rule=rule, input_dollars=1.0, output_dollars=10.0)
        assert divided(equivalence, TEXTS) == ([0, 1, 0, 1, 0, 2], set())
        # mars against 4 others; venus against vesta and saturn (and mars! where classes may merge); …
        n = len(endpoint.requests)
        assert n == (6 if rule == "greedy" else 9)
        assert calls_so_far() - before == Calls(n, 102 * n, pytest.approx(n * (100 * 1.0 + 2 * 10.0) / 1e6))
        assert divided(judge(url, rule=rule), TEXTS)[0] == [0, 1, 0, 1, 0, 2]
        assert divided(equivalence, ["vesta", "mars!"])[0] == [0, 1]
        assert len(endpoint.requests) == n + 1  # vesta and mars! is the one pair that had not met


def test_a_request_holds_the_question_both_texts_in_one_order_and_the_options(judge, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    endpoint = Endpoint()
    talk = Prompt("q", (Message("system", "Be brief."), Message("user", "Name one.")))
    with endpoint.serving() as url:
        equivalence = judge(url, api_key_env="MY_KEY", options={"seed": 3, "max_tokens": 5}, instructions="Yes or no?")
        divided(equivalence, ["b \ud800", "a"], talk)
        divided(equivalence, ["a", "b \ud800"], talk)
    [(path, headers, request)] = endpoint.requests
    assert path == "/v1/chat/completions" and headers["authorization"] == "Bearer secret"
    assert (request["model"], request["temperature"], request["max_tokens"], request["seed"]) == (
        "m",
        0,
        5,
        3,
    )
    system, user = request["messages"]
    assert system == {"role": "system", "content": "Yes or no?"}
    assert "system: Be brief.\nuser: Name one." in user["content"]
    assert user["content"].index("<first>\na\n</first>") < user["content"].index("<second>\nb \ufffd\n</second>")
    assert equivalence.name.startswith("judge m (told ") and judge("http://x/v1").name == "judge m, greedy assignment"


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_failure_that_passes_is_asked_again(judge, status):
    endpoint = Endpoint(lambda number, _: (status, {"error": {"message": "busy"}}, NOW) if number % 3 else None)
    with endpoint.serving() as url:
        assert divided(judge(url, concurrency=1), ["mars", "venus", "mars!"]) == ([0, 1, 0], set())
    assert len(endpoint.requests) == 6  # every third attempt at each of two pairs


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (lambda *_: (500, {"error": {"message": "broken"}}, NOW), "answered 500: .*broken"),
        (lambda *_: (429, {"error": {"message": "slow down"}}, NOW), "answered 429: .*slow down"),
        (lambda *_: (200, b"{not json", ()), "is no chat completion"),
        (lambda *_: (200, b"<html>", (("X-A", "b"),)), "is no chat completion"),
        (lambda *_: (200, {"choices": []}, ()), "is no chat completion .choices"),
        (lambda *_: (200, {"choices": [{"message": {"role": "a"}}]}, ()), r"choices.0.message.content: Field required"),
        (lambda *_: (200, completion("It depends."), ()), "the judge said 'It depends.', expected yes or no"),
        (lambda *_: (200, completion(None), ()), "the judge said '', expected yes or no"),
    ],
)  # fmt: skip
def test_what_gets_no_verdict_has_no_label_and_a_reason_and_is_asked_anew_the_next_time(judge, behave, reason):
    endpoint = Endpoint(behave)
    with endpoint.serving() as url:
        found, reasons = divided(judge(url), ["mars", "venus", "venus", "mars!"])
        assert found == [0, MISSING, MISSING, MISSING]
        [why] = reasons
        assert re.search(reason, why), why
        endpoint.behave = lambda *_: None
        assert divided(judge(url), ["mars", "venus", "venus", "mars!"]) == ([0, 1, 1, 0], set())


def test_one_text_that_fails_leaves_the_others_their_labels(judge):
    def behave(_, request):
        return (500, {}, NOW) if "venus" in request["messages"][-1]["content"] else None

    with Endpoint(behave).serving() as url:
        found, reasons = divided(judge(url), ["mars", "venus", "mars!", "saturn"])
    assert found == [0, MISSING, 0, 1] and len(reasons) == 1


@pytest.mark.parametrize("status", [401, 404])
def test_a_refused_key_or_an_unknown_model_is_not_asked_a_hundred_times(judge, status):
    endpoint = Endpoint(lambda *_: (status, {"error": {"message": "no such model"}}, ()))
    with endpoint.serving() as url:
        found, [reason] = divided(judge(url, concurrency=1), [f"{i}" for i in range(100)])
    assert found == [0] + [MISSING] * 99 and f"answered {status}" in reason
    assert len(endpoint.requests) == 1


def test_a_dead_server_is_said_once_and_soon(judge):
    with Endpoint().serving() as url:
        pass
    started = time.monotonic()
    found, [reason] = divided(judge(url, retries=0, concurrency=1), [f"{i}" for i in range(500)])
    assert found == [0] + [MISSING] * 499
    assert reason.startswith(f"the judge at {url} did not answer at all")
    assert time.monotonic() - started < 60.0


def test_a_server_that_hangs_is_given_up_after_the_stated_time(judge):
    with Endpoint(seconds=1.0).serving() as url:
        found, [reason] = divided(judge(url, seconds=0.2, retries=0), ["mars", "venus"])
    assert found == [0, MISSING] and "did not answer within the time" in reason


def test_requests_are_made_side_by_side_and_no_more_than_stated(judge):
    endpoint = Endpoint(seconds=0.05)
    with endpoint.serving() as url:
        divided(judge(url, concurrency=4), [f"a{i}" for i in range(24)])
    assert endpoint.most_at_once == 4
    assert len(endpoint.requests) == 23


def test_a_verdict_is_read_after_thoughts(judge):
    def behave(_, request):
        return 200, completion(f"<think>No… perhaps yes?</think>\n\n**{verdict(request)}**"), ()

    with Endpoint(behave).serving() as url:
        assert divided(judge(url), ["mars", "venus", "mars!"])[0] == [0, 1, 0]


def test_a_damaged_cache_is_set_aside_and_other_words_are_another_question(judge, tmp_path, caplog):
    endpoint = Endpoint()
    with endpoint.serving() as url:
        divided(judge(url), ["mars", "venus"])
        divided(judge(url, instructions="Answer yes or no."), ["mars", "venus"])
        divided(judge(url), ["mars", "venus"], Prompt("q", as_messages("Name a goddess.")))
        assert len(endpoint.requests) == 3
        [file] = (tmp_path / "cache").glob("*.sqlite")
        file.write_bytes(b"no database at all" * 100)
        assert divided(judge(url), ["mars", "venus"])[0] == [0, 1]
    assert Counter(endpoint.requests and [path for path, _, _ in endpoint.requests]) == {"/v1/chat/completions": 4}
    assert "not a cache of answers" in caplog.text


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"kind": "judge"}, "judge needs model: a model's name"),
        ({"kind": "classifier"}, "classifier needs model: a cross-encoder"),
        ({"kind": "judge", "model": "m", "threshold": 0.3}, "threshold is read with kind classifier, not with judge"),
        ({"kind": "normalised", "rule": "transitive"}, "rule is read with kind classifier or judge or a function"),
        ({"kind": "judge", "model": "m", "input_dollars": 1.0}, "both input_dollars and output_dollars"),
    ],
)  # fmt: skip
def test_settings_that_would_be_ignored_are_refused(keys, reason):
    with pytest.raises(ValidationError, match=reason):
        SameAnswer(**keys)


def test_a_received_folder_that_names_an_endpoint_asks_before_it_sends_texts_and_key(tmp_path):
    same = {"kind": "judge", "model": "m", "base_url": "http://stranger/v1", "api_key_env": "MY_SECRET"}
    files = dict.fromkeys(("train", "validation", "test"), "a")
    for key in ("same_answer", "second_same_answer"):
        section = CustomSettings.model_validate({"name": "custom", **files, key: same})
        assert section.services == ["http://stranger/v1"]
        with pytest.raises(ConfigError, match=r"http://stranger/v1, which is sent them and the key .* add --yes"):
            _ask_before_running([], section.services, tmp_path, yes=False)
        _ask_before_running([], section.services, tmp_path, yes=True)
    assert CustomSettings.model_validate({"name": "custom", **files}).services == []
