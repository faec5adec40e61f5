"""A run is carried out by an executor from outside the package."""

import sys

import pytest

from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment
from polychromic.experiment.executors import EXECUTORS, build_executor, local, processes
from polychromic.experiment.run import run
from polychromic.experiment.settings import BUILT_IN_EXECUTORS

THREADS = """
from concurrent.futures import ThreadPoolExecutor

from polychromic.experiment.jobs import carry_out

names = []


def in_threads(jobs, workers, on_event, on_done):
    \"\"\"The last job first, each in a thread of its own: neither order nor place may matter.\"\"\"
    for job in reversed(jobs):
        with ThreadPoolExecutor(1) as pool:
            rows = pool.submit(carry_out, job, on_event).result()
        names.append(f"{job.arm}/seed-{job.seed}")
        on_done(job, rows)
"""


def experiment(**settings):
    return Experiment.from_mapping({
        "name": "own", "task": {"name": "arithmetic", "train_problems": 32, "test_problems": 8},
        "model": {"source": "polychromic:arithmetic-tiny", "adapter": {"rank": 2}},
        "training": {"loss": "rl", "steps": 2, "prompts_per_step": 2, "num_samples": 4, "max_new_tokens": 12},
        "diversity": {"set_size": 2}, "arms": {"baseline": {}, "coverage": {"diversity": {"weight": 1.0}}},
        "evaluation": {"num_prompts": 6, "num_samples": 4, "max_new_tokens": 12, "untrained": False},
        "run": {"preflight": False, **settings},
    })  # fmt: skip


def test_an_executor_of_the_users_own_runs_all_jobs_with_the_same_result(tmp_path):
    (tmp_path / "threads.py").write_text(THREADS)
    own = f"{tmp_path / 'threads.py'}:in_threads"
    ours = run(experiment(executor=own), out=tmp_path / "ours")
    assert build_executor(own).__globals__["names"] == ["coverage/seed-0", "baseline/seed-0"]
    built_in = run(experiment(executor="local"), out=tmp_path / "built-in")
    for arm in ("baseline", "coverage"):
        rows = [result.folder.arm(arm, 0).generations.read_text() for result in (ours, built_in)]
        assert rows[0] == rows[1]
    assert len(ours.folder.ledger.read_text().splitlines()) == 4


def test_an_executor_that_is_none_is_refused_before_any_work(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"run.executor: 'slurm' is not known; expected local, processes, ray"):
        experiment(executor="slurm")
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(ConfigError, match=r"run.executor: ray needs the package ray; pip install 'polychromic\[ray\]'"):
        run(experiment(executor="ray"), out=tmp_path)
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(ConfigError, match="does not define function run_all"):
        run(experiment(executor=f"{tmp_path / 'mine.py'}:run_all"), out=tmp_path)


def test_every_built_in_executor_can_be_named():
    assert tuple(EXECUTORS) == BUILT_IN_EXECUTORS
    assert [build_executor(name) for name in ("local", "processes")] == [local, processes]
