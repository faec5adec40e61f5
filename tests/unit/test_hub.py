"""A hub that does not answer is said within seconds: its own client tried again for two and a half minutes."""

import socket
import time

import pytest
from huggingface_hub import constants

from polychromic.errors import ModelError
from polychromic.experiment.config import Experiment
from polychromic.experiment.run import run
from polychromic.models import sources


@pytest.fixture
def closed(monkeypatch):
    """A hub at a port of this machine that nobody listens on, asked without a proxy."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name in sources._PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    sources.hub_problem.cache_clear()
    yield port
    sources.hub_problem.cache_clear()


def test_a_run_of_a_hub_model_without_a_network_ends_in_one_sentence(closed, tmp_path):
    experiment = Experiment.from_mapping(
        {
            "name": "far",
            "task": {"name": "arithmetic"},
            "model": {"source": "nobody/no-such-model"},
            "training": {"loss": "rl", "steps": 1},
            "arms": {"baseline": {}, "more": {"diversity": {"weight": 1.0}}},
        }
    )
    started = time.monotonic()
    with pytest.raises(ModelError) as refused:
        run(experiment, out=tmp_path)
    assert time.monotonic() - started < 5.0
    assert str(refused.value) == (
        f"model.source: nobody/no-such-model is not on this machine, and http://127.0.0.1:{closed} cannot be reached "
        "(Connection refused); connect to the network, or name a folder that holds the model"
    )
    assert not (tmp_path / "far").exists()


def test_a_copy_on_this_machine_is_used_and_the_hub_not_asked_again(closed, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: "/cache/config.json")
    sources.require_hub_or_copy("some/model")
    assert constants.HF_HUB_OFFLINE is True


def test_a_hub_that_answers_a_folder_and_a_proxy_pass(closed, monkeypatch, tmp_path):
    sources.require_hub_or_copy(tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    sources.require_hub_or_copy("some/model")
    monkeypatch.delenv("HTTPS_PROXY")
    sources.hub_problem.cache_clear()
    with socket.create_server(("127.0.0.1", closed)):
        sources.require_hub_or_copy("some/model")


def test_a_name_that_is_looked_up_for_ever_is_given_up(closed, monkeypatch):
    monkeypatch.setattr(sources, "_HUB_SECONDS", 0.05)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: time.sleep(0.5) or socket.socket())
    assert sources.hub_problem("https://hub") == "no answer in 0.05 s"
