"""A run folder is continued where it holds the same run, grown perhaps; what else has changed is refused by name."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from polychromic.errors import ConfigError
from polychromic.experiment.config import Experiment
from polychromic.experiment.resuming import continuing, inputs
from polychromic.experiment.resuming.continuing import (
    late_changes,
    open_run_folder,
    record_provenance,
    require_same_inputs,
)
from polychromic.experiment.resuming.folder import read_resolved
from polychromic.experiment.resuming.inputs import checker_code, record_inputs
from polychromic.files import read_json, write_json, write_text
from polychromic.models.sources import resolve_source
from polychromic.run_folder import RunFolder

CHECKER = "from helper import better\n\n\ndef check(prompt, text):\n    return better(text)\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with prompts, a checker that imports from beside it, and base weights of its own."""
    folder = tmp_path / "project"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = [{"id": f"{split}-{i}", "prompt": f"{i}", "references": ["r"]} for i in range(6)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.py").write_text(CHECKER)
    (folder / "helper.py").write_text("def better(text):\n    return 1.0\n")
    shutil.copytree(resolve_source("polychromic:arithmetic-tiny"), folder / "base")
    monkeypatch.syspath_prepend(folder)
    return folder


def experiment(folder, **changes):
    content = {
        "name": "grown", "model": {"source": str(folder / "base")},
        "task": {"name": "custom", "checker": f"{folder}/mine.py:check", "checker_memory_gb": 64,
                 **{split: f"{folder}/{split}.jsonl" for split in ("train", "validation", "test")}},
        "training": {"loss": "rl", "steps": 1},
        "evaluation": {"num_prompts": 4, "num_samples": 2},
        "arms": {"baseline": {}, "other": {}},
    }  # fmt: skip
    for path, value in changes.items():
        place = content
        *above, key = path.split("__")
        for name in above:
            place = place.setdefault(name, {})
        place[key] = value
    return Experiment.from_mapping(content)


def begun(one, out, *, compared=False) -> RunFolder:
    """The folder of a run in which work was done."""
    folder = open_run_folder(one, out)
    record_provenance(one, folder)
    write_text(folder.arm("baseline", 0).adapter / "adapter_model.safetensors", "trained")
    write_text(folder.arm("baseline", 0).ending, "{}")
    if compared:
        write_text(folder.comparison, "{}\n")
    return folder


def change(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text().replace(old, new))


def heavier(project: Path) -> None:
    """Base weights of another value."""
    from safetensors.torch import load_file, save_file

    file = project / "base" / "model.safetensors"
    save_file({name: tensor * 1.1 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda p: change(p / "train.jsonl", '"prompt": "3"', '"prompt": "4"'), r"the train prompts \(.*train.jsonl"),
        (lambda p: change(p / "test.jsonl", '"r"', '"another"'), r"the test prompts \(.*test.jsonl"),
        (lambda p: change(p / "mine.py", "better(text)", "0.0"), r"the checker's code \(mine.py\)"),
        (lambda p: change(p / "helper.py", "1.0", "0.5"), r"the checker's code \(helper.py\)"),
        (heavier, r"the weights of .*base \(model.safetensors\)"),
        (lambda p: (p / "base" / "chat_template.jinja").write_text("{{ messages }}"), r"the chat template of .*base"),
        (lambda p: change(p / "base" / "tokenizer.json", "1", "2"), r"the tokenizer of .*\(tokenizer.json\)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("compared", [False, True])
def test_what_a_run_is_made_of_may_not_change_under_it(project, tmp_path, edit, named, compared):
    """Past bug: prompts, checker, weights or template replaced, the run went on, or gave its old result."""
    one = experiment(project)
    folder = begun(one, tmp_path / "runs", compared=compared)
    assert open_run_folder(one, tmp_path / "runs") == folder
    edit(project)
    before = folder.provenance.read_bytes()
    with pytest.raises(ConfigError, match=named) as caught:
        open_run_folder(one, tmp_path / "runs")
    assert "--fresh" in str(caught.value)
    assert "name=NEW" in str(caught.value)
    assert folder.provenance.read_bytes() == before


def test_a_report_looks_at_prompts_and_checkers_and_needs_no_weights(project, tmp_path):
    one = experiment(project)
    folder = begun(one, tmp_path / "runs", compared=True)
    shutil.rmtree(project / "base")
    (project / "train.jsonl").unlink()
    require_same_inputs(one, folder)
    change(project / "helper.py", "1.0", "0.5")
    with pytest.raises(ConfigError, match=r"the checker's code \(helper.py\)"):
        require_same_inputs(one, folder)


def test_a_project_may_move_with_its_weights_and_checker(project, tmp_path, monkeypatch):
    folder = begun(experiment(project), tmp_path / "runs")
    there = tmp_path / "elsewhere" / "project"
    shutil.copytree(project, there)
    shutil.rmtree(project)
    monkeypatch.syspath_prepend(there)
    moved = experiment(there)
    assert open_run_folder(moved, tmp_path / "runs") == folder
    assert read_resolved(folder.experiment)["task"]["train"] == str(there / "train.jsonl")
    heavier(there)
    with pytest.raises(ConfigError, match=r"the weights of .*base \(model.safetensors\)"):
        open_run_folder(moved, tmp_path / "runs")


def test_what_a_checker_imports_is_read_off_its_source(tmp_path):
    (tmp_path / "pack").mkdir()
    for name, source in {
        "mine.py": "import json, numpy\nfrom pack import part\nimport alone\n", "alone.py": "import mine\n",
        "pack/__init__.py": "", "pack/part.py": "from . import deep\n", "pack/deep.py": "def broken(:\n",
        "unused.py": "", "numpy.txt": "",
    }.items():  # fmt: skip
        (tmp_path / name).write_text(source)
    found = checker_code(f"{tmp_path}/mine.py:check")
    assert set(found) == {"mine.py", "alone.py", "pack/__init__.py", "pack/part.py", "pack/deep.py"}
    assert checker_code("exact_match") == {}
    assert "polychromic/records.py" in checker_code("polychromic.tasks.checking.checkers:contains")


def test_weights_that_look_untouched_are_not_read_again(project, monkeypatch):
    one = experiment(project)
    known = record_inputs(one)
    read = []
    real = inputs.sha256_file
    monkeypatch.setattr(inputs, "sha256_file", lambda file: read.append(file.name) or real(file))
    assert record_inputs(one, known) == known
    assert "model.safetensors" not in read
    os.utime(project / "base" / "model.safetensors")
    assert (
        record_inputs(one, known)["models"][str(project / "base")]["sha256"]
        == (known["models"][str(project / "base")]["sha256"])
    )
    assert "model.safetensors" in read


@pytest.mark.parametrize(("left", "refused"), [([("other", 0, "train")], True), ([], False)])
def test_packages_that_decide_are_refused_while_work_is_left(project, tmp_path, monkeypatch, caplog, left, refused):
    one = experiment(project)
    folder = begun(one, tmp_path / "runs")
    record = read_json(folder.provenance)
    record["packages"] |= {"torch": "1.0", "scipy": "1.0"}
    write_json(folder.provenance, record)
    monkeypatch.setattr(continuing, "left_to_do", lambda *_: left)
    if refused:
        with pytest.raises(ConfigError, match=r"other packages, and is not finished: torch 1.0 → .*--fresh"):
            open_run_folder(one, tmp_path / "runs")
    else:
        open_run_folder(one, tmp_path / "runs")
        assert "torch 1.0 →" in caplog.text
        assert "scipy 1.0 →" in caplog.text


@pytest.mark.parametrize(
    ("grown", "said"),
    [
        ({"seeds": [0, 1, 2]}, "seeds [0] → [0, 1, 2]"),
        ({"evaluation__num_prompts": 6}, "evaluation.num_prompts 4 → 6"),
        ({"evaluation__num_samples": 8}, "evaluation.num_samples 2 → 8"),
        ({"arms__third": {"diversity": {"weight": 1.0}}}, "arms.third"),
        ({"evaluation__sampling": [{"temperature": 1.0}, {"temperature": 0.5}]}, "evaluation.sampling"),
    ],
)  # fmt: skip
def test_what_is_finished_can_be_built_upon(project, tmp_path, grown, said):
    """Past bug: the report advised three seeds, and a finished run refused them."""
    folder = begun(experiment(project), tmp_path / "runs", compared=True)
    write_text(folder.preflight, "{}")
    more = experiment(project, **grown)
    open_run_folder(more, tmp_path / "runs")
    assert read_resolved(folder.experiment) == more.model_dump(mode="json")
    assert folder.preflight.exists() == ("arms__third" not in grown)
    [note], decided = late_changes(more, folder)
    assert (note.kind, decided) == ("added after results", [])
    assert said in note.text
    open_run_folder(more, tmp_path / "runs")
    assert late_changes(more, folder)[0] == [note]
    if "arms__third" not in grown:
        with pytest.raises(ConfigError, match="of which nothing may be taken away"):
            open_run_folder(experiment(project), tmp_path / "runs")


def test_what_is_added_before_any_result_is_not_remarked(project, tmp_path):
    folder = begun(experiment(project), tmp_path / "runs")
    more = experiment(project, seeds=[0, 1])
    open_run_folder(more, tmp_path / "runs")
    assert late_changes(more, folder) == ([], [])


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"comparison__minimum": [{"metric": "pass@1", "direction": "higher"}]}, "comparison.minimum"),
        ({"comparison__baseline": "other"}, "comparison.baseline"),
        ({"evaluation__tokens": "characters"}, "evaluation.tokens"),
        ({"evaluation__sampling": [{"temperature": 0.5}, {"temperature": 1.0}]}, "evaluation.sampling"),
    ],
)  # fmt: skip
def test_what_decides_may_change_and_is_marked_until_it_is_put_back(project, tmp_path, changed, key):
    one = experiment(project)
    folder = begun(one, tmp_path / "runs", compared=True)
    other = experiment(project, **changed)
    open_run_folder(other, tmp_path / "runs")
    assert late_changes(other, folder)[1] == [key]
    if key != "evaluation.sampling":
        open_run_folder(one, tmp_path / "runs")
        assert late_changes(one, folder) == ([], [])


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"training__steps": 2}, "training.steps"),
        ({"evaluation__max_new_tokens": 8}, "evaluation.max_new_tokens"),
        ({"evaluation__num_samples": 3, "evaluation__num_prompts": 3}, "evaluation.num_prompts, of which nothing"),
        ({"arms__other": {"diversity": {"weight": 2.0}}}, "arms.other.diversity"),
        ({"task__checker": "exact_match"}, "task.checker"),
    ],
)  # fmt: skip
def test_what_made_the_results_may_not_change(project, tmp_path, changed, key):
    begun(experiment(project), tmp_path / "runs", compared=True)
    with pytest.raises(ConfigError, match=key):
        open_run_folder(experiment(project, **changed), tmp_path / "runs")


