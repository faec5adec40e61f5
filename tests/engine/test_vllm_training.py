"""Training with vLLM: the reward curve of `local`, a killed run, and a whole experiment by its command."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from engine_setup import IN_PROCESS, OPTIONS, TINY, rewards_of, run_of, trained
from scipy import stats

pytest.importorskip("vllm")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("default"),  # vLLM's and its dependencies' own
]

from polychromic.errors import EngineError  # noqa: E402
from polychromic.files import read_json, read_jsonl  # noqa: E402
from polychromic.sampling.base import SamplerSettings, close_engines  # noqa: E402
from polychromic.tasks.arithmetic import ArithmeticTask  # noqa: E402
from polychromic.training.trainer import ArmTrainer  # noqa: E402

SEEDS, STEPS = 6, 10
MARGIN = 0.05
"""How far the mean reward of two engines' runs may lie apart; ten steps move it by about 0.13."""
MEMORY = Path("/dev/shm")


def curves_of(folder, sampling):
    """Rewards [seeds, steps] of training on eight problems over and over, 128 answers a step, and all metrics."""
    runs = [
        dataclasses.replace(
            run_of(folder / str(seed), sampling, seed, steps=STEPS, num_samples=16, max_new_tokens=20),
            task=ArithmeticTask(train_problems=8),
        )
        for seed in range(SEEDS)
    ]
    rows = [trained(run) for run in runs]
    return np.array([rewards_of(each) for each in rows]), [row for each in rows for row in each]


def test_ten_steps_have_the_reward_curve_of_the_local_sampler(tmp_path):
    """Both learn; the means of runs are equivalent (two one-sided t tests at 2.5 %); no step lies outside its noise.

    The last is the largest of ten t statistics, each with a variance of both engines' seeds pooled over steps: chance
    of a false alarm 0.001. A curve that stayed flat would lie 0.07 below in the mean.
    """
    local, _ = curves_of(tmp_path / "local", SamplerSettings())
    corrected = SamplerSettings(engine="vllm", options=OPTIONS, importance_correction="truncated")
    vllm, metrics = curves_of(tmp_path / "vllm", corrected)
    for name, curve in (("local", local), ("vllm", vllm)):
        print(f"\n{name}: {curve.mean(axis=0).round(3).tolist()}, runs' means {curve.mean(axis=1).round(3).tolist()}")
        assert curve[:, -3:].mean() - curve[:, :3].mean() > MARGIN, name

    means = {"vllm": vllm.mean(axis=1), "local": local.mean(axis=1)}
    interval = stats.ttest_ind(means["vllm"], means["local"]).confidence_interval(0.95)
    print(f"vllm - local: 95 % interval {interval.low:.4f} to {interval.high:.4f}")
    assert -MARGIN < interval.low < interval.high < MARGIN

    variance = (local.var(axis=0, ddof=1) + vllm.var(axis=0, ddof=1)).mean() / SEEDS
    t = (vllm - local).mean(axis=0) / math.sqrt(variance)
    print(f"largest of {STEPS} |t|: {np.abs(t).max():.2f}")
    assert np.abs(t).max() < stats.t.ppf(1 - 0.001 / (2 * STEPS), 2 * (SEEDS - 1) * STEPS)

    assert len(metrics) == SEEDS * STEPS
    assert max(row["train/sampler_mismatch"] for row in metrics) < 1e-4
    assert max(abs(row["train/importance_weight"] - 1) for row in metrics) < 1e-3
    assert max(row["train/importance_truncated"] for row in metrics) == 0.0
    assert max(row["engine/probe_mismatch"] for row in metrics) < 1e-4
    close_engines()


def test_vllm_that_is_killed_in_process_stops_the_run_with_a_checkpoint(tmp_path):
    """As where memory runs out; the same command continues, with the numbers of an undisturbed run."""
    rows = trained(run_of(tmp_path / "quiet", IN_PROCESS, steps=3))
    run = run_of(tmp_path / "killed", IN_PROCESS, steps=3, checkpoint_every=100)
    trainer = ArmTrainer(run)
    trainer.step()
    trainer.step()
    started = psutil.Process().children(recursive=True)
    own = [child for child in started if os.getsid(child.pid) == os.getsid(0)]  # a `vllm serve` has another session
    engine = [child for child in own if child.name().startswith("VLLM")]
    assert engine
    for process in engine:
        process.kill()
    # Where vLLM tells of the end before its process is gone, it is an error of its.
    with pytest.raises(EngineError, match=r"vLLM('s process has ended while it sampled| failed while sampling)"):
        trainer.step()
    close_engines()
    assert [folder.name for folder in (run.folder / "checkpoints").iterdir()] == ["step-000002"]
    trained(run)
    again = read_jsonl(run.folder / "metrics.jsonl")
    assert rewards_of(again) == pytest.approx(rewards_of(rows), rel=1e-4)
    close_engines()


