"""Shared fixtures: the packaged model, copies of it to be damaged, and a pickle that tells when it is read."""

import os
import pickle
import shutil

import pytest
from hypothesis import settings

# A deadline is of the wall clock, and fails where a machine has other work to do. The same cases every time, so that
# one commit has one outcome; `pytest --hypothesis-profile=search` tries new ones.
settings.register_profile("polychromic", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile("polychromic")

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Workers side by side share the cores; commands that a test starts inherit this.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tiny_settings():
    """Settings of the packaged arithmetic model with a small adapter."""
    from polychromic.models.settings import AdapterSettings, ModelSettings

    return ModelSettings(source="polychromic:arithmetic-tiny", adapter=AdapterSettings(rank=4, alpha=8))


@pytest.fixture
def tiny_model(tiny_settings):
    """The packaged model with an adapter that changes its output."""
    import torch

    from polychromic.models.loading import load_language_model

    language_model = load_language_model(tiny_settings, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in language_model.model.named_parameters():
        if "lora_B" in name:
            with torch.no_grad():
                parameter.normal_(0.0, 0.05, generator=generator)
    return language_model


def pytest_terminal_summary(terminalreporter, config):
    """Say what `make test` leaves out, and what would run it."""
    if "not slow" in config.getoption("markexpr"):
        terminalreporter.write_line(
            "left out: slow and network tests (make slow), GPU tests (python -m pytest -m gpu), engines (make vllm, "
            "trl, integrations, ray, sky), reasoning-gym (make puzzles), more kills (make faults), every damage (make "
            "attack), every architecture (make architectures)"
        )


@pytest.fixture(scope="session")
def untouched_run(tmp_path_factory):
    """The folder of a small run of two arms and two seeds that nobody disturbed, made once for all workers: copy it
    before anything may write to it."""
    from filelock import FileLock
    from tests.faults.storm import WORKERS, untouched

    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    with FileLock(shared / "untouched.lock"):
        untouched(shared, WORKERS, "small")
    return shared / "whole" / "quickstart"


class Payload:
    """A pickle that writes a file when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return exec, (f"open({str(self.marker)!r}, 'w').write('run')",)


@pytest.fixture
def marker(tmp_path):
    """The file that the pickle would write."""
    return tmp_path / "code-was-run"


@pytest.fixture
def pickled(marker):
    """The bytes of a pickle that writes `marker` when it is read."""
    return pickle.dumps(Payload(marker))


@pytest.fixture
def model(tmp_path):
    """A copy of the packaged model's folder, to be changed."""
    from polychromic.models.sources import resolve_source

    return shutil.copytree(resolve_source("polychromic:arithmetic-tiny"), tmp_path / "model")


@pytest.fixture
def adapter(tmp_path, tiny_settings):
    """A saved adapter of the packaged model, to be changed."""
    from polychromic.models.adapters import save_adapter
    from polychromic.models.loading import load_language_model

    save_adapter(load_language_model(tiny_settings, seed=1).model, tmp_path / "adapter")
    return tmp_path / "adapter"
