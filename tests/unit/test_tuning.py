"""A search never reads the test split, keeps no trial below its floor, and goes on after a kill."""

import json
import os
import signal

import pytest
from tests.command import command

from polychromic import stopping
from polychromic.errors import BudgetError, ConfigError, StoppedError
from polychromic.experiment.cluster.tuning import Search, overrides_of, tune
from polychromic.experiment.config import Experiment
from polychromic.experiment.executors import EXECUTORS
from polychromic.experiment.jobs import TrialFloor
from polychromic.files import read_json, read_jsonl
from polychromic.processes import open_worker_pool


def experiment(budget=None, **changes):
    content = {
        "name": "own",
        "task": {"name": "arithmetic", "train_problems": 32, "validation_problems": 6, "test_problems": 8},
        "model": {"source": "polychromic:arithmetic-tiny", "adapter": {"rank": 2}},
        "training": {"loss": "rl", "steps": 2, "prompts_per_step": 2, "num_samples": 4, "max_new_tokens": 12},
        "diversity": {"set_size": 2},
        "arms": {"baseline": {}, "coverage": {"diversity": {"weight": 1.0}}},
        "evaluation": {"num_prompts": 8, "num_samples": 4, "max_new_tokens": 12, "untrained": False},
        "run": {"executor": "local", "preflight": False},
        "budget": budget or {},
    }
    for dotted, value in changes.items():
        section, _, key = dotted.partition("__")
        content[section] = content[section] | {key: value}
    return Experiment.from_mapping(content)


SEARCH = Search("coverage", weight=(0.1, 10.0), set_sizes=(2, 3), margin=1.0)


def test_the_search_reads_validation_prompts_and_goes_on_where_it_was(tmp_path, monkeypatch):
    from polychromic.tasks.arithmetic import ArithmeticTask

    asked = []
    prompts = ArithmeticTask.prompts
    monkeypatch.setattr(ArithmeticTask, "prompts", lambda self, split: asked.append(split) or prompts(self, split))
    carried_out = []

    def counting(jobs, workers, on_event, on_done):
        carried_out.extend(f"{job.root.parent.name}/{job.arm}" for job in jobs)
        EXECUTORS["local"](jobs, workers, on_event, on_done)

    monkeypatch.setattr("polychromic.experiment.cluster.tuning.build_executor", lambda name: counting)
    first = tune(experiment(), SEARCH, tmp_path, n_trials=2)
    assert {"train", "validation"} <= set(asked)
    rows = (tmp_path / "own.tune" / "trial-0000" / "own" / "coverage" / "seed-0" / "generations.jsonl").read_text()
    of_test = {prompt.id for prompt in prompts(experiment().task.build(), "test")}
    of_validation = {prompt.id for prompt in prompts(experiment().task.build(), "validation")}
    sampled = {json.loads(line)["prompt_id"] for line in rows.splitlines()}
    assert sampled == of_validation
    assert not sampled & of_test
    assert carried_out == ["baseline/baseline", "trial-0000/coverage", "trial-0001/coverage"]
    assert [trial.state for trial in first] == ["kept", "kept"]
    assert first[0].value >= first[1].value
    assert all(set(trial.settings) == {"diversity.weight", "diversity.set_size"} for trial in first)
    again = tune(experiment(), SEARCH, tmp_path, n_trials=3)
    assert carried_out[3:] == [
        "baseline/baseline",
        "trial-0002/coverage",
    ]  # the baseline has nothing left to do
    assert {trial.number for trial in again} == {0, 1, 2}
    assert len({trial.settings["diversity.weight"] for trial in again}) == 3  # past bug: the third drew as the first
    assert [one for one in again if one.number < 2] == sorted(first, key=again.index)
    recorded = read_json(tmp_path / "own.tune" / "tuning.json")
    assert [trial["number"] for trial in recorded["trials"]] == [trial.number for trial in again]
    with pytest.raises(ConfigError, match=r"other settings \(weight\)"):
        tune(
            experiment(),
            Search("coverage", weight=(0.1, 5.0), set_sizes=(2, 3), margin=1.0),
            tmp_path,
            n_trials=4,
        )