def test_how_the_work_is_spread_may_change(project, tmp_path):
    """Past bug: out of memory one was told to lower training.micro_batch_size and run again, and was refused then."""
    folder = begun(experiment(project), tmp_path / "runs")
    spread = {
        "training__micro_batch_size": 8,
        "training__max_decode_batch": 4,
        "evaluation__max_decode_batch": 8,
    }
    smaller = experiment(project, run__workers=2, **spread)
    open_run_folder(smaller, tmp_path / "runs")
    assert read_resolved(folder.experiment)["training"]["micro_batch_size"] == 8


def test_how_the_work_of_one_arm_is_spread_may_change(project, tmp_path):
    """Past bug: what is free for all arms was refused where it is the arm's own."""
    own = {"diversity": {"weight": 1.0}, "training": {"micro_batch_size": 8}}
    folder = begun(experiment(project, arms__other=own), tmp_path / "runs")
    for training in ({"micro_batch_size": 2}, {"max_decode_batch": 4, "keep_checkpoints": 1}, {}, None):
        open_run_folder(experiment(project, arms__other={**own, "training": training}), tmp_path / "runs")
    open_run_folder(experiment(project, arms__other={"diversity": {"weight": 1.0}}), tmp_path / "runs")
    assert read_resolved(folder.experiment)["arms"]["other"] == {"diversity": {"weight": 1.0}}
    begun_so = {"micro_batch_size": 2, "learning_rate": 1.0}
    for change in ({"training": begun_so}, {"training": {"steps": 1}}, {"untrained": True}):
        with pytest.raises(ConfigError, match=f"arms.other.{next(iter(change))}"):
            open_run_folder(
                experiment(project, arms__other={"diversity": {"weight": 1.0}, **change}), tmp_path / "runs"
            )


