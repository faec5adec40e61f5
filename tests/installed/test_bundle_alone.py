"""A bundle runs in an empty folder with an empty environment, goes on after a kill, and comes home.

`make wheel` runs this: the machine that the bundle is for installs everything from the package index.
"""

import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from polychromic.experiment.bundle.pack import make_bundle
from polychromic.experiment.bundle.returned import fetch
from polychromic.experiment.config import Experiment
from polychromic.experiment.run import as_experiment, compare_and_report
from polychromic.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.network]
ROOT = Path(__file__).parents[2]
# So few prompts are all solved in 16 tries, which a criterion on Pass@16 would be refused for.
SMALL = ["training.steps=30", "training.checkpoint_every=1", "seeds=[0]", "evaluation.num_prompts=4",
         "evaluation.num_samples=16", "run.preflight=false",
         "comparison.minimum=[{metric: pass@1, direction: not_worse, margin: 0.05}]"]  # fmt: skip


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts the bundle's script as on a new machine: it knows a PATH, a home and an interpreter."""
    home = root.parent / "home"
    home.mkdir(exist_ok=True)
    return subprocess.Popen(
        ["bash", str(root / "run.sh"), *arguments],
        cwd="/",
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_a_bundle_runs_alone_goes_on_after_a_kill_and_comes_home(tmp_path):
    experiment = as_experiment(Experiment.from_file(ROOT / "experiments" / "quickstart.yaml", SMALL))
    made = make_bundle(experiment, tmp_path / "here")
    with tarfile.open(made.path) as archive:
        archive.extractall(tmp_path / "there", filter="data")
    root = tmp_path / "there" / "quickstart"
    work = RunFolder(root / "runs" / "quickstart")

    preempted = start(root)
    while not list(work.root.glob("*/seed-0/checkpoints/step-*")):
        assert preempted.poll() is None, preempted.communicate()[0]
        time.sleep(0.1)
    os.killpg(preempted.pid, signal.SIGKILL)
    preempted.communicate()
    installed = (root / ".venv" / ".complete").stat().st_mtime_ns
    assert not list(work.root.glob("*/seed-0/adapter"))

    again = start(root)
    said = again.communicate(timeout=1800)[0]
    assert again.returncode == 0, said
    assert (root / ".venv" / ".complete").stat().st_mtime_ns == installed  # nothing is installed twice
    assert work.report.is_file()

    folder = fetch(experiment, root / "runs" / "quickstart.run.tar.gz", tmp_path / "home-again")
    for arm in ("baseline", "coverage"):
        there, here = work.arm(arm, 0), folder.arm(arm, 0)
        assert here.generations.read_bytes() == there.generations.read_bytes()
        assert len(here.generations.read_text().splitlines()) == len(experiment.evaluation.sampling) * 4 * 16
    compare_and_report(experiment, folder)
    assert folder.report.is_file()