def test_a_budget_caps_the_whole_search(tmp_path):
    """Past bug: a search trained on, whatever `budget` said, and wrote down nothing of what it took."""
    capped = {"dollars_per_hour": 1.0, "max_dollars": 1e-5}
    with pytest.raises(BudgetError, match=r"max_dollars = 1e-05 is reached .* of 2 trials have ended.*Raise the cap"):
        tune(experiment(budget=capped), SEARCH, tmp_path, n_trials=2)
    with pytest.raises(BudgetError, match="0 of 2 trials"):
        tune(experiment(budget=capped), SEARCH, tmp_path, n_trials=2)
    spent = read_jsonl(tmp_path / "own.tune" / "ledger.jsonl")
    assert [row["arm"] for row in spent] == ["baseline"] * len(spent)

    tune(experiment(budget=capped | {"max_dollars": 1.0}), SEARCH, tmp_path, n_trials=2)
    spent = read_jsonl(tmp_path / "own.tune" / "ledger.jsonl")
    whole = [(row["arm"], row["stage"]) for row in spent if not row.get("interrupted")]
    assert whole[-4:] == [(f"trial-000{number}", stage) for number in (0, 1) for stage in ("train", "evaluate")]
    assert all(row["dollars"] > 0 for row in spent)


def test_a_wish_to_stop_between_two_trials_is_kept(tmp_path, monkeypatch):
    """Past bug: SIGTERM or Ctrl-C while the folder of a trial was being opened (models are hashed then) was forgotten,
    and the search went on."""
    from polychromic.experiment.cluster import tuning

    carried_out = []

    def terminated(experiment, folder):
        if folder.root.parent.name == "trial-0000":
            signal.raise_signal(signal.SIGTERM)
        return record(experiment, folder)

    def executor(jobs, workers, on_event, on_done):
        EXECUTORS["local"](jobs, workers, on_event, on_done)
        carried_out.extend(job.root.parent.name for job in jobs)

    record = tuning.record_provenance
    monkeypatch.setattr(tuning, "record_provenance", terminated)
    monkeypatch.setattr(tuning, "build_executor", lambda name: executor)
    with pytest.raises(StoppedError, match="stopped by SIGTERM; what was done before coverage/seed-0 train is kept"):
        tune(experiment(), SEARCH, tmp_path, n_trials=1)
    assert carried_out == ["baseline"]
    assert not stopping.requested()


def _killed_at_the_second_trial(folder):
    def until_then(jobs, workers, on_event, on_done):
        if jobs[0].root.parent.name == "trial-0001":
            os.kill(os.getpid(), signal.SIGKILL)
        EXECUTORS["local"](jobs, workers, on_event, on_done)

    from polychromic.experiment.cluster import tuning

    tuning.build_executor = lambda name: until_then
    tune(experiment(), SEARCH, folder, n_trials=3)


@pytest.mark.slow
def test_a_killed_search_asks_for_the_same_trial_again(tmp_path):
    from concurrent.futures.process import BrokenProcessPool

    with open_worker_pool(1) as pool, pytest.raises(BrokenProcessPool):
        pool.submit(_killed_at_the_second_trial, tmp_path / "killed").result()
    killed = tune(experiment(), SEARCH, tmp_path / "killed", n_trials=3)
    assert sorted(trial.number for trial in killed) == [0, 1, 2]
    whole = tune(experiment(), SEARCH, tmp_path / "whole", n_trials=3)
    assert killed == whole


def test_a_trial_below_the_floor_ends_early_and_is_never_best(tmp_path, monkeypatch):
    floor = TrialFloor(tuple([0.9] * 12), 0.1)
    monkeypatch.setattr("polychromic.experiment.cluster.tuning.TrialFloor", lambda baseline, margin: floor)
    ranked = tune(experiment(training__steps=12), Search("coverage", margin=1.0), tmp_path, n_trials=1)
    assert [trial.state for trial in ranked] == ["stopped early"]
    arm = tmp_path / "own.tune" / "trial-0000" / "own" / "coverage" / "seed-0"
    assert 5 <= read_json(arm / "below_floor.json")["step"] < 12
    assert not (arm / "adapter").exists()
    assert not (arm / "generations.jsonl").exists()


TRAINER = """
from polychromic.files import append_jsonl
from polychromic.training import build_trainer


class Own:
    def train(self, run, on_step=None):
        trained = build_trainer("local").train(run)
        (run.folder / "metrics.jsonl").unlink()
        append_jsonl(run.folder / "metrics.jsonl", [{"step": 1, "own/number": 0.5}])
        on_step(1, 1, {})
        return trained
"""


def test_a_trainer_of_ones_own_need_not_write_the_quality_of_steps(tmp_path):
    """Past bug: a KeyError, though metrics are free to a trainer; its trials are judged on validation prompts alone."""
    (tmp_path / "own.py").write_text(TRAINER)
    own = experiment(training__engine=f"{tmp_path / 'own.py'}:Own")
    ranked = tune(own, Search("coverage", margin=1.0), tmp_path, n_trials=1)
    assert [trial.state for trial in ranked] == ["kept"]


