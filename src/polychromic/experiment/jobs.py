"""Carries out a job: trains and samples one arm with one seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from polychromic import stopping
from polychromic.errors import ConfigError, TrainingError, is_out_of_memory, out_of_memory
from polychromic.experiment.config import Arm, Experiment
from polychromic.files import read_jsonl, write_json
from polychromic.ledger import calls_so_far
from polychromic.run_folder import RunFolder
from polychromic.sampling.base import build_sampler
from polychromic.seeding import deterministic
from polychromic.tasks.base import build_task

if TYPE_CHECKING:
    from polychromic.evaluation.collect import CollectionPlan
    from polychromic.models.loading import LanguageModel
    from polychromic.tasks.base import Task
    from polychromic.training.base import ArmRun


def in_order_of_need(experiment: Experiment, arms: Sequence[str]) -> list[list[str]]:
    """Splits the arms into one or two waves: those whose floor follows the baseline come after it."""
    followers = [arm for arm in arms if experiment.arm(arm).diversity.follows_baseline]
    first = [arm for arm in arms if arm not in followers]
    return [wave for wave in (first, followers) if wave]


def is_measured_from(experiment: Experiment, arm: str) -> bool:
    """Returns whether the floor of another arm follows this one."""
    others = [experiment.arm(name).diversity for name in experiment.arms if name != arm]
    return arm == experiment.comparison.baseline and any(other.follows_baseline for other in others)


def baseline_quality(experiment: Experiment, arm: str, seed: int, folder: RunFolder) -> tuple[float, ...]:
    """Reads the baseline's quality at each step of this seed; empty for an arm that does not follow it.

    Mean reward, or minus the cross-entropy of validation references: nan at steps that did not measure it.
    Raises ConfigError where the baseline has not been trained yet, or not with a look at validation references.
    """
    if not experiment.arm(arm).diversity.follows_baseline:
        return ()
    baseline = experiment.comparison.baseline
    trained = folder.arm(baseline, seed)
    if not trained.is_trained:
        raise ConfigError(
            f"arms.{arm}: diversity.floor_margin is measured from the trained arm {baseline!r}, and {trained.adapter} "
            f"does not exist; train it first: --arm {baseline} --seed {seed}"
        )
    key = experiment.arm(arm).loss.quality_key
    quality = quality_by_step(read_jsonl(trained.metrics), key)
    if all(map(math.isnan, quality)):
        raise ConfigError(
            f"arms.{arm}: diversity.floor_margin is measured from {key} of {trained.metrics}, which has none: "
            f"the arm {baseline!r} was trained without another arm that follows it; start anew with --fresh"
        )
    return quality


def quality_by_step(rows: Sequence[Mapping[str, Any]], key: str = "train/quality_loss") -> tuple[float, ...]:
    """Returns minus the loss of each row of metrics, nan where it has none: a trainer of one's own may not write it."""
    return tuple(math.nan if row.get(key) is None else -row[key] for row in rows)


Stage = Literal["train", "evaluate"]


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Progress of a job: steps or generations done of all, with the step's metrics while training.

    A stage's first event, before its model is loaded, has a total of 0: work begins here, and so does its price.
    """

    arm: str
    seed: int
    stage: Stage
    done: int
    total: int
    metrics: Mapping[str, float]
    root: Path | None = None
    """The run folder, where one search has several."""


_LEAST_STEPS = 5
_WINDOW = 0.2  # of all steps is looked back on


class BelowFloorError(Exception):
    """Ends training from within a step; never seen by people, who read it in the trial's state."""


@dataclass(frozen=True, slots=True)
class TrialFloor:
    """The baseline's quality by step (mean training reward), and how far below it a trial may lie.

    Trial and baseline see the same prompts at each step, so that their difference is compared: a trial is below where
    the mean difference of the last fifth of the steps lies under −margin by two standard errors. One that is only
    unlucky goes on; where it really is below, validation says so in the end.
    """

    baseline: tuple[float, ...]
    margin: float

    def is_below(self, qualities: Sequence[float], n_steps: int) -> bool:
        """Tells whether a trial with these qualities at its steps so far is below the floor."""
        window = max(_LEAST_STEPS, math.ceil(_WINDOW * n_steps))
        pairs = list(zip(qualities, self.baseline, strict=False))[-window:]
        if len(qualities) > len(self.baseline) or len(pairs) < window:
            return False
        differences = [one - other for one, other in pairs]
        mean = sum(differences) / window
        variance = sum((one - mean) ** 2 for one in differences) / (window - 1)
        return mean + 2 * math.sqrt(variance / window) < -self.margin


