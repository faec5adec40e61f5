"""The same bits from the same work: with several threads, beside other load, and continued on other threads."""

import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

from polychromic.experiment import jobs, run
from polychromic.experiment.config import Experiment
from polychromic.experiment.preflight import runner
from polychromic.experiment.resuming.continuing import open_run_folder
from polychromic.experiment.resuming.provenance import threads_of_a_job
from polychromic.files import read_json
from polychromic.seeding import deterministic
from polychromic.training.base import ArmRun
from polychromic.training.settings import DiversitySettings, TrainingSettings
from polychromic.training.trainer import ArmTrainer, train_arm


@contextmanager
def threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def busy(seconds=60):
    """Two loops beside the work, as on a machine that others use; they end by themselves too."""
    loop = f"import time\nwhile time.monotonic() < {time.monotonic() + seconds}: pass"
    loops = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(2)]
    try:
        yield
    finally:
        for one in loops:
            one.kill()
            one.wait()


def small_run(folder, tiny_settings):
    from polychromic.tasks.arithmetic import ArithmeticTask

    return ArmRun(
        experiment="threads", arm="arm", seed=0, folder=folder, task=ArithmeticTask(64, 16, 16), model=tiny_settings,
        training=TrainingSettings(
            loss="rl", steps=2, prompts_per_step=4, num_samples=8, max_new_tokens=16, learning_rate=1e-2
        ),
        diversity=DiversitySettings(weight=1.0, set_size=3),
    )  # fmt: skip


def experiment(workers=1, seeds=(0,)):
    return Experiment.from_mapping({
        "name": "threads", "task": {"name": "arithmetic"}, "model": {"source": "polychromic:arithmetic-tiny"},
        "training": {"loss": "rl", "steps": 1, "max_new_tokens": 16},
        "evaluation": {"max_new_tokens": 16}, "arms": {"baseline": {}, "other": {}}, "seeds": list(seeds),
        "run": {"workers": workers, "preflight": False},
    })  # fmt: skip


def gradient_of_repeated_reads():
    """Many answers read the hidden state of their prompt's last token: its gradient is a sum over all of them."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(15, 300, 128, generator=generator, requires_grad=True)
    rows = torch.arange(15).repeat_interleave(400)
    places = torch.randint(0, 300, (6000,), generator=generator)
    places[::25] = 7
    hidden[rows, places].backward(torch.randn(6000, 128, generator=generator))
    assert hidden.grad is not None
    return hidden.grad


def test_the_gradient_of_a_state_that_many_answers_share_is_added_in_one_order():
    """Past bug: two threads added it up in the order in which they came (4 different results of 150 here)."""
    with busy(), deterministic(2):
        first = gradient_of_repeated_reads()
        assert all(torch.equal(gradient_of_repeated_reads(), first) for _ in range(30))


def test_two_threads_beside_other_work_train_the_same_adapter_each_time(tmp_path, tiny_settings):
    """Past bug: three different adapters of six on a busy machine."""
    with busy(), threads(2):
        found = [
            (train_arm(small_run(tmp_path / name, tiny_settings)) / "adapter_model.safetensors").read_bytes()
            for name in ("first", "second")
        ]
    assert found[0] == found[1]


def test_whatever_trains_and_samples_asks_torch_for_one_order(tmp_path, tiny_settings, monkeypatch):
    asked = []
    spied = _spied(ArmTrainer._make, lambda: asked.append(torch.are_deterministic_algorithms_enabled()))
    monkeypatch.setattr(ArmTrainer, "_make", spied)
    train_arm(small_run(tmp_path / "run", tiny_settings))
    assert asked == [True, True]
    seen = []
    for module, name in ((jobs, "_train"), (jobs, "_evaluate")):
        monkeypatch.setattr(module, name, lambda *_: seen.append(_state()))
    jobs.carry_out(jobs.Job(experiment(), "baseline", 0, tmp_path, threads=1), lambda event: None)
    monkeypatch.setattr(runner, "carry_out", lambda *_: seen.append(_state()))
    with threads(2):
        runner.preflight(experiment(workers=2), tmp_path)
        assert _state() == (False, 2)
    assert seen == [(True, 1)] * 3


def _spied(function, spy):
    def spied(*arguments):
        spy()
        return function(*arguments)

    return spied


def _state():
    return torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()


def test_settings_of_the_calling_process_come_back():
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with pytest.raises(KeyError), deterministic(3):
            assert (torch.get_num_threads(), torch.is_deterministic_algorithms_warn_only_enabled()) == (
                3,
                False,
            )
            raise KeyError
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_run_continued_on_other_threads_works_on_those_it_began_with(tmp_path, monkeypatch):
    """Past bug: sums over 30,000 numbers differ between one thread and two, and nothing kept their number."""
    given = []
    monkeypatch.setattr(run, "_run_jobs", lambda experiment, folder, jobs, *_: given.extend(jobs))
    one = experiment(workers=2, seeds=(0, 1))
    folder = open_run_folder(one, tmp_path)
    with threads(6):
        run.do_jobs(one, folder, ("train",))
    with threads(1):
        run.do_jobs(experiment(workers=1, seeds=(0, 1)), folder, ("evaluate",), arms=["other"])
    assert [job.threads for job in given] == [3] * 6
    assert read_json(folder.provenance)["determinism"] == {"threads": 3, "algorithms": "deterministic"}


def test_what_is_named_twice_is_one_job(tmp_path, monkeypatch):
    """Past bug: `train --arm baseline --arm baseline` with two workers trained twice into one folder, side by side."""
    given = []
    monkeypatch.setattr(run, "_run_jobs", lambda experiment, folder, jobs, *_: given.extend(jobs))
    one = experiment(workers=2, seeds=(0, 1))
    run.do_jobs(one, open_run_folder(one, tmp_path), ("train",), arms=["other", "other"], seeds=[1, 0, 1])
    assert [(job.arm, job.seed) for job in given] == [("other", 1), ("other", 0)]


def test_threads_are_shared_by_the_jobs_that_can_run_side_by_side():
    with threads(4):
        found = [threads_of_a_job(experiment(workers, (0, 1))) for workers in (1, 2, 3, 4, 99)]
    assert found == [4, 2, 1, 1, 1]


@pytest.mark.skipif(
    torch.version.cuda is not None and not torch.cuda.is_available(),
    reason="torch for CUDA asks a driver, and finds none",
)
def test_an_operation_without_a_deterministic_version_is_used_and_named(tmp_path, tiny_settings, monkeypatch, caplog):
    """As on CUDA, where torch has none for some operations: training goes on, and what was given up is said."""

    def make(self):
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
        return plain(self)

    plain = ArmTrainer._make
    monkeypatch.setattr(ArmTrainer, "_make", make)
    trainer = ArmTrainer(small_run(tmp_path / "run", tiny_settings))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    trainer.step()
    trainer.step()
    trainer.save_adapter()
    assert [record.message.count("no deterministic version of put_") for record in caplog.records] == [1]
    assert read_json(tmp_path / "run" / "training.json")["nondeterministic_operation"] == "put_"
    monkeypatch.setattr(ArmTrainer, "_make", plain)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    train_arm(small_run(tmp_path / "other", tiny_settings))
    found = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("run", "other")]
    assert found[0] == found[1]
