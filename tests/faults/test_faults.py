"""What may happen to a run on a rented machine: kills, a full disk, torn and missing files."""

import os
import subprocess
import sys

import pytest
from tests.faults.storm import SMALL, artefacts, start, storm

KILLS = int(os.environ.get("KILLS", "3"))


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_runs_end_like_untouched_ones(tmp_path, workers):
    tally = storm(KILLS, seed=workers, workers=workers, folder=tmp_path)
    assert str(tally) == f"killed {tally.kills}, identical {tally.kills}, lost 0"
    assert tally.kills >= KILLS


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    finish(out)
    return out


def finish(out):
    process = start(out, workers=1)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


def copy(whole, tmp_path):
    subprocess.run(["cp", "-r", f"{whole}/quickstart", str(tmp_path)], check=True)
    return tmp_path / "quickstart"


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_damaged_adapter_is_made_again(whole, tmp_path, damage):
    root = copy(whole, tmp_path)
    weights = root / "coverage" / "seed-1" / "adapter" / "adapter_model.safetensors"
    if damage == "removed":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-100])
    assert "missing or damaged; it is made again" in finish(tmp_path)
    assert artefacts(root) == artefacts(whole / "quickstart")


def test_a_torn_last_line_is_written_again(whole, tmp_path):
    root = copy(whole, tmp_path)
    generations = root / "baseline" / "seed-0" / "generations.jsonl"
    generations.write_bytes(generations.read_bytes()[:-40])
    finish(tmp_path)
    assert artefacts(root) == artefacts(whole / "quickstart")


def test_a_checkpoint_cut_short_is_passed_over(whole, tmp_path):
    root = copy(whole, tmp_path)
    job = root / "baseline" / "seed-1"
    subprocess.run(["rm", "-r", str(job / "adapter"), str(job / "generations.jsonl")], check=True)
    newest = sorted((job / "checkpoints").iterdir())[-1] / "weights.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert "taking the checkpoint before it" in finish(tmp_path)
    assert artefacts(root) == artefacts(whole / "quickstart")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_full_disk_is_said_and_nothing_is_lost(whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no tmpfs here: {mount.stderr.decode().strip()}")
    try:
        process = start(disk, workers=1)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 1, errors
        assert "No space left on device" in errors
        assert "run again to continue" in errors
        assert "Traceback" not in errors
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        finish(disk)
        assert artefacts(disk / "quickstart") == artefacts(whole / "quickstart")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    command = [
        sys.executable,
        "-m",
        "polychromic",
        "run",
        "experiments/quickstart.yaml",
        *SMALL,
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "cannot be written: Permission denied" in done.stderr
