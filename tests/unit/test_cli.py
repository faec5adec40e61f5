"""The command line: quick help, errors for people."""

import re
import subprocess
import sys
import time

import pytest
from tests.command import command


def test_help_names_every_verb_and_imports_nothing_heavy():
    code = (
        "import sys, contextlib, io\n"
        "from polychromic.cli import app\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):\n"
        "    app(['--help'])\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'transformers', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'{heavy}' if heavy or 'evaluate' not in out.getvalue() else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: no such experiment file"),
        (
            ["run", "experiments/quickstart.yaml", "training.stepz=1"],
            "training.stepz: unknown key; did you mean steps",
        ),
        (["train", "experiments/quickstart.yaml", "--arm", "bold"], "--arm bold: no such arm"),
        (["report", "nowhere"], "nowhere: not a run folder"),
        (["report", "nowhere", "--port", "8000"], "--port is where --watch serves the page; add --watch"),
        (["report", "nowhere", "--watch", "--figure"], "--figure and --watch: a page that is served writes no files"),
    ],
)
def test_errors_are_one_message_without_a_traceback(arguments, expected, tmp_path):
    ending = command(*arguments)
    assert ending.code == 1
    assert expected in ending.errors
    assert not ending.crash


def test_ctrl_c_before_a_run_listens_to_it_is_a_sentence_too(monkeypatch):
    """Past bug: while libraries were loaded, or in `plan`, `init` and others, it ended without a word."""

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("polychromic.experiment.progress.watch.open_finished_or_running", interrupted)
    ending = command("cost", "runs/any")
    assert (ending.code, ending.crash) == (130, "")
    assert ending.errors == "stopped; run the same command again to continue\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
def test_closed_streams_are_no_crash(closed, tmp_path):
    """Past bug: `nohup polychromic run … <&- >&-` ended in an AttributeError of None."""
    run = f'exec "$0" -m polychromic run nowhere.yaml --fresh {closed}'
    done = subprocess.run(["sh", "-c", run, sys.executable], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: nowhere.yaml: no such experiment file")


def test_init_writes_a_file_once(tmp_path):
    """Without data it is the quickstart, which runs as it stands."""
    path = str(tmp_path / "mine.yaml")
    assert command("init", path).code == 0
    again = command("init", path)
    assert again.code == 1
    assert "exists already" in again.errors


def test_audit_prints_where_being_wrong_pays():
    """Being wrong pays under the published score: 0.794, 0.718 and 0.693 at K = 4."""
    ending = command("audit", "--objective", "polychromic", "--set-size", "4", "--wrong-clusters", "1,3,6")
    assert [line.split("= ")[1][:5] for line in ending.output.splitlines() if "P(correct)" in line] == [
        "0.794",
        "0.718",
        "0.693",
    ]
    assert "warning" in ending.output
    safe = command("audit", "--objective", "coverage", "--correct-modes", "3", "--wrong-clusters", "2")
    assert "P(correct) = 1.000, 3.00 of 3" in safe.output
    assert "audit: " in command("audit", "--objective", "entropy").errors


def test_version():
    started = time.monotonic()
    version = [sys.executable, "-m", "polychromic", "--version"]
    result = subprocess.run(version, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.strip() == "0.1.0", result.stderr
    assert time.monotonic() - started < 30


def test_the_first_line_comes_before_anything_is_loaded():
    """Twenty seconds of silence looked like a program that hangs."""
    code = (
        "import sys\n"
        "import importlib\n"
        "run = importlib.import_module('polychromic.cli.run')\n"
        "run.typer.echo = lambda line: sys.exit(\n"
        '    f\'{line} {sorted({"torch", "numpy", "pydantic"} & set(sys.modules))}\')\n'
        "run.run(run.Path('mine.yaml'))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert re.fullmatch(r"run mine.yaml \(polychromic [\d.]+\) \[\]\n", result.stderr), result.stderr
