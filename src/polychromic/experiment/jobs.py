"""One job is one arm with one seed: train it, then sample the evaluation prompts from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from polychromic import stopping
from polychromic.experiment.config import Arm, Experiment
from polychromic.experiment.floors import baseline_quality, is_measured_from
from polychromic.experiment.folder import RunFolder
from polychromic.experiment.tasks import build_task
from polychromic.seeding import deterministic

if TYPE_CHECKING:
    from polychromic.evaluation.collect import CollectionPlan
    from polychromic.models.loading import LanguageModel
    from polychromic.sampling.base import Sampler
    from polychromic.tasks.base import Task

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


OnEvent = Callable[[JobEvent], None]


def carry_out(job: Job, on_event: OnEvent) -> list[dict[str, Any]]:
    """Do a job's stages, continuing what an earlier start left; returns the ledger rows of the work done now."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # loading bars would tear the run's own progress
    arm = job.experiment.arm(job.arm)
    ledger = []
    for stage in job.stages:
        stopping.stop_if_requested(f"what was done before {job.arm}/seed-{job.seed} {stage} is kept")
        started = time.monotonic()
        work = _train if stage == "train" else _evaluate
        with deterministic(job.threads):
            tokens = work(job, arm, on_event)
        if tokens is not None:
            seconds = time.monotonic() - started
            ledger.append(
                {"arm": job.arm, "seed": job.seed, "stage": stage, "seconds": seconds, "tokens": tokens}
            )
    return ledger


def _train(job: Job, arm: Arm, on_event: OnEvent) -> int | None:
    """Train the arm; the number of sampled tokens, or None where nothing was left to do."""
    from polychromic.training.finished import is_trained
    from polychromic.training.loop import ArmRun, train_arm

    run = ArmRun(
        experiment=job.experiment.name,
        arm=arm.name,
        seed=job.seed,
        folder=RunFolder(job.root).job(arm.name, job.seed),
        task=build_task(job.experiment.task),
        model=arm.model,
        training=arm.training,
        diversity=arm.diversity,
        tracking=tuple(job.experiment.run.tracking),
        thinking=job.experiment.task.thinking,
        baseline_quality=baseline_quality(job.experiment, arm.name, job.seed, RunFolder(job.root)),
        is_measured_from=is_measured_from(job.experiment, arm.name),
    )
    if arm.untrained or is_trained(run.folder):
        return None
    on_event(_beginning(job, "train"))
    tokens = 0

    def on_step(done: int, total: int, metrics: Mapping[str, float]) -> None:
        nonlocal tokens
        tokens += round(metrics.get("generation/total_tokens", 0))
        on_event(JobEvent(arm.name, job.seed, "train", done, total, metrics))

    train_arm(run, on_step)
    return tokens


def _evaluate(job: Job, arm: Arm, on_event: OnEvent) -> int | None:
    """Sample the evaluation prompts and score their references; the number of tokens sampled now, or None where
    nothing was left to do."""
    from polychromic.evaluation.collect import collect
    from polychromic.experiment.references import score_references
    from polychromic.training.finished import adapter_digest

    folder = RunFolder(job.root)
    task = build_task(job.experiment.task)
    plan = collection_plan(job.experiment, job.arm, job.seed, folder, task)

    @cache
    def load_model() -> LanguageModel:
        from polychromic.models.loading import load_language_model
        from polychromic.models.selfcheck import check_on_prompts
        from polychromic.training.finished import add_model_check

        on_event(_beginning(job, "evaluate"))
        if arm.untrained:
            start = arm.model.adapter.start_from
            adapter = Path(start) if start else None
        else:
            adapter_digest(folder.job(arm.name, job.seed))  # answers of damaged weights look like any others
            adapter = folder.job(arm.name, job.seed) / "adapter"
        language_model = load_language_model(arm.model, adapter=adapter, trainable=False)
        check = check_on_prompts(
            language_model, plan.prompts, max_new_tokens=plan.ways[0].max_new_tokens, trains=False
        )
        add_model_check(folder.job(arm.name, job.seed), "evaluate", check)
        return language_model

    worked, sampled = False, 0

    def on_chunk(done: int, total: int, tokens: int) -> None:
        nonlocal worked, sampled
        worked = True
        sampled += tokens
        metrics = {"generation/total_tokens": float(tokens)}
        on_event(JobEvent(arm.name, job.seed, "evaluate", done, total, metrics))
        stopping.stop_if_requested(f"{arm.name}/seed-{job.seed} keeps its {done} generations")

    collect(
        plan,
        lambda: _sampler(job, arm, load_model(), plan.max_sequences),
        task,
        folder.generations(arm.name, job.seed),
        on_chunk,
    )
    # Verbalised prompts are not those that the references answer.
    if arm.verbalised is None:
        worked |= score_references(
            folder.references(arm.name, job.seed), plan.prompts, load_model, plan.adapter
        )
    return sampled if worked else None


def _beginning(job: Job, stage: Stage) -> JobEvent:
    return JobEvent(job.arm, job.seed, stage, 0, 0, {})


def collection_plan(
    experiment: Experiment, arm: str, seed: int, folder: RunFolder, task: Task
) -> CollectionPlan:
    """What is sampled. Arms share the random numbers of a prompt: what differs between them is the policy.

    Raises DataError where the arm is not trained, or its adapter is not what training wrote.
    """
    from polychromic.evaluation.collect import CollectionPlan
    from polychromic.training.finished import adapter_digest

    settings = experiment.evaluation
    untrained = experiment.arm(arm).untrained
    return CollectionPlan(
        prompts=tuple(task.prompts(settings.split)[: settings.prompts]),
        samples=settings.samples,
        ways=tuple(settings.sampling_parameters()),
        names=(experiment.name, seed),
        max_sequences=settings.max_sequences,
        adapter=None if untrained else adapter_digest(folder.job(arm, seed), may_be_gone=True),
    )


def _sampler(job: Job, arm: Arm, language_model: LanguageModel, max_sequences: int) -> Sampler:
    from polychromic.sampling.thinking import answer_sampler
    from polychromic.sampling.verbalised import VerbalisedSampler

    sampler = answer_sampler(language_model, max_sequences, job.experiment.task.thinking)
    if arm.verbalised is None:
        return sampler
    return VerbalisedSampler(sampler, language_model.tokenizer, arm.verbalised)