def test_a_lost_record_is_made_again_and_said(project, tmp_path, caplog):
    one = experiment(project)
    folder = begun(one, tmp_path / "runs")
    folder.provenance.write_text("{ torn")
    open_run_folder(one, tmp_path / "runs")
    assert "provenance.json is lost" in caplog.text
    assert read_json(folder.provenance)["checkers"]["checker"].keys() == {"mine.py", "helper.py"}
    [note], _ = late_changes(one, folder)
    assert note.kind == "recorded again"


def test_a_record_of_an_earlier_version_is_compared_as_far_as_it_goes(project, tmp_path):
    one = experiment(project)
    folder = begun(one, tmp_path / "runs")
    record = read_json(folder.provenance)
    base = str(project / "base")
    weights = record["models"][base]["sha256"]
    checker = {str(project / "mine.py"): record["checkers"]["checker"]["mine.py"]}
    old = {
        "packages": record["packages"], "prompts_sha256": record["prompts_sha256"], "seeds": [0],
        "data_sha256": record["data_sha256"] | checker,
        "models": {base: {"revision": None, "sha256": {"model.safetensors": weights["model.safetensors"]}}},
    }  # fmt: skip
    write_json(folder.provenance, old)
    open_run_folder(one, tmp_path / "runs")
    assert read_json(folder.provenance)["models"][base]["sha256"] == weights
    write_json(folder.provenance, old)
    change(project / "mine.py", "better(text)", "0.0")
    with pytest.raises(ConfigError, match=r"the checker's code \(mine.py\)"):
        open_run_folder(one, tmp_path / "runs")


