"""Searches λ, K and the learning rate of one arm on validation prompts, and ends trials that fall below a floor.

A trial is the tuned arm in a run folder of its own below the study's, beside one baseline for all. It is trained as any
arm is and sampled on the validation split: the test split is never read, so that a verdict on the chosen settings is as
honest as on any. The study is a journal in its folder; after a kill the same command goes on with it. `budget` caps the
whole study; what it took is in a ledger beside the journal, a row for each trial, seed and stage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from polychromic import stopping
from polychromic.errors import BudgetError, ConfigError, StoppedError
from polychromic.evaluation.measure import SameAnswers
from polychromic.evaluation.metrics import EMBEDDER, THINKING, find_metric
from polychromic.experiment.compare import mean_over_prompts, measure_sampled
from polychromic.experiment.config import Experiment
from polychromic.experiment.executors import build_executor
from polychromic.experiment.jobs import Job, JobEvent, TrialFloor, quality_by_step
from polychromic.experiment.progress import Ledger
from polychromic.experiment.resuming.continuing import record_provenance, working_folder
from polychromic.experiment.resuming.folder import hold
from polychromic.files import read_jsonl, write_json
from polychromic.generations import read_generations
from polychromic.run_folder import RunFolder
from polychromic.seeding import child_seed
from polychromic.tasks.base import build_task

_JOURNAL, _RESULTS = "study.journal", "tuning.json"
_RANDOM_TRIALS = 8  # before the search follows what it has seen


@dataclass(frozen=True, slots=True)
class Search:
    """The settings that are searched, each range with its ends and on a logarithmic scale (None leaves one as the file
    has it), and the goal: the most of `metric` whose `quality` lies at most `margin` below the baseline arm's."""

    arm: str
    weight: tuple[float, float] | None = (0.1, 10.0)
    set_sizes: tuple[int, ...] | None = None
    learning_rate: tuple[float, float] | None = None
    metric: str = "distinct_correct"
    quality: str = "pass@1"
    margin: float = 0.05


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial that has ended. `value` and `quality` are means over validation prompts and seeds."""

    number: int
    settings: Mapping[str, float]
    value: float | None
    quality: float | None
    state: str
    """`kept`, `below the floor`, or `stopped early` where training was below it already."""


def tune(
    experiment: Experiment,
    search: Search,
    out: Path,
    *,
    n_trials: int,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """Carries out trials on the experiment's executor until `n_trials` have ended, those of earlier starts counted;
    returns them, the best first.

    Raises ConfigError where there is no validation split, the verdict would be on it, or the study in `out` is of
    another search, and BudgetError where a cap is reached before; what was done is kept.
    """
    _require_tunable(experiment, search)
    chosen = _on_validation(experiment)
    root = out / f"{experiment.name}.tune"
    with hold(RunFolder(root)), stopping.listening():
        study = _open_study(root, chosen, search)
        with _accounts(root, chosen, study, n_trials) as ledger:
            floors, lowest = _baseline(chosen, search, root, ledger)
        while (missing := n_trials - len(_ended(study))) > 0:
            asked = _ask(study, search, min(chosen.run.workers, missing))
            trials = {number: _variant(chosen, search.arm, settings) for number, settings in asked.items()}
            jobs = [
                job
                for number, variant in trials.items()
                for job in _jobs(variant, search.arm, root / f"trial-{number:04d}", floors)
            ]
            with _accounts(root, chosen, study, n_trials) as ledger:
                _carry_out(jobs, ledger)
            for number, variant in trials.items():
                on_trial(_tell(study, number, asked[number], _measure(variant, search, root, number), lowest))
            trials_so_far = [asdict(trial) for trial in _ranked(study, search)]
            summary = {"search": asdict(search), "lowest_quality": lowest, "trials": trials_so_far}
            write_json(root / _RESULTS, summary)
        return _ranked(study, search)


def _require_tunable(experiment: Experiment, search: Search) -> None:
    if search.weight is None and search.set_sizes is None and search.learning_rate is None:
        raise ConfigError("nothing to search; name a range for --weight, --set-size or --learning-rate")
    active = [name for name in experiment.arms if experiment.arm(name).diversity.is_active]
    if search.arm not in active:
        raise ConfigError(
            f"--arm {search.arm}: expected an arm with a diversity term: {', '.join(active) or 'the file has none'}"
        )
    if search.weight is None and experiment.arm(search.arm).diversity.follows_baseline:
        raise ConfigError(
            f"arms.{search.arm}: diversity.floor_margin is measured from the baseline of the same run, and trials "
            "have runs of their own; search λ in its place (--weight LOW,HIGH), or state diversity.quality_floor"
        )
    for size in search.set_sizes or ():  # before the baseline is trained
        _variant(experiment, search.arm, {"diversity.set_size": size})
    if experiment.arm(experiment.comparison.baseline).untrained:
        raise ConfigError("comparison.baseline is untrained; the floor is measured from a trained arm, so name another")
    if experiment.evaluation.split == "validation":
        raise ConfigError(
            "evaluation.split is validation: the verdict would be given on the prompts that settings are chosen on; "
            "set evaluation.split=test"
        )
    for key in (search.metric, search.quality):
        if find_metric(key).needs in (EMBEDDER, THINKING):
            raise ConfigError(f"{key} needs {find_metric(key).needs}; a search measures answers with the checker alone")
    n = len(build_task(experiment.task).prompts("validation"))
    if n < 2:
        raise ConfigError(
            f"task {experiment.task.name} has {n} validation prompts, and settings are never chosen on the test split; "
            "give it a validation split (task.validation, or task.validation_problems)"
        )


def _on_validation(experiment: Experiment) -> Experiment:
    """Returns the experiment judged on validation prompts, without arms that no trial needs."""
    n = len(build_task(experiment.task).prompts("validation"))
    content = experiment.model_dump(mode="json")
    content["evaluation"] |= {
        "split": "validation", "untrained": False, "num_prompts": min(n, experiment.evaluation.num_prompts),
        "sampling": content["evaluation"]["sampling"][:1],
    }  # fmt: skip
    return Experiment.from_mapping(content, source="the experiment on validation prompts")


def _variant(experiment: Experiment, arm: str, settings: Mapping[str, float]) -> Experiment:
    """Returns the experiment with the settings put into the arm."""
    content = experiment.model_dump(mode="json")
    for dotted, value in settings.items():
        section, key = dotted.split(".")
        content["arms"][arm][section] = (content["arms"][arm].get(section) or {}) | {key: value}
    return Experiment.from_mapping(content, source=f"a trial of {arm} with {dict(settings)}")


def _open_study(root: Path, experiment: Experiment, search: Search) -> Any:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise ConfigError("polychromic tune needs the package optuna; pip install 'polychromic[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    higher = find_metric(search.metric).better != "lower"
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(root / _JOURNAL))),
        study_name=experiment.name,
        direction="maximize" if higher else "minimize",
        load_if_exists=True,
    )
    wanted = json.loads(
        json.dumps({**asdict(search), "experiment": experiment.model_dump_json(exclude={"run", "budget"})})
    )
    begun = study.user_attrs.get("search", wanted)
    differing = [key for key in wanted if begun.get(key) != wanted[key]]
    if differing:
        raise ConfigError(
            f"{root} holds a study with other settings ({', '.join(differing)}); go on with its own, or use another "
            "place with --out"
        )
    study.set_user_attr("search", wanted)
    return study


@contextmanager
def _accounts(root: Path, experiment: Experiment, study: Any, n_trials: int) -> Iterator[Ledger]:
    """Yields the study's ledger. Raises BudgetError where a cap is reached at the start, or stops the work within."""
    ledger = Ledger(RunFolder(root), experiment.budget)

    def require_budget() -> None:
        if ledger.reached_cap:
            raise BudgetError(
                f"{ledger.reached_cap}; {len(_ended(study))} of {n_trials} trials have ended, and everything done is "
                "kept. Raise the cap and run again"
            )

    require_budget()
    try:
        yield ledger
    except StoppedError:
        require_budget()
        raise
    finally:
        ledger.close()