@dataclass(frozen=True, slots=True)
class Job:
    """One arm with one seed and the stages to carry out."""

    experiment: Experiment
    arm: str
    seed: int
    root: Path
    stages: tuple[Stage, ...] = ("train", "evaluate")
    threads: int | None = None
    """Threads to split work over: the run's own number, since the last bits of a sum depend on it. None: as it is."""
    shard: tuple[int, int] | None = None
    """(k, n): of the evaluation only each n-th batch from the k-th, into a file of its own, which the evaluation of the
    whole takes in."""
    floor: TrialFloor | None = None
    """Ends training, and the job, where its quality falls below this one: a trial of a search."""


OnEvent = Callable[[JobEvent], None]


def carry_out(job: Job, on_event: OnEvent) -> list[dict[str, Any]]:
    """Does a job's stages, continuing what an earlier start left; returns the ledger rows of the work done now."""
    arm = job.experiment.arm(job.arm)
    ledger = []
    for stage in job.stages:
        if job.floor is not None and RunFolder(job.root).arm(job.arm, job.seed).below_floor.exists():
            break
        stopping.stop_if_requested(f"what was done before {job.arm}/seed-{job.seed} {stage} is kept")
        started, calls = time.monotonic(), calls_so_far()
        work = _train if stage == "train" else _evaluate
        with deterministic(job.threads), _memory_in_words(job, stage):
            tokens = work(job, arm, on_event)
        if tokens is not None:
            seconds = time.monotonic() - started
            row = {"arm": job.arm, "seed": job.seed, "stage": stage, "seconds": seconds, "tokens": tokens}
            ledger.append({**row, **(calls_so_far() - calls).columns})
    return ledger


@contextmanager
def _memory_in_words(job: Job, stage: Stage) -> Iterator[None]:
    """Raises TrainingError with what takes less memory where it runs out in the block, on a GPU mostly."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{job.arm}/seed-{job.seed} {stage}: {out_of_memory(error)}; everything up to the last checkpoint is kept. "
            "Lower training.micro_batch_size, training.max_decode_batch and evaluation.max_decode_batch, which change "
            "no result, or set model.gradient_checkpointing, and run again to continue"
        ) from error


def arm_run(experiment: Experiment, arm: Arm, seed: int, folder: RunFolder, task: Task) -> ArmRun:
    """Collects what training has to know of one arm with one seed, but for the quality of a followed baseline."""
    from polychromic.training.base import ArmRun

    return ArmRun(
        experiment=experiment.name,
        arm=arm.name,
        seed=seed,
        folder=folder.arm(arm.name, seed).root,
        task=task,
        model=arm.model,
        training=arm.training,
        diversity=arm.diversity,
        tracking=tuple(experiment.run.tracking),
        thinking=experiment.task.thinking,
        sampling=experiment.sampling,
        is_measured_from=is_measured_from(experiment, arm.name),
    )


def trainable_run(job: Job) -> ArmRun | None:
    """Returns what training the job's arm has to know; None where it is trained already, or stays untrained."""
    from polychromic.training.artifacts import is_trained

    folder, arm = RunFolder(job.root), job.experiment.arm(job.arm)
    run = arm_run(job.experiment, arm, job.seed, folder, build_task(job.experiment.task))
    quality = baseline_quality(job.experiment, arm.name, job.seed, folder)
    return None if arm.untrained or is_trained(run.folder) else replace(run, baseline_quality=quality)


def _train(job: Job, arm: Arm, on_event: OnEvent) -> int | None:
    """Trains the arm; returns the number of sampled tokens, or None where nothing was left to do."""
    from polychromic.training.artifacts import is_trained
    from polychromic.training.base import build_trainer

    run = trainable_run(job)
    if run is None:
        return None
    on_event(_beginning(job, "train"))
    tokens = 0

    def on_step(done: int, total: int, metrics: Mapping[str, float]) -> None:
        nonlocal tokens
        tokens += round(metrics.get("generation/total_tokens", 0))
        on_event(JobEvent(arm.name, job.seed, "train", done, total, metrics, job.root))
        _require_floor(job, done, total)

    try:
        build_trainer(arm.training.engine).train(run, on_step)
    except BelowFloorError:
        return tokens
    if not is_trained(run.folder):
        raise TrainingError(
            f"the trainer {arm.training.engine} ended without a finished adapter in {run.folder}; docs/run-folder.md "
            "says what it has to write"
        )
    return tokens