def test_prompts_may_be_added_to_the_end_of_the_evaluated_file_alone(project, tmp_path):
    one = experiment(project)
    begun(one, tmp_path / "runs")
    row = json.dumps({"id": "more", "prompt": "m", "references": ["r"]}) + "\n"
    with (project / "test.jsonl").open("a") as file:
        file.write(row)
    open_run_folder(experiment(project, evaluation__num_prompts=7), tmp_path / "runs")
    with (project / "train.jsonl").open("a") as file:
        file.write(row)
    with pytest.raises(ConfigError, match="the train prompts"):
        open_run_folder(experiment(project, evaluation__num_prompts=7), tmp_path / "runs")


def test_fresh_moves_finished_training_aside_and_wants_yes(project, tmp_path, monkeypatch):
    """Past bug: --fresh deleted finished adapters without a word."""
    one = experiment(project)
    folder = begun(one, tmp_path / "runs")
    with pytest.raises(ConfigError, match="holds 1 trained adapter, which --fresh moves aside; add --yes"):
        open_run_folder(one, tmp_path / "runs", fresh=True)
    assert folder.arm("baseline", 0).root.exists()
    open_run_folder(one, tmp_path / "runs", fresh=True, yes=True)
    [aside] = (tmp_path / "runs").glob("grown.before-*")
    assert (aside / "baseline" / "seed-0" / "adapter" / "adapter_model.safetensors").read_text() == "trained"
    assert (aside / "provenance.json").exists()
    assert not folder.arm("baseline", 0).root.exists()
    assert not folder.provenance.exists()


def test_fresh_deletes_nothing_that_no_run_wrote(project, tmp_path):
    """Past bug: where no work had been begun, --fresh deleted whatever files lay in the folder."""
    one = experiment(project)
    folder = open_run_folder(one, tmp_path / "runs")
    open_run_folder(one, tmp_path / "runs", fresh=True)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["grown"]  # settings alone are not kept
    (folder.root / "notes.md").write_text("mine")
    open_run_folder(one, tmp_path / "runs", fresh=True)
    [aside] = (tmp_path / "runs").glob("grown.before-*")
    assert (aside / "notes.md").read_text() == "mine"
    assert [path.name for path in folder.root.iterdir()] == ["experiment.yaml"]


@pytest.mark.parametrize(("answer", "moved"), [("y\n", True), ("\n", False)])
def test_fresh_asks_on_a_terminal(project, tmp_path, answer, moved):
    begun(experiment(project), tmp_path / "runs")
    script = (
        "import json, sys\nfrom pathlib import Path\n"
        "from polychromic.experiment.config import Experiment\n"
        "from polychromic.experiment.resuming.continuing import open_run_folder\n"
        "one = Experiment.from_mapping(json.loads(sys.argv[1]))\n"
        "open_run_folder(one, Path(sys.argv[2]), fresh=True)\n"
    )
    ours, theirs = pty.openpty()
    settings = json.dumps(experiment(project).model_dump(mode="json"))
    command = [sys.executable, "-c", script, settings, str(tmp_path / "runs")]
    with subprocess.Popen(command, stdin=theirs, stderr=subprocess.PIPE, text=True) as process:
        os.write(ours, answer.encode())
        _, said = process.communicate(timeout=120)
    os.close(ours)
    os.close(theirs)
    assert "holds 1 trained adapter, which --fresh moves aside. Go on? [y/N]" in said
    assert bool(list((tmp_path / "runs").glob("grown.before-*"))) == moved
