"""A system that refuses: full and read-only disks, things in the way, few open files, numbers nobody can hold."""

import errno
import os
import resource
import shutil
import subprocess
import sys

import pytest
from tests.attack.damage import EXPERIMENT, SMALL
from tests.command import command
from tests.faults.test_faults import small_disk

from polychromic.errors import ConfigError, PolychromicError, in_words
from polychromic.experiment.progress.watch import page_server

LONG = "9" * 401


def refused(*arguments):
    ending = command(*arguments)
    assert not ending.crash, ending.crash
    assert ending.code == 1
    assert ending.errors.startswith("error: ")
    return ending.errors


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk takes root")
def test_report_and_diagnose_on_a_read_only_disk(whole, tmp_path):
    """Past bug: tracebacks. A diagnosis is shown even where it cannot be written down."""
    with small_disk(tmp_path / "disk", "size=50m"):
        root = shutil.copytree(whole, tmp_path / "disk" / "quickstart")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        assert f"{root}: cannot be written: Read-only file system" in refused("report", str(root))
        ending = command("diagnose", str(root))
        assert "coverage" in ending.output
        assert f"{root}: cannot be written: Read-only file system" in ending.errors
        assert command("cost", str(root)).code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk takes root")
@pytest.mark.parametrize("verb", ["report", "diagnose"])
def test_report_and_diagnose_on_a_full_disk(whole, tmp_path, verb):
    with small_disk(tmp_path / "disk", "size=20m"):
        root = shutil.copytree(whole, tmp_path / "disk" / "quickstart")
        with pytest.raises(OSError, match="No space left"), (tmp_path / "disk" / "filler").open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        message = refused(verb, str(root))
        assert f"{root}: cannot be written: No space left on device" in message
        assert "run again to continue" in message


def test_a_limit_on_the_size_of_files_is_a_full_disk(root):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        assert "cannot be written: File too large" in refused("report", str(root))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("obstacle", ["a file", "a dangling link", "a file of the run's name"])
def test_what_stands_where_runs_should_is_named(tmp_path, obstacle):
    out = tmp_path / "out"
    if obstacle == "a file":
        out.touch()
    elif obstacle == "a dangling link":
        out.symlink_to("/nowhere/at/all")
    else:
        out.mkdir()
        (out / "quickstart").touch()
    message = refused("evaluate", EXPERIMENT, *SMALL, "--out", str(out))
    assert str(out) in message
    assert "move it away" in message or "--out" in message


@pytest.mark.parametrize("kind", ["a link", "a folder"])
def test_a_lock_that_is_none_is_named(root, tmp_path, kind):
    (root / ".lock").unlink(missing_ok=True)
    if kind == "a link":
        (root / ".lock").symlink_to(tmp_path / "elsewhere")
    else:
        (root / ".lock").mkdir()
    message = refused("report", str(root))
    assert str(root) in message
    assert not (tmp_path / "elsewhere").exists()


def test_init_into_a_missing_folder_is_a_sentence(tmp_path):
    """Past bug: a traceback."""
    assert str(tmp_path / "new" / "x.yaml") in refused("init", str(tmp_path / "new" / "x.yaml"))


@pytest.mark.parametrize("port", [99999, -1])
def test_a_port_that_is_none_is_refused(root, port):
    """Past bug: OverflowError."""
    ending = command("report", str(root), "--watch", "--port", str(port))
    assert not ending.crash
    assert ending.code != 0
    with pytest.raises(ConfigError, match=f"--port {port}: expected a number from 0 to 65535"):
        page_server(root, port)


@pytest.mark.parametrize("override", ["training.steps", "training.learning_rate", "seeds", "task.seed"])
def test_numbers_of_401_digits_are_refused(tmp_path, override):
    """Past bug: OverflowError hours later, or at once."""
    value = f"[{LONG}]" if override == "seeds" else LONG
    message = refused("evaluate", EXPERIMENT, f"{override}={value}", "--out", str(tmp_path))
    assert override.rpartition(".")[2] in message
    assert "a number of 401 digits" in message


@pytest.mark.parametrize("verb", ["cost", "diagnose"])
def test_few_open_files_are_enough_or_are_said(root, verb):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))"
    code = f"{limit}; from polychromic.cli import main; main()"
    child = subprocess.run([sys.executable, "-c", code, verb, str(root)], capture_output=True, text=True, check=False)
    assert "Traceback" not in child.stderr
    assert child.returncode == 0 or "ulimit -n" in child.stderr


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"root: cannot be written: No space left .* free the disk .* run again to continue"),
        (errno.EMFILE, r"Too many open files: raise the limit .*ulimit -n 4096"),
        (errno.EISDIR, r"root/x\.json: Is a directory: .* move it away"),
        (errno.ENETDOWN, r"root/x\.json: Network is down; fix that"),
    ],
)
def test_errors_of_the_system_have_a_way_on(number, said, tmp_path):
    with pytest.raises(PolychromicError, match=said), in_words(tmp_path / "root"):
        raise OSError(number, "said by the system", str(tmp_path / "root" / ".x.json.ab12cd34"))
