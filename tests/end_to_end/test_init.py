"""`polychromic init --data`: from a file of prompts to an experiment that runs, and the examples that ship."""

import json

import pytest
from typer.testing import CliRunner

from polychromic import run
from polychromic.cli import app
from polychromic.errors import ConfigError, DataError, PolychromicError
from polychromic.experiment.config import Experiment
from polychromic.experiment.starting.start import EXAMPLES, SHIPPED, Request, start_experiment, write_example
from polychromic.files import read_jsonl
from polychromic.tasks.data.prompts import load_prompts

TINY = "polychromic:arithmetic-tiny"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with sums as Alpaca writes them, a checker, and nothing else."""
    rows = [
        {"instruction": f"{a},{b},3,4=24:", "input": "", "output": f"({a}+{b})*3+4"}
        for a in range(1, 7)
        for b in range(1, 5)
    ]
    (tmp_path / "sums.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "bare.csv").write_text("prompt\n" + "".join(f'"{n},2,3,4=24:"\n' for n in range(1, 9)))
    (tmp_path / "checks.py").write_text("def good(prompt, text):\n    return text.startswith('(')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def request(folder, **changes):
    facts = {
        "data": str(folder / "sums.json"),
        "path": folder / "mine.yaml",
        "model": TINY,
        "embedder": "hash",
    }
    return Request(**facts | changes)


def test_from_alpaca_and_a_checker_to_a_report(folder):
    said = []
    experiment = start_experiment(request(folder, checker="checks.py:good", minutes=0.1), said.append)
    assert said[0] == "read 24 prompts, 24 with references: Alpaca (instruction, input, output)"
    assert said[1] == "split: 15 to train, 7 to test, 2 to validate"
    assert [
        len(load_prompts(folder / "mine-data" / f"{split}.jsonl")) for split in ("train", "validation", "test")
    ] == [15, 2, 7]
    assert experiment.training.loss == "rl"
    assert experiment.task.code["checker"] == f"{folder / 'checks.py'}:good"
    assert 'checker: "checks.py:good"' in (folder / "mine.yaml").read_text()
    result = run(
        folder / "mine.yaml",
        ["run.preflight=false", "training.steps=2", "seeds=[0]", "evaluation.num_prompts=3"],
        out=folder / "runs",
    )
    assert result.folder.report.is_file()
    assert set(result.comparison.arms) >= {"baseline", "diverse"}


def test_without_a_checker_references_are_learnt(folder):
    experiment = start_experiment(request(folder, minutes=0.1))
    assert (experiment.training.loss, experiment.diversity.objective) == ("sft", "distance")
    assert (experiment.diversity.gate, experiment.arm("diverse").diversity.weight) == ("none", "auto")
    # Past bug: λ moved on every 25th step, of which a first look has one.
    assert experiment.training.gradient_share_every <= experiment.training.steps / 4
    stated = {one.metric for one in experiment.comparison.minimum or ()}
    assert "reference_perplexity" in stated
    # Past bug: preflight and every step asked for rewards that nothing reads, and the run ended there.
    result = run(
        folder / "mine.yaml",
        [
            "training={steps: 3, gradient_share_every: 1}",
            "diversity.sample_every=1",
            "seeds=[0]",
            "evaluation.num_prompts=3",
        ],
        out=folder / "runs",
    )
    assert result.folder.report.is_file()
    rows = read_jsonl(result.folder.root / "diverse" / "seed-0" / "metrics.jsonl")
    assert all(row["train/diversity_gradient_norm"] > 0.0 for row in rows)
    assert not {"train/reward", "train/passing"} & set().union(*rows)


def test_a_checker_of_the_package_is_named_as_it_is(folder):
    experiment = start_experiment(request(folder, checker="contains", minutes=0.1))
    assert experiment.task.code == {"checker": "contains"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": "nowhere.jsonl"}, DataError, r"nowhere\.jsonl: cannot be read"),
        (
            {"data": "bare.csv"},
            ConfigError,
            "nothing says what a good answer is, and polychromic:arithmetic-tiny has",
        ),
        ({"checker": "checks.py:bad"}, PolychromicError, "bad"),
        ({"model": "smolm2-135m-instruct"}, PolychromicError, "did you mean smollm2-135m-instruct"),
    ],
)
def test_what_cannot_be_used_leaves_nothing_behind(folder, changes, error, message):
    with pytest.raises(error, match=message):
        start_experiment(request(folder, **changes))
    assert sorted(path.name for path in folder.iterdir()) == ["bare.csv", "checks.py", "sums.json"]


def test_what_is_there_is_never_overwritten(folder):
    (folder / "mine-data").mkdir()
    with pytest.raises(ConfigError, match="mine-data exists already"):
        start_experiment(request(folder))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_the_one_that_ships_and_resolves_from_anywhere(tmp_path, monkeypatch, name):
    if not (SHIPPED / "experiments" / f"{name}.yaml").is_file():
        pytest.skip(f"{name} does not ship yet")
    monkeypatch.chdir(tmp_path)
    lines = []
    path = write_example(name, None, lines.append)
    experiment = Experiment.from_file(path)
    assert experiment.name == name
    assert all(file.is_file() and file.is_relative_to(tmp_path) for file in experiment.task.files.values())
    assert lines[-1] == f"wrote {name}.yaml"
    with pytest.raises(ConfigError, match="exists already"):
        write_example(name, None, lines.append)


def test_the_command_line_says_what_belongs_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert "--data" in runner.invoke(app, ["init", "-h"]).output
    for arguments, message in (
        (["init", "--check", "a.py:b"], "--check belongs to --data"),
        (["init", "--data", "a", "--example", "quickstart"], "give one of them"),
        (["init", "--example", "slow"], "there are quickstart, replies, code"),
    ):
        result = runner.invoke(app, arguments)
        assert message in str(result.exception)
    assert runner.invoke(app, ["init", "mine.yaml"]).exit_code == 0
    assert Experiment.from_file(tmp_path / "mine.yaml").name == "quickstart"
