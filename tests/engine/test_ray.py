"""Jobs on a real Ray cluster of this machine: the same results, whatever is killed, and nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from polychromic.errors import ConfigError, StoppedError, TrainingError
from polychromic.experiment.config import Experiment
from polychromic.experiment.run import run

pytestmark = pytest.mark.engine
ray = pytest.importorskip("ray")


def experiment(executor="ray", steps=6, **cluster):
    return Experiment.from_mapping({
        "name": "many", "seeds": [0, 1],
        "task": {"name": "arithmetic", "train_problems": 32, "test_problems": 8},
        "model": {"source": "polychromic:arithmetic-tiny", "adapter": {"rank": 2}},
        "training": {"loss": "rl", "steps": steps, "prompts_per_step": 2, "num_samples": 4, "max_new_tokens": 12,
                     "checkpoint_every": 2},
        "diversity": {"set_size": 2}, "arms": {"baseline": {}, "coverage": {"diversity": {"weight": 1.0}}},
        "evaluation": {"num_prompts": 6, "num_samples": 4, "max_new_tokens": 12, "max_decode_batch": 8,
                       "untrained": False},
        "run": {"preflight": False, "executor": executor, "workers": 2, "ray": cluster},
    })  # fmt: skip


def results(root: Path) -> dict[str, bytes]:
    """Adapters and generations: what must be the same however the run came about."""
    found = [*root.rglob("adapter/*.safetensors"), *root.rglob("generations*.jsonl")]
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(found)}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return results(run(experiment("processes"), out=tmp_path_factory.mktemp("expected")).folder.root)


def ray_processes():
    """The processes of Ray that this one, or a run of these tests, has started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "polychromic-ray-" in line:
            found.append(process.pid)
    return found


def require_nothing_left(before):
    deadline = time.monotonic() + 30
    while (left := set(ray_processes()) - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
    assert not ray.is_initialized()


@pytest.mark.parametrize("shards", [1, 3])
def test_two_workers_make_what_processes_make(tmp_path, expected, shards):
    before = set(ray_processes())
    made = run(experiment(evaluation_shards=shards), out=tmp_path)
    assert results(made.folder.root) == expected  # no file of a shard is left, too
    assert len(expected) == 8
    stages = [
        (row["arm"], row["seed"], row["stage"]) for row in map(json.loads, made.folder.ledger.read_text().splitlines())
    ]
    assert {("coverage", 1, "train"), ("baseline", 0, "evaluate")} <= set(stages)
    require_nothing_left(before)


def test_a_killed_task_goes_on_from_its_checkpoint(tmp_path, expected, monkeypatch):
    killed = []

    def kill_a_worker():
        """Kills the worker that trains the first arm once a checkpoint of it is there."""
        place = tmp_path / "many" / "coverage" / "seed-0" / "checkpoints"
        while not list(place.glob("step-*")):
            time.sleep(0.01)
        for process in psutil.process_iter(["cmdline"]):
            if "ray::_work" in " ".join(process.info["cmdline"] or []):
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)

    watcher = threading.Thread(target=kill_a_worker, daemon=True)
    watcher.start()
    made = run(experiment(), out=tmp_path)
    watcher.join(1)
    assert killed
    assert results(made.folder.root) == expected


def test_a_task_that_is_always_lost_is_one_sentence(tmp_path):
    dies = "class Dies:\n    def train(self, run, on_step=None):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
    (tmp_path / "dies.py").write_text(f"import os, signal\n\n\n{dies}")
    dying = experiment(retries=1).model_dump(mode="json")
    dying["training"]["engine"] = f"{tmp_path / 'dies.py'}:Dies"
    before = set(ray_processes())
    with pytest.raises(TrainingError, match=r"lost more often than run\.ray\.retries allows"):
        run(Experiment.from_mapping(dying), out=tmp_path)
    require_nothing_left(before)


def test_an_error_for_people_arrives_as_it_is(tmp_path):
    (tmp_path / "none.py").write_text("class Trains:\n    def train(self, run, on_step=None):\n        pass\n")
    lazy = experiment().model_dump(mode="json")
    lazy["training"]["engine"] = f"{tmp_path / 'none.py'}:Trains"
    with pytest.raises(TrainingError, match="ended without a finished adapter"):
        run(Experiment.from_mapping(lazy), out=tmp_path)


def test_a_cancelled_run_leaves_nothing_behind_and_goes_on(tmp_path, expected):
    before = set(ray_processes())

    def stop_soon():
        while not list((tmp_path / "many").glob("*/seed-*/metrics.jsonl")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)  # as a spot machine gets it

    stopper = threading.Thread(target=stop_soon, daemon=True)
    stopper.start()
    with pytest.raises(StoppedError):
        run(experiment(), out=tmp_path)
    require_nothing_left(before)
    assert results(run(experiment("local"), out=tmp_path).folder.root) == expected


def test_a_killed_run_leaves_no_process(tmp_path):
    before = set(ray_processes())
    script = (
        "import sys; sys.path.insert(0, 'tests/engine')\n"
        f"from test_ray import experiment, run\nrun(experiment(steps=500), out={str(tmp_path)!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not list((tmp_path / "many").glob("*/seed-*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    require_nothing_left(before)


def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.ray\.address: no cluster answers at 127\.0\.0\.1:1"):
        run(experiment(address="127.0.0.1:1"), out=tmp_path)
