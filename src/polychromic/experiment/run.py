"""Runs an experiment: preflight, every arm and seed, evaluation, report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from polychromic import stopping
from polychromic.errors import BudgetError, ConfigError, PolychromicError, StoppedError
from polychromic.evaluation.criteria import plural
from polychromic.experiment.cluster.launched import dismiss, lead
from polychromic.experiment.config import Experiment
from polychromic.experiment.costs import left_to_do, run_cost
from polychromic.experiment.executors import LedgerRows, build_executor
from polychromic.experiment.jobs import Job, JobEvent, OnEvent, Stage, in_order_of_need
from polychromic.experiment.progress import Ledger, Projection, paid
from polychromic.experiment.progress.display import activity, open_progress, say
from polychromic.experiment.result import RunResult
from polychromic.experiment.resuming.continuing import record_provenance, working_folder
from polychromic.experiment.resuming.provenance import add_model_checks
from polychromic.experiment.yaml_file import Overrides
from polychromic.files import user_path, write_json
from polychromic.ledger import priced_duration
from polychromic.models.sources import model_name, require_hub_or_copy, resolve_source
from polychromic.numerics import shown
from polychromic.processes import free_device_memory, is_launched
from polychromic.run_folder import RunFolder
from polychromic.tasks.base import build_task, own_code

if TYPE_CHECKING:
    from polychromic.evaluation import Comparison

logger = logging.getLogger(__name__)


def run(
    experiment: Experiment | str | Path,
    overrides: Overrides = (),
    *,
    out: str | Path = "runs",
    fresh: bool = False,
    yes: bool = False,
) -> RunResult:
    """Does the whole experiment and returns its comparison; continues where an earlier start stopped, and adds what is
    missing to a finished run. `fresh` moves what the folder holds aside, where training has finished only with `yes`.

        result = run("mine.yaml", {"training.steps": 20, "seeds": [0, 1, 2]})
        result.to_pandas()

    Raises PolychromicError with a message for people; what was done is kept.
    """
    experiment = as_experiment(experiment, overrides)
    say(_outline(experiment))
    require_models(experiment)
    with working_folder(experiment, user_path(out), fresh=fresh, yes=yes) as folder:
        if experiment.run.preflight:
            with activity("loading libraries and data"):
                from polychromic.experiment.preflight.runner import require_preflight

                _check_before_work(experiment)
                _require_trainers(experiment, folder)
            with paid(folder, experiment.budget, "preflight"):
                require_preflight(experiment, folder)
        do_jobs(experiment, folder, ("train", "evaluate"))
        return RunResult(folder, compare_and_report(experiment, folder))


def require_models(experiment: Experiment) -> None:
    """Raises ModelError where a model can neither be found nor be fetched: at once, before libraries are loaded."""
    for arm in map(experiment.arm, experiment.sampled_arms):
        require_hub_or_copy(resolve_source(arm.model.source), arm.model.revision)


def _outline(experiment: Experiment) -> str:
    """Says in a line what is about to be done."""
    baseline = experiment.arm(experiment.comparison.baseline)
    n_steps = baseline.training.steps if experiment.trained_arms else None
    steps = f", {plural(n_steps, 'step')} each" if n_steps else ""
    return (
        f"{experiment.name}: {model_name(baseline.model.source)}, arms {', '.join(experiment.arms)}, "
        f"{plural(len(experiment.seeds), 'seed')}{steps}"
    )


def as_experiment(experiment: Experiment | str | Path, overrides: Overrides = ()) -> Experiment:
    """Returns an experiment, read where it is a file with overrides in any of their forms, with its sizes lowered to
    what the data has."""
    if isinstance(experiment, Experiment):
        if overrides:
            raise ConfigError("overrides change an experiment file; an Experiment object has its values already")
        return within_data(experiment)
    if not isinstance(experiment, str | Path):
        raise ConfigError(f"experiment={shown(experiment)}: expected the path of an experiment file, or an Experiment")
    return within_data(Experiment.from_file(experiment, overrides))


def do_jobs(
    experiment: Experiment,
    folder: RunFolder,
    stages: tuple[Stage, ...],
    *,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> None:
    """Trains and samples every arm and seed (or the chosen ones), with progress on the terminal."""
    _check_before_work(experiment)
    if "train" in stages:
        _require_trainers(experiment, folder, arms)
    if left_to_do(experiment, folder):
        from polychromic.experiment.preflight.lengths import require_data_fits

        require_data_fits(experiment, build_task(experiment.task))
    threads = record_provenance(experiment, folder)
    trained = [folder.arm(arm, seed) for arm in experiment.trained_arms for seed in experiment.seeds]
    if "train" in stages and not all(place.is_trained for place in trained):
        _show_lengths(experiment)
        _warn_of_warmup(experiment)
    wanted_arms = arms or (experiment.sampled_arms if "evaluate" in stages else experiment.arms)
    known = set(experiment.jobs)
    waves = [
        [
            Job(experiment, arm, seed, folder.root, stages, threads)
            for seed in dict.fromkeys(seeds or experiment.seeds)  # each once: two jobs would write to one folder
            for arm in wave
            if (arm, seed) in known
        ]
        for wave in in_order_of_need(experiment, list(dict.fromkeys(wanted_arms)))
    ]
    ledger = Ledger(folder, experiment.budget)
    wanted = {(job.arm, job.seed, stage) for jobs in waves for job in jobs for stage in stages}
    projection = Projection(wanted.intersection(left_to_do(experiment, folder)), experiment.run.workers)
    with open_progress(projection, experiment.budget.dollars) as show:

        def on_event(event: JobEvent) -> None:
            ledger.on_event(event)
            show(event)

        try:
            for jobs in waves:
                require_budget(experiment, folder, ledger)
                _run_jobs(experiment, folder, jobs, on_event, ledger)
        except StoppedError:
            ledger.close()
            require_budget(experiment, folder, ledger)
            raise
        finally:
            ledger.close()
            add_model_checks(experiment, folder)
    if is_launched():
        dismiss()


def require_budget(experiment: Experiment, folder: RunFolder, ledger: Ledger) -> None:
    """Raises BudgetError where a cap is reached and work is left: what is left, and what it would cost."""
    reached = ledger.reached_cap
    cost = run_cost(experiment, folder)
    if not reached or not cost.left:
        return
    left = ", ".join(f"{arm}/seed-{seed} {stage}" for arm, seed, stage in cost.left)
    price = "" if cost.left_seconds is None else f" (about {priced_duration(cost.left_seconds, cost.left_dollars)}"
    source = " by preflight's estimate)" if cost.left_by_preflight else ")" if price else ""
    raise BudgetError(
        f"{reached}; everything done is kept. Left to do{price}{source}: {left}. Raise the cap and run again"
    )


def _run_jobs(experiment: Experiment, folder: RunFolder, jobs: list[Job], on_event: OnEvent, ledger: Ledger) -> None:
    def on_done(job: Job, rows: LedgerRows) -> None:
        ledger.on_done(job, rows)
        if job.arm == experiment.comparison.baseline:
            from polychromic.experiment.preflight.data import refuse_impossible_criteria

            refuse_impossible_criteria(experiment, folder)

    free_device_memory()  # of preflight's model: jobs may be other processes' work
    executor = lead if is_launched() else build_executor(experiment.run.executor)
    executor(jobs, experiment.run.workers, on_event, on_done)


def _check_before_work(experiment: Experiment) -> None:
    """Refuses what is known to fail before a model is loaded: too few prompts, unreadable files, no quantization."""
    build_executor(experiment.run.executor)
    quantized = [arm.model for arm in map(experiment.arm, experiment.arms) if arm.model.quantization != "none"]
    if quantized:
        from polychromic.models.loading import require_quantization_support

        require_quantization_support(quantized[0])
    task = build_task(experiment.task)
    split = experiment.evaluation.split
    if not task.prompts(split):
        raise ConfigError(f"task {task.name} has no {split} prompts, which the arms are compared on; add some")
    if not task.prompts("train") and experiment.trained_arms:
        raise ConfigError(
            f"task {task.name} has no training prompts, but {', '.join(experiment.trained_arms)} would be trained; "
            "name training data, or set untrained: true for every arm"
        )
    verbalized = [arm.model for arm in map(experiment.arm, experiment.arms) if arm.verbalized is not None]
    if verbalized:
        from polychromic.models.loading import load_tokenizer
        from polychromic.sampling.verbalized import require_chat_model

        for model in verbalized:
            require_chat_model(load_tokenizer(model))


def _require_trainers(experiment: Experiment, folder: RunFolder, arms: Sequence[str] | None = None) -> None:
    """Raises ConfigError where the trainer of an arm (of the chosen ones, or of all) that is still to be trained cannot
    be had: its turn may come in hours."""
    from polychromic.training.base import find_trainer

    chosen = arms or experiment.arms
    left = [arm for arm, _, stage in left_to_do(experiment, folder) if stage == "train" and arm in chosen]
    for engine in dict.fromkeys(experiment.arm(arm).training.engine for arm in left):
        find_trainer(engine)


def _show_lengths(experiment: Experiment) -> None:
    """Says how long prompts and references are where some are over a limit, which is never cut in silence; with
    --verbose always."""
    from polychromic.experiment.preflight.lengths import length_lines

    only_over = not logger.isEnabledFor(logging.INFO)
    for line in length_lines(experiment, build_task(experiment.task), only_over=only_over):
        say(line)


def _warn_of_warmup(experiment: Experiment) -> None:
    """Warns where an arm ends before its learning rate has risen to what the file states."""
    from polychromic.training.schedule import total_steps

    n_prompts = len(build_task(experiment.task).prompts("train"))
    for arm in map(experiment.arm, experiment.trained_arms):
        steps, warmup = total_steps(arm.training, n_prompts), arm.training.warmup_steps
        if warmup > steps:
            logger.warning(
                "arm %s: training.warmup_steps is %d, and it has %s: its learning rate ends at %.0f %% of "
                "training.learning_rate; lower warmup_steps",
                arm.name, warmup, plural(steps, "step"), 100 * steps / warmup,
            )  # fmt: skip


def compare_and_report(
    experiment: Experiment, folder: RunFolder, *, run_code: bool = True, for_print: bool = False
) -> Comparison:
    """Measures the generations of all arms and seeds, compares them, and writes comparison.json and the reports.

    Without `run_code` no checker of somebody's own is started: what an earlier comparison says of it is kept.
    `for_print` adds figures as PDF and a slide.
    """
    stopping.stop_if_requested("everything sampled is kept")
    with activity("measuring and comparing the answers"):
        from polychromic.experiment.about import about_run
        from polychromic.experiment.compare import compare_run, recorded_audit
        from polychromic.experiment.model_card import write_model_cards
        from polychromic.experiment.progress.watch import diagnose_run
        from polychromic.report.build import write_report

        task = build_task(experiment.task if run_code else experiment.task.without_code())
        audit = None if run_code or not own_code(experiment.task) else recorded_audit(folder)
        with paid(folder, experiment.budget, "comparison", calls_only=True):
            compared = compare_run(experiment, folder, task, audit=audit)
        about = about_run(experiment, folder, task)
        write_json(folder.comparison, about.shortened(compared.comparison.to_json()))
        write_report(
            folder.root,
            compared.comparison,
            arms=list(experiment.arms),
            seeds=experiment.seeds,
            pass_threshold=task.pass_threshold,
            diagnosis=diagnose_run(experiment, folder) if experiment.trained_arms else None,
            study=compared.study,
            prompt_texts={prompt.id: prompt.text for prompt in task.prompts(experiment.evaluation.split)},
            dollars_per_hour=experiment.budget.dollars_per_hour,
            about=about,
            for_print=for_print,
        )
        write_model_cards(experiment, folder, compared.comparison, about)
        return compared.comparison


def within_data(experiment: Experiment) -> Experiment:
    """Returns the experiment with `evaluation.num_prompts` lowered to the prompts that the evaluated split has, and
    says so in a line. What cannot be read, or has no prompts at all, is left to those who need it and say why."""
    settings = experiment.evaluation
    n_prompts = 0
    with suppress(PolychromicError):
        n_prompts = len(build_task(experiment.task.without_code()).prompts(settings.split))
    if not 0 < n_prompts < settings.num_prompts:
        return experiment
    if "num_prompts" in settings.model_fields_set:
        logger.warning(
            "evaluation.num_prompts is %d, and the %s split has %d: %s evaluated",
            settings.num_prompts,
            settings.split,
            n_prompts,
            "it is" if n_prompts == 1 else "all of them are",
        )
    return experiment.model_copy(update={"evaluation": settings.model_copy(update={"num_prompts": n_prompts})})