def _baseline(
    experiment: Experiment, search: Search, root: Path, ledger: Ledger
) -> tuple[dict[int, TrialFloor], float]:
    """Trains and samples the baseline once for all trials; returns the floor of each seed's training, and the lowest
    quality on validation that is kept."""
    name = experiment.comparison.baseline
    _carry_out(_jobs(experiment, name, root / "baseline", {}), ledger)
    folder = RunFolder(root / "baseline" / experiment.name)
    floors = {}
    if experiment.arm(name).training.loss == "rl":
        for seed in experiment.seeds:
            rows = read_jsonl(folder.arm(name, seed).metrics)
            floors[seed] = TrialFloor(quality_by_step(rows), search.margin)
    quality = _means(experiment, folder, name, [search.quality])[search.quality]
    return floors, quality - search.margin


def _jobs(experiment: Experiment, arm: str, out: Path, floors: Mapping[int, TrialFloor]) -> list[Job]:
    """Opens the run folder of a trial and returns its jobs."""
    with working_folder(experiment, out) as folder:
        threads = record_provenance(experiment, folder)
        return [
            Job(experiment, arm, seed, folder.root, ("train", "evaluate"), threads, floor=floors.get(seed))
            for seed in experiment.seeds
        ]


def _carry_out(jobs: Sequence[Job], ledger: Ledger) -> None:
    """Carries out jobs; in the ledger each has the name of its trial in the arm's place, since all are of one arm."""

    def on_event(event: JobEvent) -> None:
        assert event.root is not None
        ledger.on_event(replace(event, arm=event.root.parent.name))

    def on_done(job: Job, rows: Sequence[Mapping[str, Any]]) -> None:
        trial = job.root.parent.name
        ledger.on_done(replace(job, arm=trial), [{**row, "arm": trial} for row in rows])

    settings = jobs[0].experiment.run
    build_executor(settings.executor)(jobs, settings.workers, on_event, on_done)


