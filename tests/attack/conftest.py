"""One finished run folder for all attacks, and copies of it to be damaged."""

import shutil

import pytest
from tests.attack.damage import whole_run


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return whole_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def root(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "quickstart")
