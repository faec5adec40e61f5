"""A bundle is the same bytes every time and holds no secret; what comes back is used only when every hash agrees."""

import io
import json
import os
import shutil
import subprocess
import tarfile
import time

import pytest
import yaml

from polychromic.errors import ConfigError, DataError
from polychromic.experiment.bundle.archive import SUMS, read_sums
from polychromic.experiment.bundle.contents import constraints, needed_extras, unlocked
from polychromic.experiment.bundle.pack import make_bundle
from polychromic.experiment.bundle.returned import fetch, pack_run
from polychromic.experiment.bundle.secrets import secrets_in
from polychromic.experiment.config import Experiment
from polychromic.experiment.resuming.continuing import working_folder
from polychromic.experiment.resuming.folder import hold
from polychromic.experiment.run import do_jobs
from polychromic.files import sha256_file
from polychromic.run_folder import RunFolder

FILE = """
name: mine
task:
  name: custom
  train: data/train.jsonl
  validation: data/train.jsonl
  test: data/test.jsonl
  checker: code/checks.py:check
model: {source: "polychromic:arithmetic-tiny"}
training: {loss: rl, steps: 1, prompts_per_step: 2, num_samples: 5, max_new_tokens: 4}
arms:
  baseline: {untrained: true}
  other: {untrained: true, model: {gradient_checkpointing: true}}
evaluation: {num_prompts: 2, num_samples: 3, max_new_tokens: 4}
run: {executor: local, preflight: false}
"""


