"""provenance.json names everything that the numbers came from."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

import polychromic
from polychromic.experiment.config import Experiment
from polychromic.experiment.resuming import inputs
from polychromic.experiment.resuming import provenance as module
from polychromic.experiment.resuming.inputs import record_inputs
from polychromic.experiment.resuming.provenance import differing_versions, provenance
from polychromic.files import sha256_file
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import resolve_source


def experiment():
    return Experiment.from_mapping({
        "name": "origin", "task": {"name": "arithmetic"}, "model": {"source": "polychromic:arithmetic-tiny"},
        "training": {"loss": "rl", "steps": 1}, "arms": {"baseline": {}, "other": {}}, "seeds": [3, 5],
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
    found = record["models"]["polychromic:arithmetic-tiny"]["sha256"]
    assert found["model.safetensors"] == sha256_file(weights)
    assert {"config.json", "tokenizer.json"} < set(found)
    assert len(record["commit"]) == 40
    assert record["uncommitted_changes"] == "M file"
    assert len(record["uncommitted_diff_sha256"]) == 64
    assert "before" not in json.dumps(record)
    assert "after" not in json.dumps(record)
    assert record["seeds"] == [3, 5]
    assert set(record["packages"]) >= {"torch", "transformers", "peft", "numpy"}


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = provenance(experiment())
    assert record["commit"] is None
    assert record["uncommitted_diff_sha256"] is None


def test_the_checkout_that_the_package_runs_from_is_recorded_wherever_the_run_was_started(tmp_path, monkeypatch):
    """Past bug: only the repository around the current folder was, which need not be that of the code."""
    monkeypatch.chdir(tmp_path)
    package = Path(polychromic.__file__).parent
    head = subprocess.run(["git", "-C", str(package), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    source = provenance(experiment())["polychromic_source"]
    assert (source and source["commit"]) == (head.stdout.strip() or None)


def test_an_installed_copy_inside_somebodys_repository_is_not_of_its_commit(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    copy = tmp_path / "site-packages" / "polychromic" / "experiment"
    copy.mkdir(parents=True)
    (copy.parent / "__init__.py").write_text("")
    monkeypatch.setattr(module, "__file__", str(copy / "provenance.py"))
    assert module._source_worktree() is None


def test_changes_in_another_encoding_are_recorded_as_far_as_they_can_be_read(tmp_path, monkeypatch):
    """Past bug: a changed file in Latin-1 ended the run before it began."""
    monkeypatch.chdir(tmp_path)
    for command in ("init -q", "config user.email a@b.c", "config user.name n"):
        subprocess.run(["git", *command.split()], check=True)
    (tmp_path / "file").write_bytes(b"before\n")
    subprocess.run(["git", "add", "file"], check=True)
    subprocess.run(["git", "commit", "-q", "-m", "one"], check=True)
    (tmp_path / "file").write_bytes(b"caf\xe9\n")
    assert len(provenance(experiment())["uncommitted_diff_sha256"]) == 64


@pytest.fixture
def hostile_repository(tmp_path):
    """A repository whose every setting that git would run at a question leaves a file behind."""
    repository = tmp_path / "repository"
    marks = tmp_path / "marks"
    marks.mkdir()

    def git(*arguments):
        subprocess.run(["git", "-C", str(repository), *arguments], check=True)

    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    git("config", "user.email", "a@b.c")
    git("config", "user.name", "n")
    (repository / "file").write_text("before\n")
    (repository / ".gitattributes").write_text("file filter=evil diff=evil\n")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    commands = {
        name: f"sh -c 'touch {marks}/{name.replace('.', '-')}; cat'"
        for name in ("core.fsmonitor", "diff.external", "diff.evil.textconv", "diff.evil.command",
                     "filter.evil.clean", "filter.evil.smudge", "filter.evil.process")
    }  # fmt: skip
    for name, command in commands.items():
        git("config", name, command)
    git("config", "filter.evil.required", "true")
    hook = repository / ".git" / "hooks" / "post-index-change"
    hook.write_text(f"#!/bin/sh\ntouch {marks}/hook\n")
    hook.chmod(0o755)
    (repository / "file").write_text("after\n")
    return repository, marks


def test_git_is_asked_without_running_what_the_repository_names(hostile_repository, monkeypatch):
    """Past danger: a folder received from a stranger ran its own commands when a run in it was recorded."""
    repository, marks = hostile_repository
    monkeypatch.chdir(repository)
    record = provenance(experiment())
    assert list(marks.iterdir()) == []
    assert record["uncommitted_changes"] == "M file"
    assert len(record["commit"]) == 40


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        (["/bin/polychromic", "run", "e.yaml"], ["/bin/polychromic", "run", "e.yaml"]),
        (["/x/polychromic/__main__.py", "run"], ["/x/polychromic/__main__.py", "run"]),
        (["mine.py", "--token", "s3cret"], ["mine.py"]),
    ],
)
def test_arguments_of_other_scripts_are_not_recorded(argv, kept, monkeypatch):
    monkeypatch.setattr("sys.argv", argv)
    assert module._command() == kept


def test_prompts_that_a_task_makes_are_hashed_too():
    """Past bug: the arithmetic task has no files, and nothing said which problems a run was trained on."""
    hashes = record_inputs(experiment())["prompts_sha256"]
    assert set(hashes) == {"train", "validation", "test"}
    assert len(set(hashes.values())) == 3
    assert record_inputs(experiment())["prompts_sha256"] == hashes
    other = Experiment.from_mapping(experiment().model_dump() | {"task": {"name": "arithmetic", "seed": 1}})
    assert not set(record_inputs(other)["prompts_sha256"].values()) & set(hashes.values())


def test_a_hub_model_is_recorded_by_its_downloaded_commit_and_files(tmp_path, monkeypatch):
    """Past bug: an id without a revision was recorded as just that, and nothing said which weights were meant."""
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / ("c" * 40)
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / digest).write_bytes(content)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").symlink_to(blobs / digest)
    (snapshot / "other.safetensors").write_bytes(b"copied")
    monkeypatch.setattr(inputs, "cached_snapshot", lambda hub_id, revision: snapshot)
    found = inputs._model(ModelSettings(source="owner/name"), {})
    assert (found["revision"], found["commit"]) == (None, "c" * 40)
    assert found["sha256"] == {
        "config.json": hashlib.sha256(b"{}").hexdigest(),
        "model.safetensors": digest,
        "other.safetensors": hashlib.sha256(b"copied").hexdigest(),
    }
    monkeypatch.setattr(inputs, "cached_snapshot", lambda hub_id, revision: None)
    assert inputs._model(ModelSettings(source="owner/name"), {})["sha256"] == {}


def test_the_hubs_own_cache_is_looked_into(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / ("d" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("d" * 40)
    assert inputs.cached_snapshot("owner/name", "main") == snapshot
    assert inputs.cached_snapshot("owner/other", "main") is None


def test_versions_that_changed_between_starts_are_named():
    assert differing_versions({"packages": {"torch": "2.11"}}, {"packages": {"torch": "2.13"}}) == ["torch 2.11 → 2.13"]
