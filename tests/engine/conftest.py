"""Engines that all tests share; each takes half a minute to start, or more."""

import pytest
from engine_setup import running_server

from polychromic.sampling.base import close_engines


@pytest.fixture(scope="session", autouse=True)
def _ends_engines():
    yield
    close_engines()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("server")) as one:
        yield one
