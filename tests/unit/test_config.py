"""Experiment files: every problem named by key, all at once, and before torch is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from polychromic.errors import ConfigError
from polychromic.experiment.bundle.contents import own_files
from polychromic.experiment.config import Experiment
from polychromic.experiment.paths import with_absolute_paths
from polychromic.experiment.resuming.folder import resolved_yaml

EXPERIMENTS = sorted(Path("experiments").glob("*.yaml"))
QUICKSTART = Path("experiments/quickstart.yaml")


def refused(tmp_path: Path, text: str, *overrides: str) -> str:
    path = tmp_path / "experiment.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        Experiment.from_file(path, overrides)
    return str(error.value)


def test_keys_of_earlier_versions_are_refused_with_their_new_name():
    old = {
        "training": {
            "signal": "reward",
            "generations": 4,
            "steps": 1,
            "early_stopping": {"every_n_steps": 2},
        },
        "diversity": {"max_examples": 2},
        "evaluation": {"samples": 8},
    }
    with pytest.raises(ConfigError) as refused:
        Experiment.from_mapping({"name": "old", "task": {"name": "arithmetic"}, "model": {"source": "m"}, **old})
    told = str(refused.value)
    assert "training.signal: this key is called loss (rl for reward, sft for references) now" in told
    for key, new in (
        ("training.generations", "num_samples"), ("training.early_stopping.every_n_steps", "check_every"),
        ("diversity.max_examples", "num_prompts"), ("evaluation.samples", "num_samples"),
    ):  # fmt: skip
        assert f"{key}: this key is called {new} now" in told


NO_CHECKER = {
    "name": "bare",
    "task": {"name": "custom", "train": "t.jsonl", "validation": "v.jsonl", "test": "e.jsonl"},
    "model": {"source": "m"},
    "training": {"loss": "sft", "steps": 1},
    "diversity": {"objective": "distance", "gate": "none", "weight": 1.0},
    "arms": {"baseline": {"diversity": {"weight": 0.0}}, "diverse": {}},
}


@pytest.mark.parametrize(
    ("section", "change", "use"),
    [
        ("training", {"loss": "rl"}, "arms.baseline: training.loss: rl learns from rewards"),
        (
            "training",
            {"early_stopping": {"check_every": 1}},
            "arms.baseline: training.early_stopping follows the mean reward",
        ),
        ("diversity", {"objective": "coverage"}, "arms.diverse: diversity.objective: coverage reads rewards"),
        (
            "diversity",
            {"gate": "product"},
            "arms.diverse: diversity.objective: distance with diversity.gate: product reads rewards",
        ),
    ],
)
def test_rewards_that_nobody_gives_are_refused_before_anything_is_loaded(section, change, use):
    assert Experiment.from_mapping(NO_CHECKER).arm("diverse").use_of_rewards == ""
    with pytest.raises(ConfigError, match=f"{use}, and task.checker is not set"):
        Experiment.from_mapping(NO_CHECKER | {section: NO_CHECKER[section] | change})
    own = {"training": NO_CHECKER["training"] | {"engine": "mine.py:Trainer"}}
    assert Experiment.from_mapping(NO_CHECKER | own | {section: NO_CHECKER[section] | own.get(section, {}) | change})
    checked = {"task": NO_CHECKER["task"] | {"checker": "contains"}}
    Experiment.from_mapping(NO_CHECKER | checked | {section: NO_CHECKER[section] | change})


@pytest.mark.parametrize("metric", ["pass@1", "pass@10", "distinct_correct", "reward"])
def test_a_criterion_on_rewards_that_nobody_gives_is_refused(metric):
    """Past bug: it ran to its end, and the criterion was "not measured"."""
    stated = {"comparison": {"minimum": [{"metric": metric, "relative_change": 0.1}]}}
    with pytest.raises(ConfigError, match=f"comparison: {metric} needs task.checker"):
        Experiment.from_mapping(NO_CHECKER | stated)
    Experiment.from_mapping(NO_CHECKER | stated | {"task": NO_CHECKER["task"] | {"checker": "contains"}})
    Experiment.from_mapping(NO_CHECKER | {"comparison": {"minimum": [{"metric": "distinct_2"}]}})


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_shipped_experiment_resolves(path):
    experiment = Experiment.from_file(path)
    for name in experiment.arms:
        assert experiment.arm(name).name == name
    assert experiment.name == path.stem


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_resolved_file_of_a_run_reads_as_what_was_resolved(path, tmp_path):
    """Past bug: `sandbox: local` was resolved with every key, and then refused, so that no run of code went on."""
    experiment = Experiment.from_file(path)
    (tmp_path / "experiment.yaml").write_text(resolved_yaml(experiment))
    assert Experiment.from_file(tmp_path / "experiment.yaml") == experiment


def test_dotted_overrides_change_one_value():
    experiment = Experiment.from_file(QUICKSTART, ["training.steps=20", "training.learning_rate=1e-5"])
    assert experiment.training.steps == 20
    assert experiment.training.learning_rate == 1e-5


def test_an_arm_changes_only_its_own_keys():
    experiment = Experiment.from_file(QUICKSTART)
    baseline, coverage = experiment.arm("baseline"), experiment.arm("coverage")
    assert baseline.diversity.weight == 0
    assert coverage.diversity.weight > 0
    assert baseline.training == coverage.training == experiment.training


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.stepz=20", "training.stepz: unknown key; did you mean steps?"),
        ("training.steps=many", "training.steps: input should be a valid integer"),
        ("training.steps=0", "training.steps: input should be greater than or equal to 1, got 0"),
        ("diversity.weight=-1", "weight is λ and must be at least 0"),
        ("diversity.objective=entropy", "diversity.objective"),
        ("task.name=poetry", "task: unknown task 'poetry', expected one of"),
        ("arms.coverage.diversity.wait=2", "arms.coverage.diversity.wait: unknown key; did you mean weight?"),
        ("arms.coverage.evaluation.num_samples=2", "arms.coverage.evaluation: unknown key"),
        (
            "arms.coverage.training=5",
            "arms.coverage.training: expected the keys that this arm changes, got 5",
        ),
        ("comparison.baseline=control", "not one of the arms"),
        # Past bug: on macOS two such arms wrote into one folder, each over the other.
        ("arms.Coverage={}", "arms.Coverage: differs from coverage in upper and lower case alone"),
        ("arms.Untrained={}", "arms.Untrained: the model before training is sampled under the name untrained"),
        ("name=../elsewhere", "name: expected letters"),
        (
            "training={loss: sft, steps: 3, kl_weight: 0.1}",
            "kl_weight is 0.1, which has no effect where the loss is sft",
        ),
        # Past bug: "input should be a valid dictionary or instance of TrainingSettings".
        ("training=5", "training: expected keys with their values, got 5"),
        ("comparison.minimum=[distinct_2]", "comparison.minimum.0: expected keys with their values, got 'distinct_2'"),
        ("name=2024", "name: expected a text, got 2024; put it in quotes"),
        ("arms={0.3: {}}", "arms.0.3: expected a text, got 0.3; put it in quotes"),
        ("seeds=3", "seeds: expected a list such as [3], got 3"),
        ("seeds=0,1", "seeds: expected a list such as [0,1], got '0,1'"),
        ("seeds=[]", "seeds: expected at least 1, got 0"),
        ("training=null", "training: missing; this key is required"),
        ("training.epochs=2", "state either steps or epochs"),
        ("diversity.set_size=8", "needs at least 9 generations per prompt, got training.num_samples = 8"),
        ("run.tracking=[clipboard]", "unknown tracker 'clipboard'"),
        (
            "model.chat_template_options.tokenize=false",
            r"model.chat_template_options: 'tokenize' is set by training and sampling themselves",
        ),
        (
            "model={source: polychromic:arithmetic-tiny, dtype: bfloat16, adapter: {modules_to_save: [lm_head]}}",
            "modules trained whole would be kept in bfloat16",  # past bug: said when the model had been loaded
        ),
    ],
)
def test_one_clear_message_names_the_key(tmp_path, override, expected):
    assert expected in refused(tmp_path, QUICKSTART.read_text(), override)


def test_a_section_or_an_arm_without_keys_states_nothing(tmp_path):
    """Past bug: `baseline:` with nothing behind it, or a section whose keys were all comments, was refused."""
    text = (
        QUICKSTART.read_text().replace("baseline: {diversity: {weight: 0.0}}", "baseline:")
        + "\nbudget:\n  # max_hours: 1\n"
    )
    (tmp_path / "mine.yaml").write_text(text)
    found = Experiment.from_file(tmp_path / "mine.yaml", ["budget.max_hours=1", "budget=null"])
    assert found.arms["baseline"] == {}
    assert found.arm("baseline").diversity == found.diversity
    assert found.budget.max_hours is None


def test_a_correction_that_trl_would_leave_out_is_refused(tmp_path):
    overrides = ("training.engine=trl", "sampling.importance_correction=truncated")
    said = refused(tmp_path, QUICKSTART.read_text(), *overrides)
    assert "sampling.importance_correction: truncated has no effect on arm 'baseline'" in said
    assert "vllm_importance_sampling_correction" in said


def test_all_problems_are_listed_at_once(tmp_path):
    message = refused(tmp_path, QUICKSTART.read_text(), "training.stepz=1", "model.sauce=x", "seeds=[]")
    assert message.count("\n") >= 3
    for key in ("training.stepz", "model.sauce", "seeds"):
        assert key in message


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "a: 1\na: 2\n", "just words"])
def test_what_is_no_experiment_is_refused(tmp_path, text):
    assert "experiment.yaml" in refused(tmp_path, text)


def test_a_folder_in_the_place_of_a_file_is_said_to_be_one(tmp_path):
    """Past bug: whoever named a run folder to go on with was told that there is no such file."""
    with pytest.raises(ConfigError, match=rf"^{tmp_path}: is a folder, expected an experiment file$"):
        Experiment.from_file(tmp_path)
    (tmp_path / "experiment.yaml").touch()
    with pytest.raises(ConfigError, match=rf"; {tmp_path}/experiment.yaml holds the settings of the run in it$"):
        Experiment.from_file(tmp_path)


def test_a_missing_file_names_itself():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such experiment file"):
        Experiment.from_file("nowhere.yaml")


def test_a_bad_key_is_known_before_torch_is_imported():
    code = (
        "import sys\n"
        "from polychromic.errors import ConfigError\n"
        "from polychromic.experiment.config import Experiment\n"
        "try:\n    Experiment.from_file('experiments/quickstart.yaml', ['training.stepz=1'])\n"
        "except ConfigError:\n    sys.exit('torch' in sys.modules)\n"
        "sys.exit(2)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_here_by_its_bare_name_is_that_folder_from_anywhere_and_bundled(tmp_path, monkeypatch):
    for folder in ("models/mine", "Qwen/Judge", "hash"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text("{}")
    quickstart = Path("experiments/quickstart.yaml").resolve()
    monkeypatch.chdir(tmp_path)
    chosen = Experiment.from_file(quickstart, ["model.source=models/mine", "evaluation.embedder=hash"])
    assert chosen.model.source == str(tmp_path / "models" / "mine")
    assert chosen.evaluation.embedder == "hash"  # the package's own name wins
    assert own_files(chosen).here == (tmp_path / "models" / "mine" / "config.json",)
    assert Experiment.from_file(quickstart, ["model.source=some/hub-id"]).model.source == "some/hub-id"
    for kind, model in (("judge", "Qwen/Judge"), ("classifier", str(tmp_path / "Qwen" / "Judge"))):
        same = with_absolute_paths({"task": {"same_answer": {"kind": kind, "model": "Qwen/Judge"}}}, tmp_path / "other")
        assert same["task"]["same_answer"]["model"] == model
