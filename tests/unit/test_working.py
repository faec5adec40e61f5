"""A run folder is held by one process, survives a move, and says in words when it cannot be written."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from polychromic import stopping
from polychromic.errors import ConfigError, PolychromicError, StoppedError, TrainingError
from polychromic.experiment import executors
from polychromic.experiment.config import Experiment
from polychromic.experiment.jobs import Job, JobEvent, carry_out
from polychromic.experiment.preflight import runner
from polychromic.experiment.preflight.results import CheckResult
from polychromic.experiment.resuming.continuing import open_run_folder, working_folder
from polychromic.experiment.resuming.folder import hold, read_resolved
from polychromic.experiment.resuming.provenance import provenance
from polychromic.files import write_json
from polychromic.run_folder import RunFolder

HOLDER = """
import sys, time
from pathlib import Path
from polychromic.run_folder import RunFolder
from polychromic.experiment.jobs import Job
from polychromic.experiment.resuming.folder import hold
with hold(RunFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(600)
"""


def experiment(folder, name="held"):
    for split in ("train", "validation", "test"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.jsonl").write_text(json.dumps({"id": split, "prompt": split, "references": ["r"]}) + "\n")
    (folder / "mine.py").write_text("def check(prompt, text):\n    return 1.0\n")
    content = {
        "name": name, "model": {"source": "polychromic:arithmetic-tiny"},
        "task": {"name": "custom", "checker": "mine.py:check",
                 **{split: f"{split}.jsonl" for split in ("train", "validation", "test")}},
        "training": {"loss": "rl", "steps": 1}, "arms": {"baseline": {}, "other": {}},
    }  # fmt: skip
    (folder / "experiment.yaml").write_text(json.dumps(content))
    return Experiment.from_file(folder / "experiment.yaml")


def test_a_second_process_is_refused_and_a_dead_owner_is_not_waited_for(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder.root)], stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"held\n"
        with (
            pytest.raises(ConfigError, match=rf"process {owner.pid} on \S+ works on this run since"),
            hold(folder),
        ):
            pass
        owner.send_signal(signal.SIGKILL)
    with hold(folder):
        assert json.loads(folder.owner.read_text())["pid"] == os.getpid()
    assert not folder.owner.exists()


@pytest.mark.parametrize("left", [{"pid": os.getppid(), "host": "elsewhere", "started": "then"}, {"pid": 1}, []])
def test_what_a_dead_owner_left_written_holds_nothing(tmp_path, left):
    """Its process id may belong to a living process by now, or to one of another machine."""
    folder = RunFolder(tmp_path / "run")
    write_json(folder.owner, left)
    with hold(folder):
        assert json.loads(folder.owner.read_text())["pid"] == os.getpid()
        write_json(folder.owner, left)
        with pytest.raises(ConfigError, match="works on this run"), hold(folder):
            pass


def test_a_project_that_moved_continues_its_run(tmp_path):
    before, after = experiment(tmp_path / "here"), experiment(tmp_path / "there")
    folder = open_run_folder(before, tmp_path / "runs")
    folder.arm("baseline", 0).root.mkdir(parents=True)
    write_json(folder.provenance, provenance(before))
    assert open_run_folder(after, tmp_path / "runs") == folder
    (tmp_path / "there" / "train.jsonl").write_text('{"prompt": "another"}\n')
    with pytest.raises(ConfigError, match=r"the train prompts \(.*there/train.jsonl\)"):
        open_run_folder(after, tmp_path / "runs")


def test_a_start_that_did_no_work_holds_nobody_to_its_settings(tmp_path):
    """A mistyped path once asked for --fresh when it was corrected."""
    mistyped, corrected = experiment(tmp_path / "here"), experiment(tmp_path / "there")
    folder = open_run_folder(mistyped, tmp_path / "runs")
    write_json(folder.provenance, {"data_sha256": {}})
    assert open_run_folder(corrected, tmp_path / "runs") == folder
    assert read_resolved(folder.experiment)["task"]["train"] == corrected.task.train
    assert not folder.provenance.exists()


def test_a_run_goes_on_under_a_version_that_knows_more_keys(tmp_path):
    one = experiment(tmp_path / "here")
    folder = open_run_folder(one, tmp_path / "runs")
    folder.arm("baseline", 0).root.mkdir(parents=True)
    older = read_resolved(folder.experiment)
    del older["training"]["truncation_reward"], older["task"]["checker_seconds"]
    folder.experiment.write_text(json.dumps(older))
    assert open_run_folder(one, tmp_path / "runs") == folder
    older["training"]["steps"] = 9
    folder.experiment.write_text(json.dumps(older))
    with pytest.raises(ConfigError, match=r"other settings \(training.steps\)"):
        open_run_folder(one, tmp_path / "runs")


def test_fresh_empties_the_folder_but_keeps_its_lock(tmp_path):
    one = experiment(tmp_path / "here")
    with working_folder(one, tmp_path / "runs") as folder:
        folder.arm("baseline", 0).root.mkdir(parents=True)
        (folder.root / "report.html").write_text("old")
        with (
            pytest.raises(ConfigError, match="works on this run"),
            working_folder(one, tmp_path / "runs", fresh=True),
        ):
            pass
        assert (folder.root / "report.html").exists()
    with working_folder(one, tmp_path / "runs", fresh=True) as folder:
        assert {path.name for path in folder.root.iterdir()} == {".lock", ".owner.json", "experiment.yaml"}


FRESH_HOLDER = """
import sys, time
from pathlib import Path
from polychromic.experiment.config import Experiment
from polychromic.experiment.resuming.continuing import working_folder
experiment = Experiment.from_file(sys.argv[1])
with working_folder(experiment, Path(sys.argv[2]), fresh=True):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("fresh", [False, True])
def test_a_process_that_started_fresh_holds_the_folder_against_another(tmp_path, fresh):
    """Past bug: --fresh deleted the lock that it held, and a second process worked beside it."""
    one = experiment(tmp_path / "here")
    command = [sys.executable, "-c", FRESH_HOLDER, str(tmp_path / "here" / "experiment.yaml")]
    with subprocess.Popen([*command, str(tmp_path / "runs")], stdout=subprocess.PIPE) as owner:
        try:
            assert owner.stdout.readline() == b"held\n"
            with (
                pytest.raises(ConfigError, match=rf"process {owner.pid} on \S+ works on this run since"),
                working_folder(one, tmp_path / "runs", fresh=fresh),
            ):
                pass
        finally:
            owner.kill()


def test_trained_arms_without_their_recorded_settings_belong_to_nobody(tmp_path):
    """Past bug: a run whose experiment.yaml was lost gave its adapters to whatever settings came next."""
    one = experiment(tmp_path / "here")
    folder = open_run_folder(one, tmp_path / "runs")
    (folder.arm("baseline", 0).root / "checkpoints").mkdir(parents=True)
    folder.experiment.unlink()
    with pytest.raises(ConfigError, match=r"trained arms, but its experiment.yaml is lost.*--fresh"):
        open_run_folder(one, tmp_path / "runs")


def test_a_full_disk_is_one_sentence(tmp_path):
    with (
        pytest.raises(PolychromicError, match=r"held: cannot be written: No space left on device.*run again"),
        working_folder(experiment(tmp_path / "here"), tmp_path / "runs"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_cannot_be_written_beside_the_run_folder_is_named_itself(tmp_path):
    """Past bug: of a cache in a home without room the run folder was said to be full, and --out to help."""
    elsewhere = str(tmp_path / "home" / "cache.sqlite")
    with (
        pytest.raises(PolychromicError, match=rf"^{elsewhere}: cannot be written: No space left on device") as caught,
        working_folder(experiment(tmp_path / "here"), tmp_path / "runs"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), elsewhere)
    assert "--out" not in str(caught.value)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_is_a_wish_and_the_block_ends_it(number, code):
    before = signal.getsignal(number)
    with stopping.listening():
        stopping.stop_if_requested("nothing yet")
        signal.raise_signal(number)
        time.sleep(0)
        with pytest.raises(StoppedError, match="7 steps are kept; run the same command again") as caught:
            stopping.stop_if_requested("7 steps are kept")
        assert caught.value.exit_code == code
    assert signal.getsignal(number) == before
    assert not stopping.requested()


def test_a_second_signal_ends_the_process_at_once():
    script = (
        "import time\nfrom polychromic import stopping\nstopping.listen()\nprint('on', flush=True)\n"
        "time.sleep(60)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == -signal.SIGTERM


def test_a_stop_while_nothing_has_begun_loads_no_model(tmp_path):
    """Past bug: SIGTERM in preflight was heard after the first training step, when its grace had long passed."""
    one = experiment(tmp_path / "here")
    begun = []
    with stopping.listening():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StoppedError, match="what was done before baseline/seed-0 train is kept"):
            carry_out(Job(one, "baseline", 0, tmp_path / "runs" / "held"), begun.append)
    assert begun == []


def test_a_stop_in_preflight_ends_after_the_check(tmp_path, monkeypatch):
    checks = []

    def checked(_probe, after_check, _on_start):
        for number in range(3):
            checks.append(number)
            if number == 1:
                signal.raise_signal(signal.SIGTERM)
            after_check(CheckResult(number, "data", "passed", "fine", "", 0.0, {}))

    monkeypatch.setattr(runner, "_checked", checked)
    folder = RunFolder(tmp_path / "run")
    with stopping.listening(), pytest.raises(StoppedError, match="stopped by SIGTERM") as caught:
        runner.require_preflight(experiment(tmp_path / "here"), folder)
    assert (checks, caught.value.exit_code) == ([0, 1], 143)
    assert not folder.preflight.exists()


def _stopped(job):
    while not stopping.requested():
        time.sleep(0.01)
    stopping.stop_if_requested("7 steps are kept")


def test_workers_stop_for_the_reason_of_their_run(tmp_path, monkeypatch):
    """Past bug: SIGTERM with workers ended with their exit code and "the run's end"."""
    one = experiment(tmp_path / "here")
    jobs = [Job(one, arm, 0, tmp_path / "runs" / "held") for arm in one.arms]
    monkeypatch.setattr(executors, "_work", _stopped)
    with stopping.listening():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StoppedError, match="stopped by SIGTERM; 7 steps are kept; run the same") as caught:
            executors.processes(jobs, 2, lambda event: None, lambda job, rows: None)
    assert caught.value.exit_code == 143


def _killed(job):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_ends_the_run_with_a_sentence(tmp_path, monkeypatch):
    """Past bug: the kernel's memory killer took a worker, and the run ended with a traceback."""
    one = experiment(tmp_path / "here")
    jobs = [Job(one, arm, 0, tmp_path / "runs" / "held") for arm in one.arms]
    # The worker unpickles the function by name, so that this one takes the place of the work.
    monkeypatch.setattr(executors, "_work", _killed)
    with pytest.raises(TrainingError, match=r"a worker process was ended from outside.*run again to continue"):
        executors.processes(jobs, 2, lambda event: None, lambda job, rows: None)


def _talks(job):
    """Says more than a pipe holds, and marks each time that it has; the baseline's job ends after the first."""
    marks = job.root / "marks"
    if job.arm == "baseline":
        while not marks.exists():
            time.sleep(0.01)
        return []
    while not stopping.requested():
        for _ in range(100):
            executors._events.put(JobEvent(job.arm, job.seed, "train", 1, 9, {"x" * 2000: 1.0}))
        with marks.open("a") as file:
            file.write(".")
    return []


def test_a_run_ends_though_its_workers_have_said_more_than_was_read(tmp_path, monkeypatch):
    """Past bug: a worker cannot end before its events are read, and the run that waited for it read no more of them."""
    one = experiment(tmp_path / "here")
    jobs = [Job(one, arm, 0, tmp_path) for arm in one.arms]
    monkeypatch.setattr(executors, "_work", _talks)

    def refuse(_job, _rows):
        before = len((tmp_path / "marks").read_text())
        while len((tmp_path / "marks").read_text()) < before + 2:
            time.sleep(0.01)
        raise ConfigError("no criterion can be met")

    with pytest.raises(ConfigError, match="no criterion can be met"):
        executors.processes(jobs, 2, lambda event: None, refuse)
