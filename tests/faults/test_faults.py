"""Does to a run what may happen on a rented machine: kills, a full disk, torn and missing files."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest
from tests.faults.storm import PATIENCE, WORKERS, artefacts, cut_short, leftovers, start, storm, whole_run


def test_a_run_cut_short_twice_ends_like_an_untouched_one(untouched_run, tmp_path):
    """Killed once in training and once in sampling; `make faults` kills at random."""
    root = tmp_path / "quickstart"
    for landmark in ("baseline/seed-0/checkpoints/step-000002", "coverage/seed-0/generations.jsonl"):
        process = start(tmp_path, WORKERS)
        while not (root / landmark).exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        cut_short(process, signal.SIGKILL, tmp_path)
        assert not (root / "comparison.json").exists()
    finish(tmp_path)
    assert artefacts(root) == artefacts(untouched_run)
    assert not leftovers(tmp_path)


@pytest.mark.slow
def test_killed_runs_of_one_process_end_like_untouched_ones(tmp_path):
    tally = storm(1, seed=1, workers=1, folder=tmp_path, whole=whole_run(tmp_path / "whole", workers=1))
    assert str(tally) == f"killed {tally.kills}, identical {tally.kills}, lost 0"
    assert tally.kills >= 1


def finish(out):
    process = start(out, WORKERS)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return errors


def refused(out):
    process = start(out, WORKERS)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    return errors


def test_damage_is_said_and_made_good(untouched_run, tmp_path):
    """At once: an adapter removed, a torn last line, and the newest checkpoint of an unfinished arm cut short."""
    root = shutil.copytree(untouched_run, tmp_path / "quickstart")
    (root / "coverage" / "seed-1" / "adapter" / "adapter_model.safetensors").unlink()
    generations = root / "baseline" / "seed-0" / "generations.jsonl"
    generations.write_bytes(generations.read_bytes()[:-40])
    unfinished = root / "baseline" / "seed-1"
    shutil.rmtree(unfinished / "adapter")
    (unfinished / "generations.jsonl").unlink()
    newest = sorted((unfinished / "checkpoints").iterdir())[-1] / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    errors = finish(tmp_path)
    assert "coverage/seed-1/adapter/adapter_model.safetensors: missing or damaged; it is made again" in errors
    assert f"{newest}: damaged" in errors
    assert "taking the checkpoint before it" in errors
    assert artefacts(root) == artefacts(untouched_run)


def test_a_second_process_is_refused(tmp_path):
    first = start(tmp_path, WORKERS)
    try:
        owner = tmp_path / "quickstart" / ".owner.json"
        while not owner.exists():
            assert first.poll() is None
            time.sleep(0.05)
        assert f"process {first.pid} on {socket.gethostname()} works on this run since" in refused(tmp_path)
    finally:
        first.kill()
        first.communicate()


@contextmanager
def small_disk(folder, options):
    """A disk of its own; skips where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mount = subprocess.run(command, capture_output=True, check=False)
    if mount.returncode:
        pytest.skip(f"no tmpfs here: {mount.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
@pytest.mark.parametrize("size", ["3m", "6m", "9m"])
def test_a_full_disk_is_said_and_nothing_is_lost(untouched_run, tmp_path, size):
    disk = tmp_path / "disk"
    with small_disk(disk, f"size={size}"):
        errors = refused(disk)
        assert "No space left on device" in errors
        assert "run again to continue" in errors
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        finish(disk)
        assert artefacts(disk / "quickstart") == artefacts(untouched_run)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a read-only disk takes root")
def test_a_read_only_disk_is_one_sentence(tmp_path):
    with small_disk(tmp_path / "disk", "ro"):
        assert "no run folder can be made there (Read-only file system)" in refused(tmp_path / "disk")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a read-only disk takes root")
def test_a_run_whose_disk_became_read_only_is_one_sentence(untouched_run, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, "size=200m"):
        shutil.copytree(untouched_run, disk / "quickstart")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        errors = refused(disk)
        assert "quickstart: cannot be written: " in errors
        assert "run again to continue" in errors


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    assert "no run folder can be made there (Permission denied)" in refused(tmp_path)
