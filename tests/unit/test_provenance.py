"""provenance.json names everything that the numbers came from."""

import subprocess

from polychromic.experiment.config import Experiment
from polychromic.experiment.provenance import differing_versions, provenance
from polychromic.files import sha256_file
from polychromic.models.sources import resolve_source


def experiment():
    return Experiment.from_mapping({
        "name": "origin", "task": {"name": "arithmetic"}, "model": {"source": "polychromic:arithmetic-tiny"},
        "training": {"signal": "reward", "steps": 1}, "arms": {"baseline": {}, "other": {}}, "seeds": [3, 5],
    })  # fmt: skip


def test_weights_versions_commit_and_uncommitted_work_are_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("init -q", "config user.email a@b.c", "config user.name n"):
        subprocess.run(["git", *command.split()], check=True)
    (tmp_path / "file").write_text("before\n")
    subprocess.run(["git", "add", "file"], check=True)
    subprocess.run(["git", "commit", "-q", "-m", "one"], check=True)
    (tmp_path / "file").write_text("after\n")

    record = provenance(experiment())

    weights = resolve_source("polychromic:arithmetic-tiny") / "model.safetensors"
    assert record["models"]["polychromic:arithmetic-tiny"]["sha256"] == {
        "model.safetensors": sha256_file(weights)
    }
    assert len(record["commit"]) == 40
    assert "-before\n+after" in record["uncommitted_diff"]
    assert record["seeds"] == [3, 5]
    assert set(record["packages"]) >= {"torch", "transformers", "peft", "numpy"}


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = provenance(experiment())
    assert record["commit"] is None
    assert record["uncommitted_diff"] == ""


def test_versions_that_changed_between_starts_are_named():
    assert differing_versions({"packages": {"torch": "2.11"}}, {"packages": {"torch": "2.13"}}) == [
        "torch 2.11 → 2.13"
    ]
