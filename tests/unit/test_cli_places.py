"""Commands that are asked to write or to begin, and cannot: one sentence with the cause and the way on."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polychromic.cli import app
from polychromic.errors import BudgetError, ConfigError
from polychromic.experiment.config import Experiment
from polychromic.experiment.preflight import runner
from polychromic.experiment.preflight.runner import require_preflight
from polychromic.experiment.resuming.folder import held_folder
from polychromic.files import append_jsonl
from polychromic.ledger import BudgetSettings
from polychromic.run_folder import RunFolder

QUICKSTART = "experiments/quickstart.yaml"


def refusal(*arguments):
    error = CliRunner().invoke(app, [str(one) for one in arguments]).exception
    assert isinstance(error, ConfigError), repr(error)
    return str(error)


@pytest.mark.parametrize("place", ["file", "file/below", "/proc", "/proc/below"])
def test_a_run_folder_that_cannot_be_is_one_sentence(tmp_path, place):
    (tmp_path / "file").touch()
    for verb in ("run", "train", "evaluate"):
        said = refusal(verb, QUICKSTART, "--out", tmp_path / place)
        assert said.startswith(f"{tmp_path / place}/quickstart: no run folder can be made there (")
        assert said.endswith("name a folder that you may write to with --out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_parent_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="no run folder can be made there"), held_folder(tmp_path / "run"):
        pass


def test_out_below_the_users_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").touch()
    assert refusal("run", QUICKSTART, "--out=~/file").startswith(f"{tmp_path}/file/quickstart: no run folder")


@pytest.mark.parametrize("name", ["missing/experiment.yaml", "link.yaml", "there.yaml"])
def test_init_where_it_cannot_write_is_one_sentence(tmp_path, name):
    (tmp_path / "link.yaml").symlink_to(tmp_path / "nowhere" / "x.yaml")
    (tmp_path / "there.yaml").touch()
    assert str(tmp_path / name) in refusal("init", tmp_path / name)


@pytest.mark.parametrize(("file", "data"), [(None, "my data.jsonl"), ("Fälle.yaml", "d.jsonl"), ("_x.yaml", "d.jsonl")])
def test_init_whose_name_is_no_run_is_one_sentence(tmp_path, monkeypatch, file, data):
    """Past bug: a ValueError with its traceback. Without FILE the name is the data's."""
    monkeypatch.chdir(tmp_path)
    Path(data).write_text("{}\n")
    said = refusal("init", *filter(None, [file]), "--data", data)
    assert said.startswith(f"{file or 'my data.yaml'}: the file's name is the experiment's, expected letters, digits")
    assert said.endswith(f"name another: polychromic init FILE.yaml --data {shlex.quote(data)}")
    assert [path.name for path in tmp_path.iterdir()] == [data]


@pytest.mark.parametrize("option", ["--model Qwen/Qwen3-0.6B", "--minutes 5", "--check checks.py:good"])
def test_init_of_an_example_takes_no_option_of_ones_own_data(tmp_path, option):
    for example in ([], ["--example", "quickstart"]):
        assert f"{option.split()[0]} belongs to --data" in refusal(
            "init", tmp_path / "x.yaml", *option.split(), *example
        )
    assert not (tmp_path / "x.yaml").exists()


def test_a_seed_that_the_file_does_not_have_is_refused(tmp_path):
    said = refusal("train", QUICKSTART, "--seed", 99, "--out", tmp_path)
    assert said == "--seed 99: no such seed; the file has 0, 1, 2 (the override seeds=[...] changes them)"
    assert list(tmp_path.iterdir()) == []


def test_a_script_without_a_main_guard_simply_works(tmp_path):
    """Past bug: workers began by running the script again, and the error blamed memory."""
    script = tmp_path / "script.py"
    script.write_text(
        "from polychromic.processes import open_worker_pool\n"
        "with open_worker_pool(2) as pool:\n"
        "    print(sum(pool.map(abs, [-1, -2, 3])))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("6\n", 0), done.stderr


def capped(**caps):
    return Experiment.from_file(QUICKSTART).model_copy(update={"budget": BudgetSettings(**caps)})


def test_preflight_is_not_begun_with_a_cap_that_is_reached(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    append_jsonl(folder.ledger, [{"arm": "", "seed": None, "stage": "preflight", "seconds": 7200.0, "tokens": 0}])
    monkeypatch.setattr(runner, "preflight", None)
    with pytest.raises(BudgetError, match=r"budget.max_hours = 1 is reached before preflight's first check"):
        require_preflight(capped(max_hours=1.0), folder)


def test_preflight_ends_at_the_cap_that_it_reaches_itself(tmp_path, monkeypatch):
    class Check:
        number, name, status, seconds = 2, "model", "passed", 0.1

    def slow(_probe, after_check, _on_start):
        monkeypatch.setattr(runner.time, "monotonic", lambda: 1e9)
        after_check(Check)

    monkeypatch.setattr(runner, "_checked", slow)
    with pytest.raises(BudgetError, match=r"max_dollars = 3 is reached .* after preflight's check 2, model; nothing"):
        require_preflight(capped(max_dollars=3.0, dollars_per_hour=9.0), RunFolder(tmp_path))
    assert Path(tmp_path, "preflight.json").exists() is False
