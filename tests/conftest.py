"""Shared fixtures: the packaged model, loaded once, on one thread so that results do not depend on the machine."""

import os

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
            "left out: slow and network tests (make slow), GPU tests (python -m pytest -m gpu), more kills "
            "(make faults), every damage (make attack), every architecture (make architectures)"
        )