def _ask(study: Any, search: Search, n: int) -> dict[int, dict[str, float]]:
    """Returns the settings of n trials by number: those that a kill left come first."""
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space: dict[str, Any] = {}
    if search.weight is not None:
        space["diversity.weight"] = FloatDistribution(*search.weight, log=True)
    if search.set_sizes is not None:
        space["diversity.set_size"] = CategoricalDistribution(list(search.set_sizes))
    if search.learning_rate is not None:
        space["training.learning_rate"] = FloatDistribution(*search.learning_rate, log=True)
    asked: dict[int, dict[str, float]] = {}
    for left in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if left.params.keys() != space.keys():  # killed while it was being asked for
            study.tell(left.number, state=optuna.trial.TrialState.FAIL)
        elif len(asked) < n:
            asked[left.number] = dict(left.params)
    while len(asked) < n:
        # Seeded by the trial's number, so that a later start neither repeats the draws of the first nor differs from
        # one that was never stopped. Trials side by side keep away from each other (constant_liar).
        seed = child_seed(study.study_name, "tune", len(study.get_trials(deepcopy=False))) % 2**32
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS, constant_liar=True)
        trial = study.ask(space)
        asked[trial.number] = dict(trial.params)
    return asked


def _measure(experiment: Experiment, search: Search, root: Path, number: int) -> tuple[float, float] | None:
    """Returns value and quality of a trial; None where it was stopped below the floor while training."""
    folder = RunFolder(root / f"trial-{number:04d}" / experiment.name)
    if any(folder.arm(search.arm, seed).below_floor.exists() for seed in experiment.seeds):
        return None
    means = _means(experiment, folder, search.arm, [search.metric, search.quality])
    return means[search.metric], means[search.quality]


def _means(experiment: Experiment, folder: RunFolder, arm: str, keys: Sequence[str]) -> dict[str, float]:
    """Averages metrics over prompts where they are defined, and over seeds."""
    task = build_task(experiment.task)
    same = SameAnswers.of(task, "validation")
    found: dict[str, list[float]] = {key: [] for key in keys}
    for seed in experiment.seeds:
        table = measure_sampled(experiment, task, read_generations(folder.arm(arm, seed).generations), same)
        for key in keys:
            mean = mean_over_prompts(table, key)
            if math.isnan(mean):
                raise ConfigError(f"{key} is undefined on every validation prompt of {arm}; choose another metric")
            found[key].append(mean)
    return {key: float(np.mean(means)) for key, means in found.items()}


def _tell(
    study: Any, number: int, settings: Mapping[str, float], measured: tuple[float, float] | None, lowest: float
) -> Trial:
    """Enters a trial that has ended into the study. What is below the floor has no value there, however diverse."""
    import optuna

    value, quality = measured or (None, None)
    kept = quality is not None and quality >= lowest
    state = "kept" if kept else "below the floor" if measured else "stopped early"
    # A trial's attributes are written before its end: a kill between the two leaves one that is told again.
    storage, trial_id = study._storage, study.get_trials(deepcopy=False)[number]._trial_id
    storage.set_trial_user_attr(trial_id, "state", state)
    storage.set_trial_user_attr(trial_id, "measured", measured)
    if kept:
        study.tell(number, value)
    else:
        study.tell(number, state=optuna.trial.TrialState.PRUNED)
    return Trial(number, settings, value, quality, state)


def _ended(study: Any) -> list[Trial]:
    """Returns the trials that have ended, in the order in which they were asked for."""
    trials = []
    for one in study.get_trials(deepcopy=False):
        if not one.state.is_finished() or "state" not in one.user_attrs:
            continue
        value, quality = one.user_attrs["measured"] or (None, None)
        trials.append(Trial(one.number, dict(one.params), value, quality, one.user_attrs["state"]))
    return trials


def _ranked(study: Any, search: Search) -> list[Trial]:
    """Returns the trials that have ended, the kept ones first, the best of them first."""
    sign = -1.0 if find_metric(search.metric).better != "lower" else 1.0

    def rank(trial: Trial) -> tuple[bool, float]:
        return trial.state != "kept", math.inf if trial.value is None else sign * trial.value

    return sorted(_ended(study), key=rank)


def overrides_of(trial: Trial, arm: str) -> list[str]:
    """Returns the overrides that put a trial's settings into the experiment."""
    return [f"arms.{arm}.{key}={value:.6g}" for key, value in trial.settings.items()]
