"""The client of `vllm serve`: what it asks, what it makes of refusals, and a server that goes away and comes back."""

import socket
import threading
import time

import pytest
from fake_engines import ModelEngine, ServerState, serving

from polychromic.errors import EngineError
from polychromic.records import SamplingParameters
from polychromic.sampling.local import LocalSampler
from polychromic.sampling.vllm.engine import EngineRestartedError, Request, sampling_keys
from polychromic.sampling.vllm.handover import AdapterStore, ServedPolicy
from polychromic.sampling.vllm.sampler import VllmSampler
from polychromic.sampling.vllm.server import ServerEngine
from polychromic.sampling.vllm.settings import VllmSettings
from polychromic.tasks.arithmetic import ArithmeticTask

PARAMETERS = SamplingParameters(0.8, max_new_tokens=16)
PROMPTS = ArithmeticTask(train_problems=6).prompts("train")
KEYS = sampling_keys(PARAMETERS, 2, frozenset({1}))
REQUESTS = [Request((3, 4, 5), 11), Request((3, 4, 6), 12)]


@pytest.fixture(scope="module")
def engine(tiny_settings):
    return ModelEngine(tiny_settings)


@pytest.fixture
def state(engine):
    engine.adapters.clear()
    engine.numbers.clear()
    return ServerState(engine)


def client(url, **keys):
    return ServerEngine(VllmSettings(url=url, retry_seconds=0.0, **keys), "tiny", ["tiny"])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_samples_the_policy_as_the_local_sampler_does(state, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with serving(state) as url:
        store = AdapterStore(str(tmp_path), shared=True)
        sampler = VllmSampler(tiny_model, ServedPolicy(client(url), store, 0.002))
        expected = LocalSampler(tiny_model).sample(PROMPTS, 4, PARAMETERS, range(6))
        found = sampler.sample(PROMPTS, 4, PARAMETERS, range(6))
        assert [[one.token_ids for one in group] for group in found] == [
            [one.token_ids for one in group] for group in expected
        ]
        sampler.served.close()
    asked = [body for path, body in state.bodies if path == "/v1/completions"]
    batch = [body for body in asked if body["n"] == 4]
    # One request a prompt: a seed is a request's.
    assert sorted(body["seed"] for body in batch) == [0, 1, 2, 3, 4, 5]
    assert {body["model"] for body in batch} == {f"{store.root.name}-2"}
    assert all(body["return_token_ids"] and body["top_k"] == 0 for body in batch)
    assert store.root.name not in str(list(tmp_path.iterdir()))


def test_a_server_that_is_not_there_is_one_sentence():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EngineError, match=rf"sampling\.url: {url}: does not answer \(.*refused.*\), tried for 0 s"):
        client(url)


def test_a_server_that_comes_up_within_the_stated_time_is_waited_for(state):
    port = free_port()

    def serve_later():
        time.sleep(0.3)
        with serving(state, port):
            done.wait(20)

    done = threading.Event()
    thread = threading.Thread(target=serve_later)
    thread.start()
    try:
        settings = VllmSettings(url=f"http://127.0.0.1:{port}", retry_seconds=20)
        assert ServerEngine(settings, "tiny", ["tiny"]).model == "tiny"
    finally:
        done.set()
        thread.join()


def test_a_server_that_went_away_and_came_back_is_asked_anew(state):
    port = free_port()
    with serving(state, port) as url:
        engine = ServerEngine(VllmSettings(url=url, retry_seconds=20), "tiny", ["tiny"])
        first = engine.draw(REQUESTS, KEYS, None)
    done = threading.Event()

    def serve_again():
        with serving(state, port):
            done.wait(20)

    restarted = threading.Timer(0.3, serve_again)
    restarted.start()
    try:
        with pytest.raises(EngineRestartedError):
            engine.draw(REQUESTS, KEYS, None)
        assert engine.draw(REQUESTS, KEYS, None) == first
        with pytest.raises(EngineRestartedError):  # it does not know the adapter any more
            engine.draw(REQUESTS, KEYS, "polychromic-adapters-gone-1")
    finally:
        done.set()
        restarted.join()


def test_the_wrong_model_behind_the_address_is_named(state):
    state.model, state.root = "qwen", "Qwen/Qwen3-8B"
    with serving(state) as url:
        with pytest.raises(EngineError, match=r"serves Qwen/Qwen3-8B, and model\.source is tiny"):
            client(url)
        assert client(url, served_model="qwen").model == "qwen"  # the probe decides then
        with pytest.raises(EngineError, match="expected one base model called other, and it serves qwen"):
            client(url, served_model="other")


def test_another_version_is_named(state):
    state.version = "0.11.0"
    with serving(state) as url, pytest.raises(EngineError, match=r"vLLM 0\.11\.0, expected at least 0\.32"):
        client(url)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, {"detail": "Not Found"}, "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
        (
            500,
            {"error": {"message": "LoRA rank 64 is greater than max_lora_rank 16."}},
            r"LoRA rank 64 is greater than max_lora_rank 16\.\); start it with a larger --max-lora-rank",
        ),
        (
            404,
            {"error": {"message": "Loading lora a failed: No adapter found for /dev/shm/a"}},
            "name a folder that both see in sampling.adapter_folder",
        ),
        (
            500,
            {"error": {"message": "LoRA is not enabled. Use --enable-lora"}},
            "start it with --enable-lora",
        ),
        (400, {"error": {"message": "what?"}}, r"does not take the adapter: HTTP 400: what\?"),
    ],
)
def test_a_refused_adapter_says_what_to_start_the_server_with(state, tmp_path, status, body, message):
    state.refusals["/v1/load_lora_adapter"] = (status, body)
    with serving(state) as url, pytest.raises(EngineError, match=message):
        client(url).load_adapter("a", 1, tmp_path / "a")


def test_a_refused_request_is_one_sentence_and_not_tried_again(state):
    state.refusals["/v1/completions"] = (400, {"error": {"message": "max_tokens is too large\nand more"}})
    with serving(state) as url:
        engine = client(url)
        with pytest.raises(EngineError, match=r"refuses to sample: HTTP 400: max_tokens is too large$"):
            engine.draw(REQUESTS[:1], KEYS, None)
    assert len(state.bodies) == 1


def test_an_answer_without_tokens_is_no_vllm(state):
    state.refusals["/v1/completions"] = (200, {"choices": [{"index": 0, "text": "hello"}]})
    with serving(state) as url, pytest.raises(EngineError, match="answers without token_ids"):
        client(url).draw(REQUESTS, KEYS, None)


def test_something_else_behind_the_address_is_asked_about(state):
    with serving(state) as url, pytest.raises(EngineError, match="is it the address of a `vllm serve`"):
        client(f"{url}/elsewhere")