def _require_floor(job: Job, done: int, total: int) -> None:
    """Ends a trial that is below its floor, and leaves the step in its folder, so that no start goes on with it."""
    if job.floor is None:
        return
    folder = RunFolder(job.root).arm(job.arm, job.seed)
    qualities = quality_by_step(read_jsonl(folder.metrics))
    if job.floor.is_below(qualities, total):
        write_json(folder.below_floor, {"step": done, "quality": qualities[-1]})
        raise BelowFloorError


def _evaluate(job: Job, arm: Arm, on_event: OnEvent) -> int | None:
    """Samples the evaluation prompts and scores their references; returns the tokens sampled now, or None where
    nothing was left to do."""
    from polychromic.evaluation.collect import collect
    from polychromic.experiment.references import score_references

    folder = RunFolder(job.root).arm(arm.name, job.seed)
    task = build_task(job.experiment.task)
    plan = collection_plan(job.experiment, job.arm, job.seed, RunFolder(job.root), task)
    load_model = cache(partial(_load_for_sampling, job, arm, plan, on_event))
    worked, sampled = False, 0

    def on_chunk(done: int, total: int, tokens: int) -> None:
        nonlocal worked, sampled
        worked = True
        sampled += tokens
        metrics = {"generation/total_tokens": float(tokens)}
        on_event(JobEvent(arm.name, job.seed, "evaluate", done, total, metrics, job.root))
        stopping.stop_if_requested(f"{arm.name}/seed-{job.seed} keeps its {done} generations")

    collect(
        plan,
        lambda: build_sampler(
            job.experiment.sampling,
            load_model(),
            max_decode_batch=plan.max_decode_batch,
            thinking=job.experiment.task.thinking,
            verbalized=arm.verbalized,
        ),
        task,
        folder.generations,
        on_chunk,
        job.shard,
    )
    # Verbalized prompts are not those that the references answer.
    if arm.verbalized is None and job.shard is None:
        worked |= score_references(folder.references, plan.prompts, load_model, plan.adapter)
    return sampled if worked else None


def _load_for_sampling(job: Job, arm: Arm, plan: CollectionPlan, on_event: OnEvent) -> LanguageModel:
    """Loads the model that an arm is evaluated with, and checks that it samples what it computes."""
    from polychromic.models.loading import load_language_model
    from polychromic.models.selfcheck import check_on_prompts
    from polychromic.training.artifacts import adapter_digest, add_model_check

    folder = RunFolder(job.root).arm(arm.name, job.seed)
    on_event(_beginning(job, "evaluate"))
    if arm.untrained:
        start = arm.model.adapter.start_from
        adapter = Path(start) if start else None
    else:
        adapter_digest(folder.root)  # answers of damaged weights look like any others
        adapter = folder.adapter
    language_model = load_language_model(arm.model, adapter=adapter, trainable=False)
    max_new_tokens = plan.sampling_settings[0].max_new_tokens
    check = check_on_prompts(language_model, plan.prompts, max_new_tokens=max_new_tokens, trains=False)
    add_model_check(folder.root, "evaluate", check)
    return language_model


def _beginning(job: Job, stage: Stage) -> JobEvent:
    """Announces work that loads a model."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # loading bars would tear the run's own progress
    return JobEvent(job.arm, job.seed, stage, 0, 0, {}, job.root)


def collection_plan(experiment: Experiment, arm: str, seed: int, folder: RunFolder, task: Task) -> CollectionPlan:
    """Plans what is sampled. Arms share the random numbers of a prompt: what differs between them is the policy.

    Raises DataError where the arm is not trained, or its adapter is not what training wrote.
    """
    from polychromic.evaluation.collect import CollectionPlan
    from polychromic.training.artifacts import adapter_digest

    settings = experiment.evaluation
    untrained = experiment.arm(arm).untrained
    return CollectionPlan(
        prompts=tuple(task.prompts(settings.split)[: settings.num_prompts]),
        samples=settings.num_samples,
        sampling_settings=tuple(settings.sampling_parameters()),
        names=(experiment.name, seed),
        max_decode_batch=settings.max_decode_batch,
        adapter=None if untrained else adapter_digest(folder.arm(arm, seed).root, may_be_gone=True),
    )
