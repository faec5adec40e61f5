"""Fixtures that the tests of checkers share."""

import pytest

from polychromic.tasks.checking.isolation import IsolatedChecker


@pytest.fixture
def checker(tmp_path):
    """Builds a checker from the source of a file; its processes end with the test."""
    opened = []

    def build(source, **limits):
        (tmp_path / "mine.py").write_text(source)
        opened.append(IsolatedChecker(f"{tmp_path / 'mine.py'}:check", **{"seconds": 30.0, "memory_gb": 4.0, **limits}))
        return opened[-1]

    yield build
    for one in opened:
        one.close()


@pytest.fixture
def on_threads(monkeypatch):
    """Runs `work(processes)` on as many threads as there are to be processes; returns what each returned."""
    from tests.unit.threads import ThreadsAsProcesses

    from polychromic.training import parallel

    def run(size, work):
        threads = ThreadsAsProcesses(size)
        monkeypatch.setattr(parallel, "distributed", threads)
        return threads.run(work)

    return run