def experiment(folder, sampling, **sections):
    content = {
        "name": "engines",
        "seeds": [0],
        "task": {"name": "arithmetic", "train_problems": 64, "validation_problems": 20, "test_problems": 12},
        "model": TINY.model_dump(mode="json"),
        "sampling": sampling.model_dump(mode="json"),
        "training": {
            "loss": "rl", "steps": 6, "prompts_per_step": 8, "num_samples": 8, "max_new_tokens": 16,
            "learning_rate": 3e-3, "checkpoint_every": 2,
        },
        "evaluation": {
            "num_prompts": 6, "num_samples": 8, "max_new_tokens": 16, "sampling": [{"temperature": 0.8}],
        },
        "diversity": {"objective": "coverage", "set_size": 3},
        "arms": {"baseline": {"training": {"steps": 2}}, "diverse": {"diversity": {"weight": 0.3}}},
        **sections,
    }  # fmt: skip
    path = folder / "engines.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def start(verb, path, out):
    """The command, as a user would give it, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "polychromic", verb, str(path), "--out", str(out)], start_new_session=True
    )


def adapters_in_memory():
    return set(MEMORY.glob("polychromic-adapters-*"))


def group_members(group):
    """Processes of a group that are not zombies."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def metrics_of(out):
    path = out / "engines" / "diverse" / "seed-0" / "metrics.jsonl"
    return read_jsonl(path) if path.exists() else []


@pytest.mark.skipif(not MEMORY.is_dir(), reason="no memory-backed folder here")
def test_a_run_killed_in_the_middle_leaves_nothing_and_continues_with_the_same_numbers(tmp_path):
    """SIGKILL of the command alone: vLLM's process ends by itself, and the next start gives the memory back."""
    path, before = experiment(tmp_path, IN_PROCESS), adapters_in_memory()
    assert start("train", path, tmp_path / "quiet").wait() == 0
    assert not adapters_in_memory() - before  # it may have removed what an earlier kill had left
    before = adapters_in_memory()
    quiet = metrics_of(tmp_path / "quiet")
    assert len(quiet) == 6

    killed = start("train", path, tmp_path / "killed")
    try:
        while len(metrics_of(tmp_path / "killed")) < 3:
            assert killed.poll() is None
            time.sleep(0.02)
        assert len(group_members(killed.pid)) >= 2  # vLLM is a process of its own
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        deadline = time.monotonic() + 60
        while group_members(killed.pid) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert group_members(killed.pid) == []
    finally:
        for pid in group_members(killed.pid):
            os.kill(pid, signal.SIGKILL)
    assert len(adapters_in_memory() - before) == 1  # nothing runs on SIGKILL
    assert start("train", path, tmp_path / "killed").wait() == 0
    assert adapters_in_memory() == before
    again = metrics_of(tmp_path / "killed")
    for name in ("train/reward", "train/diversity_score", "train/gradient_norm"):
        assert [row[name] for row in again] == pytest.approx([row[name] for row in quiet], rel=1e-4), name


def test_a_whole_experiment_is_sampled_by_a_server(server, tmp_path):
    """Preflight, two arms, evaluation of both and the report; every generation was asked of the server."""
    sampling = SamplerSettings(engine="vllm", url=server.url)
    path = experiment(
        tmp_path,
        sampling,
        evaluation={
            "num_prompts": 6,
            "num_samples": 8,
            "max_new_tokens": 16,
            "sampling": [{"temperature": 0.8}],
        },
        comparison={
            "baseline": "baseline",
            "minimum": [{"metric": "distinct_correct", "direction": "higher", "relative_change": 0.2}],
        },
    )
    asked = server.answered()
    assert start("run", path, tmp_path / "runs").wait() == 0
    folder = tmp_path / "runs" / "engines"
    for arm in ("baseline", "diverse"):
        rows = read_jsonl(folder / arm / "seed-0" / "generations.jsonl")
        assert len(rows) == 6 * 8
        assert (folder / arm / "seed-0" / "adapter" / "adapter_model.safetensors").is_file()
    assert (folder / "report.html").is_file()
    assert read_json(folder / "comparison.json")
    # At least a request for each prompt of each training step and of each evaluation.
    assert server.answered() - asked >= (2 + 6) * 8 + 2 * 6
