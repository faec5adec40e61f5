"""Files of generations on the command line and in the folder of their comparison: none is passed over, none is lost."""

import json
import re

import pytest
from typer.testing import CliRunner

from polychromic.cli import app
from polychromic.errors import ConfigError
from polychromic.experiment.external import ExternalExperiment, evaluate_external, split_arguments
from polychromic.experiment.progress.watch import open_finished_or_running
from polychromic.run_folder import RunFolder


@pytest.mark.parametrize("name", ["diversity", "model", "training", "task", "run", "generations"])
def test_an_arm_may_have_the_name_of_a_section(name):
    """Past bug: `base=b.jsonl diversity=d.jsonl` compared the first file alone: the second was taken for a section
    that has no part in it, and left out without a word."""
    assert split_arguments(["base=b.jsonl"], [f"{name}=d.jsonl"]) == ({"base": ["b.jsonl"], name: ["d.jsonl"]}, [])
    sections = ["name=x", "seeds=[1]", f"{name}.key=d.jsonl", f"{name}={{key: 1}}", f"{name}=null", f"{name}="]
    assert split_arguments(["base=b.jsonl"], sections) == ({"base": ["b.jsonl"]}, sections)


def compare(folder, **files):
    """Compares files of generations in the run folder `folder/mine`."""
    prompts = "".join(json.dumps({"id": f"p{i}", "prompt": f"Say {i} different words."}) + "\n" for i in range(3))
    (folder / "prompts.jsonl").write_text(prompts)
    (folder / "experiment.yaml").write_text("name: mine\ntask: {name: custom, test: prompts.jsonl}\n")
    experiment = ExternalExperiment.from_file(
        folder / "experiment.yaml", {arm: [str(one)] for arm, one in files.items()}
    )
    return evaluate_external(experiment, RunFolder(folder / "mine"))


def generations(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": f"p{i}", "texts": ["a b", "b c", "c d"]}) + "\n" for i in range(3)))
    return path


def test_files_in_the_folder_of_the_comparison_are_not_lost(tmp_path):
    """Past bug: the folder of an arm was deleted for its rows, with the files that they had been read from in it; the
    command ended in "No such file"."""
    own = generations(tmp_path / "mine" / "a" / "first.jsonl")
    beside = generations(tmp_path / "mine" / "b" / "notes" / "second.jsonl")
    other = generations(tmp_path / "other.jsonl")
    for refused in ({"a": own, "c": other}, {"b": other}):
        with pytest.raises(ConfigError, match=r"which the rows of arm [ab] would replace; choose another place"):
            compare(tmp_path, **refused)
    assert own.exists() and beside.exists()
    compare(tmp_path, c=own, d=beside)


def test_the_rows_of_an_earlier_comparison_are_no_files_of_the_next_one_in_its_place(tmp_path):
    """Past bug: the rows were gone, and with them the only copy of what had been compared."""
    compare(tmp_path, a=generations(tmp_path / "a.jsonl"))
    rows = RunFolder(tmp_path / "mine").arm("a", 0).generations
    written = rows.read_bytes()
    with pytest.raises(ConfigError, match=r"generations\.jsonl lies in \S+/mine/a, which the rows"):
        compare(tmp_path, a=rows, b=tmp_path / "a.jsonl")
    assert rows.read_bytes() == written
    compare(tmp_path, a=tmp_path / "a.jsonl")  # a comparison is replaced by one of the same name


def test_a_page_is_made_anew_of_the_files_that_were_compared_alone(tmp_path):
    """`report` took what a file held by now, in silence, and of one that was gone it said "check the path"."""
    file, other = generations(tmp_path / "a.jsonl"), generations(tmp_path / "b.jsonl")
    compare(tmp_path, a=file, b=other)
    comparison = (tmp_path / "mine" / "comparison.json").read_bytes()

    def report():
        return CliRunner().invoke(app, ["report", str(tmp_path / "mine")])

    assert report().exit_code == 0
    file.write_text(file.read_text().replace("a b", "x y"))
    for what in ("has changed", "is gone"):
        refused = report().exception
        assert isinstance(refused, ConfigError)
        assert re.search(rf"a\.jsonl {what} since \S+/mine was made of it; .*`polychromic evaluate`", str(refused))
        file.unlink(missing_ok=True)
    assert (tmp_path / "mine" / "comparison.json").read_bytes() == comparison


def test_a_comparison_of_files_is_no_damaged_run(tmp_path):
    """Past bug: `cost` and `diagnose` missed model, training and arms in a folder that is as it should be."""
    compare(tmp_path, a=generations(tmp_path / "a.jsonl"))
    with pytest.raises(ConfigError, match=r"mine is a comparison of files of generations, .* `polychromic report"):
        open_finished_or_running(tmp_path / "mine")