@pytest.fixture
def project(tmp_path):
    """An experiment with data and a checker that imports from beside itself."""
    root = tmp_path / "project"
    for folder in ("data", "code"):
        (root / folder).mkdir(parents=True)
    lines = [json.dumps({"id": str(i), "prompt": f"{i},2=3: "}) for i in range(3)]
    for name in ("train", "test"):
        (root / "data" / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    (root / "code" / "checks.py").write_text(
        "import words\n\n\ndef check(prompt, text):\n    return words.good(text)\n"
    )
    (root / "code" / "words.py").write_text("def ok(text):\n    return 1.0\n")
    (root / "mine.yaml").write_text(FILE)
    return root


def bundled(project, out, *overrides, include=()):
    return make_bundle(Experiment.from_file(project / "mine.yaml", overrides), out, include)


def unpack(path, folder):
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder / "mine"


def test_the_same_experiment_makes_the_same_bytes(project, tmp_path, monkeypatch):
    first = bundled(project, tmp_path / "one")
    for file in project.rglob("*"):
        os.utime(file, (1, 1))
    (project / "code" / "checks.py").chmod(0o600)
    monkeypatch.chdir(project)
    second = bundled(project, tmp_path / "two")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == sha256_file(second.path)
    (project / "data" / "train.jsonl").write_text('{"id": "0", "prompt": "other"}\n')
    assert bundled(project, tmp_path / "three").sha256 != first.sha256


def test_a_bundle_holds_all_that_the_experiment_names(project, tmp_path):
    (project / "notes").mkdir()
    (project / "notes" / "table.csv").write_text("1,2\n")
    made = bundled(project, tmp_path, "training.steps=7", include=[project / "notes"])
    root = unpack(made.path, tmp_path / "there")
    shutil.rmtree(project)
    there = Experiment.from_file(root / "experiment.yaml")
    assert there.training.steps == 7
    assert there.evaluation.max_decode_batch == 256  # defaults are written out
    assert there.task.files["train"] == root / "files" / "data" / "train.jsonl"
    assert list(there.task.code.values()) == [f"{root / 'files' / 'code' / 'checks.py'}:check"]
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert {"files/code/words.py", "files/notes/table.csv", "run.sh", "package/pyproject.toml"} <= files
    assert "package/src/polychromic/experiment/bundle/run.sh" in files
    assert not [name for name in files if "__pycache__" in name]
    sums = read_sums(root / SUMS)
    assert sums == {name: sha256_file(root / name) for name in files - {SUMS}}
    assert len(files) == made.files
    assert os.access(root / "run.sh", os.X_OK)
    assert ":$PWD/files/code" in (root / "run.sh").read_text()
    assert (root / "requirements.txt").read_text() == "./package\n"
    assert "torch==" in (root / "constraints.txt").read_text()


def test_a_file_that_is_not_there_is_named(project, tmp_path):
    (project / "data" / "train.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"train\.jsonl: the experiment names it, and it is not there"):
        bundled(project, tmp_path)


def test_optional_packages_follow_the_settings(project):
    experiment = Experiment.from_file("experiments/qwen3-8b-replies.yaml", ["run.tracking=[wandb]"])
    assert needed_extras(experiment) == ["qlora", "wandb"]
    judged = ["task.checker=math", "task.same_answer={kind: judge, model: m}", "training.engine=trl"]
    assert needed_extras(Experiment.from_file(project / "mine.yaml", judged)) == ["trl", "math", "judge"]
    second = ["task.checker=contains", "task.judge=math"]  # past bug: the machine had nothing to judge by
    assert needed_extras(Experiment.from_file(project / "mine.yaml", second)) == ["math"]
    assert unlocked(["qlora"], constraints()) == []
    assert unlocked(["qlora"], "torch==2.13.0\n") == ["bitsandbytes"]
    assert not [line for line in constraints().splitlines() if "+" in line]


KEYS = {  # put together here, so that this file itself can be bundled
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "an AWS access key": "key: AKIA" + "ABCDEFGHIJKLMNOP",
    "a Hugging Face token": 'token = "hf_' + "a1B2" * 9 + '"',
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "an API key": "OPENAI=sk-proj-" + "a1B2" * 9,
    "a Google API key": "AIza" + "a1B2c" * 7,
    "a Slack token": "xoxb-" + "123456789012-abc",
    "a JSON web token": "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmN",
    "a password in an address": "postgres://me:" + "pa55word@db.example/x",
    "an authorization header": '"Authorization": "Bearer ' + 'abcdefghijkl"',
    "a value of 'wandb_api_key'": "wandb_api_key: " + "0123456789abcdef0123456789abcdef01234567",
    "a value of 'DB_PASSWORD'": "DB_PASSWORD='" + "correct-horse7'",
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_secret_is_refused_with_its_line_and_without_itself(project, tmp_path, kind):
    file = project / "code" / "words.py"
    file.write_text(f"def ok(text):\n    return 1.0\n\n\n# {KEYS[kind]}\n")
    with pytest.raises(ConfigError) as refused:
        bundled(project, tmp_path)
    assert f"{file}:5: {kind}" in str(refused.value)
    assert KEYS[kind][-12:] not in str(refused.value)
    assert not list(tmp_path.glob("*.tar.gz"))


def test_secrets_in_the_settings_and_in_names_are_refused(project, tmp_path):
    with pytest.raises(ConfigError, match=r"the resolved experiment:\d+: a Hugging Face token"):
        bundled(project, tmp_path, "model.chat_template_options={key: hf_" + "a1B2" * 9 + "}")
    (project / "code" / ".env").write_text("A=1\n")
    with pytest.raises(ConfigError, match=r"\.env: a file of secrets by its name"):
        bundled(project, tmp_path, include=[project / "code"])


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.py", 'api_key = os.environ["OPENAI_API_KEY_2"]'),
        ("a.sh", "export HF_TOKEN=$HF_TOKEN_FROM_2"),
        ("a.yaml", "pad_token: <|endoftext1|>"),
        ("a.yaml", "password: hunter"),  # a word, as in an example
        ("a.py", "max_new_tokens = 512"),
        ("a.jsonl", '{"prompt": "My password: correct-horse7 is not a secret"}'),
        ("a.jsonl", '{"prompt": "I asked sk-8 riders"}'),
        ("weights.safetensors", "\0" + KEYS["a GitHub token"]),
    ],
)
def test_what_is_no_secret_passes(name, line):
    assert list(secrets_in(name, line.encode())) == []


def test_the_files_of_this_repository_hold_none():
    from pathlib import Path

    files = [
        *Path("experiments").glob("*.yaml"),
        *Path("data").rglob("*.jsonl"),
        *Path("examples").rglob("*.py"),
    ]
    assert len(files) > 8
    assert [secret for file in files for secret in secrets_in(str(file), file.read_bytes())] == []


STUB = """#!/bin/sh
echo "$PYTHONPATH|$*" >> "$LOG"
case "$*" in *" pack "*) exit 0;; esac
[ -n "${WAITS:-}" ] || exit "${FAILS:-0}"
trap 'echo stopped >> "$LOG"; exit 143' TERM
touch "$LOG.up"
while :; do sleep 0.05; done
"""


def start_script(root, tmp_path, *arguments, **environment):
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    known = {"PATH": os.environ["PATH"], "POLYCHROMIC_PYTHON": str(stub), "LOG": str(tmp_path / "log")}
    command = ["bash", str(root / "run.sh"), *arguments]
    with (tmp_path / "stderr").open("w") as stderr:
        return subprocess.Popen(command, cwd="/", env=known | environment, stderr=stderr)


def test_the_script_runs_and_packs_whatever_happens(project, tmp_path):
    root = unpack(bundled(project, tmp_path).path, tmp_path / "there")
    assert start_script(root, tmp_path, "budget.max_hours=3").wait(300) == 0
    ran, packed = (tmp_path / "log").read_text().splitlines()
    path, _, command = ran.partition("|")
    assert path == f"{root}/package/src:{root}/files/code"
    assert command == f"-m polychromic run experiment.yaml budget.max_hours=3 --out {root}/runs"
    assert packed.endswith(f"-m polychromic pack {root}/runs/mine")
    assert start_script(root, tmp_path, FAILS="7", POLYCHROMIC_OUT="/elsewhere").wait(300) == 7
    assert (tmp_path / "log").read_text().splitlines()[-1].endswith("pack /elsewhere/mine")


def test_the_script_passes_a_preemption_on_and_waits(project, tmp_path):
    root = unpack(bundled(project, tmp_path).path, tmp_path / "there")
    process = start_script(root, tmp_path, WAITS="1")
    while not (tmp_path / "log.up").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(300) == 143
    assert [line.partition("|")[2][:22] for line in (tmp_path / "log").read_text().splitlines()] == [
        "-m polychromic run exp", "", "-m polychromic pack " + str(root)[:2],
    ]  # fmt: skip


def test_the_script_refuses_a_damaged_copy(project, tmp_path):
    root = unpack(bundled(project, tmp_path).path, tmp_path / "there")
    (root / "files" / "data" / "train.jsonl").write_text("{}\n")
    process = start_script(root, tmp_path)
    assert process.wait(300) == 1
    assert "train.jsonl" in (tmp_path / "stderr").read_text()
    assert not (tmp_path / "log").exists()


@pytest.fixture(scope="module")
def away(tmp_path_factory):
    """A run made elsewhere from the same experiment, packed."""
    project = tmp_path_factory.mktemp("away") / "project"
    (project / "data").mkdir(parents=True)
    lines = "".join(json.dumps({"id": str(i), "prompt": f"{i},2=3: "}) + "\n" for i in range(3))
    for name in ("train", "test"):
        (project / "data" / f"{name}.jsonl").write_text(lines)
    (project / "mine.yaml").write_text(FILE.replace("code/checks.py:check", "contains"))
    experiment = Experiment.from_file(project / "mine.yaml")
    with working_folder(experiment, project / "elsewhere") as folder:
        do_jobs(experiment, folder, ("train", "evaluate"))
    checkpoint = folder.root / "other" / "seed-0" / "checkpoints" / "step-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    pack_run(folder.root)
    return project


def members(path):
    with tarfile.open(path) as archive:
        return {member.name: (archive.extractfile(member) or io.BytesIO()).read() for member in archive}


def write_tar(path, contents, *, change=lambda member: None):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            change(member)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_a_run_comes_home_whole(away, tmp_path):
    experiment = Experiment.from_file(away / "mine.yaml")
    packed = away / "elsewhere" / "mine.run.tar.gz"
    assert not [name for name in members(packed) if "checkpoints" in name or name.endswith(".lock")]
    folder = fetch(experiment, packed, tmp_path)
    for file in (away / "elsewhere" / "mine").rglob("generations.jsonl"):
        assert (folder.root / file.relative_to(away / "elsewhere" / "mine")).read_bytes() == file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(ConfigError, match="holds a run already; --fresh"):
        fetch(experiment, packed, tmp_path)
    fetch(experiment, packed, tmp_path, fresh=True)
    there = tmp_path / "elsewhere" / experiment.name
    there.mkdir(parents=True)
    (there / "notes.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.md, which is of no run; --fresh moves it aside"):
        fetch(experiment, packed, there.parent)
    fetch(experiment, packed, there.parent, fresh=True)
    [notes] = there.parent.glob("*/notes.md")
    assert notes.read_text() == "mine"
    assert len(list(tmp_path.glob("mine.before-*"))) == 1


def test_a_run_that_works_is_not_packed(away):
    """Past bug: files that grew between their hashes and the archive were "damaged" at home."""
    root = away / "elsewhere" / "mine"
    before = (away / "elsewhere" / "mine.run.tar.gz").read_bytes()
    with hold(RunFolder(root)), pytest.raises(ConfigError, match=r"mine: process \d+ on \S+ works on this run since"):
        pack_run(root)
    pack_run(root)
    assert (away / "elsewhere" / "mine.run.tar.gz").read_bytes() == before


def test_a_run_comes_home_as_a_folder_and_to_other_paths(away, tmp_path):
    shutil.copytree(away, tmp_path / "home")
    copied = tmp_path / "home" / "elsewhere" / "mine"
    shutil.rmtree(copied / "other" / "seed-0" / "checkpoints")
    for hidden in copied.glob(".*"):
        hidden.unlink()
    experiment = Experiment.from_file(tmp_path / "home" / "mine.yaml")
    folder = fetch(experiment, copied, tmp_path / "runs")
    stated = yaml.safe_load(folder.experiment.read_text())["task"]["train"]
    assert stated == str(tmp_path / "home" / "data" / "train.jsonl")  # of this machine, not of that
    (copied / "ledger.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"ledger\.jsonl is damaged\. Nothing of it was used"):
        fetch(experiment, copied, tmp_path / "again")
    shutil.move(copied / "ledger.jsonl", tmp_path / "ledger.jsonl")
    (copied / "ledger.jsonl").symlink_to(tmp_path / "ledger.jsonl")
    with pytest.raises(DataError, match=r"ledger\.jsonl is a link"):
        fetch(experiment, copied, tmp_path / "again")
    (copied.parent / f"mine.{SUMS}").unlink()
    with pytest.raises(DataError, match="missing; copy it too"):
        fetch(experiment, copied, tmp_path / "again")
    assert not list((tmp_path / "again").iterdir())


def test_a_run_of_another_experiment_is_refused(away, tmp_path):
    packed = away / "elsewhere" / "mine.run.tar.gz"
    with pytest.raises(ConfigError, match=r"other settings \(evaluation.max_new_tokens\)"):
        fetch(Experiment.from_file(away / "mine.yaml", ["evaluation.max_new_tokens=5"]), packed, tmp_path)
    with pytest.raises(DataError, match="expected the run another"):
        fetch(Experiment.from_file(away / "mine.yaml", ["name=another"]), packed, tmp_path)
    other = tmp_path / "other"
    shutil.copytree(away / "data", other / "data")
    (other / "data" / "test.jsonl").write_text('{"id": "0", "prompt": "?"}\n{"id": "1", "prompt": "!"}\n')
    shutil.copy(away / "mine.yaml", other)
    with pytest.raises(ConfigError, match="the test prompts"):
        fetch(Experiment.from_file(other / "mine.yaml"), packed, tmp_path)
    assert not (tmp_path / "mine").exists()


LEDGER = "mine/ledger.jsonl"


def changed(contents, name, content):
    return {**contents, name: content}


HOSTILE = {
    "a flipped byte": (lambda c: changed(c, LEDGER, b"x" + c[LEDGER]), "ledger.jsonl is damaged"),
    "a missing file": (lambda c: {k: v for k, v in c.items() if k != LEDGER}, "ledger.jsonl is missing"),
    "a file more": (lambda c: changed(c, "mine/new.py", b"1"), "new.py is not named in SHA256SUMS"),
    "no sums": (lambda c: {k: v for k, v in c.items() if k != SUMS}, "expected the run mine"),
    "a second folder": (lambda c: changed(c, "evil/a", b""), "expected the run mine"),
    "a way out": (lambda c: changed(c, "mine/../../evil", b""), "names a place outside"),
    "an absolute name": (lambda c: changed(c, "/tmp/evil-of-polychromic", b""), "names a place outside"),
    "a backslash": (lambda c: changed(c, "mine\\..\\evil", b""), "names a place outside"),
    "sums that lead out": (lambda c: changed(c, SUMS, b"0" * 64 + b"  ../evil\n"), "expected the SHA-256 and the name"),
    "sums that are none": (lambda c: changed(c, SUMS, b"fine\n"), "expected the SHA-256 and the name"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_that_was_changed_is_refused(away, tmp_path, kind):
    change, said = HOSTILE[kind]
    packed = write_tar(tmp_path / "back.tar.gz", change(members(away / "elsewhere" / "mine.run.tar.gz")))
    with pytest.raises(DataError, match=said):
        fetch(Experiment.from_file(away / "mine.yaml"), packed, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(away, tmp_path, kind):
    def change(member):
        if member.name == LEDGER:
            member.type, member.linkname, member.size = kind, "/etc/passwd", 0

    contents = members(away / "elsewhere" / "mine.run.tar.gz")
    packed = write_tar(tmp_path / "back.tar.gz", contents, change=change)
    with pytest.raises(DataError, match="link or a device"):
        fetch(Experiment.from_file(away / "mine.yaml"), packed, tmp_path / "out")


def test_an_archive_cut_short_is_refused(away, tmp_path):
    whole = (away / "elsewhere" / "mine.run.tar.gz").read_bytes()
    for end in (0, 10, len(whole) // 2):
        (tmp_path / "cut.tar.gz").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"no whole \.tar\.gz|expected the run mine"):
            fetch(Experiment.from_file(away / "mine.yaml"), tmp_path / "cut.tar.gz", tmp_path / "out")