def test_a_floor_is_compared_step_by_step_and_knows_noise():
    floor = TrialFloor(tuple(0.5 + 0.01 * step for step in range(50)), margin=0.05)
    at = [0.5 + 0.01 * step for step in range(50)]
    below = [quality - 0.06 for quality in at]
    assert not floor.is_below(at, 50)
    assert floor.is_below(below, 50)
    assert not floor.is_below(below[:9], 50)  # a fifth of the steps are looked back on
    assert floor.is_below(below[:10], 50)
    assert not floor.is_below([q - 0.04 for q in at], 50)
    noisy = [quality - 0.06 + (0.3 if step % 2 else -0.3) for step, quality in enumerate(at)]
    assert not floor.is_below(noisy, 50)
    assert not floor.is_below([0.0] * 51, 50)  # the baseline has stopped: nothing to compare with


@pytest.mark.parametrize(
    ("changes", "search", "said"),
    [
        ({"evaluation__split": "validation"}, SEARCH, "verdict would be given on the prompts"),
        ({}, Search("baseline"), "expected an arm with a diversity term: coverage"),
        ({}, Search("coverage", metric="semantic_distance"), "needs an embedder; a search measures answers"),
        ({}, Search("coverage", weight=None), "nothing to search"),
    ],
)
def test_a_search_that_would_mislead_is_refused(tmp_path, changes, search, said):
    with pytest.raises(ConfigError, match=said):
        tune(experiment(**changes), search, tmp_path, n_trials=1)


@pytest.mark.parametrize(
    ("change", "search", "said"),
    [
        ({}, {"set_sizes": (2, 9)}, "'diversity.set_size': 9.*needs at least 10 generations per prompt"),
        (
            {"weight": "auto", "floor_margin": 0.1},
            {"weight": None, "learning_rate": (1e-5, 1e-3)},
            r"floor_margin is measured from the baseline of the same run.*search λ in its place \(--weight LOW,HIGH\)",
        ),
    ],
)
def test_trials_that_cannot_be_are_refused_before_the_baseline_is_trained(tmp_path, change, search, said):
    """Past bugs: a set size that no group has ended the search at its trial, and every later start at the same one; a
    floor that follows the baseline ended it with "train it first: --arm baseline", which search has no option for."""
    content = experiment().model_dump(mode="json")
    content["arms"]["coverage"]["diversity"] |= change
    chosen = Experiment.from_mapping(content)
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        tune(chosen, Search("coverage", **search), tmp_path, n_trials=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sizes", ["2.5,4", "inf", "nan"])
def test_set_sizes_are_whole_numbers(sizes):
    """Past bug: 2.5 was searched as 2, and inf was a traceback."""
    ending = command("tune", "experiments/quickstart.yaml", "--set-size", sizes, "--arm", "nobody")
    assert ending.errors.startswith(f"error: --set-size {sizes}: expected whole numbers"), ending.crash


def test_without_validation_prompts_nothing_is_searched(tmp_path):
    (tmp_path / "all.jsonl").write_text('{"prompt": "1,2=3: "}\n{"prompt": "2,2=4: "}\n')
    (tmp_path / "one.jsonl").write_text('{"prompt": "3,2=5: "}\n')
    task = {"name": "custom", "checker": "contains", "train": str(tmp_path / "all.jsonl")}
    task |= {"validation": str(tmp_path / "one.jsonl"), "test": str(tmp_path / "all.jsonl")}
    content = experiment().model_dump(mode="json") | {"task": task}
    content["evaluation"]["num_prompts"] = 2
    with pytest.raises(ConfigError, match="has 1 validation prompts, and settings are never chosen on the test split"):
        tune(Experiment.from_mapping(content), SEARCH, tmp_path, n_trials=1)


def test_the_best_settings_are_handed_over_as_overrides(tmp_path):
    from polychromic.experiment.cluster.tuning import Trial

    trial = Trial(3, {"diversity.weight": 1.234567891, "diversity.set_size": 3}, 0.5, 0.6, "kept")
    overrides = overrides_of(trial, "coverage")
    assert overrides == ["arms.coverage.diversity.weight=1.23457", "arms.coverage.diversity.set_size=3"]
    chosen = Experiment.from_file("experiments/quickstart.yaml", overrides)
    assert (chosen.arm("coverage").diversity.weight, chosen.arm("coverage").diversity.set_size) == (
        1.23457,
        3,
    )
