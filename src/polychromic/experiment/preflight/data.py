"""Checks the data, the checker, the metrics, which answers count as the same, whether the criteria can be met, and that
trackers can be written to."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from urllib.parse import urlsplit

import numpy as np

from polychromic.diversity import check_measures, load_embedder
from polychromic.errors import ConfigError, ModelError
from polychromic.evaluation.audits.checker import GOOD, audit_checker, find_leakage
from polychromic.evaluation.audits.partition import answers_of, audit_partition
from polychromic.evaluation.criteria import Criterion, impossible_criteria, plural
from polychromic.evaluation.measure import SameAnswers
from polychromic.experiment.compare import mean_over_prompts, measure_sampled
from polychromic.experiment.config import Experiment
from polychromic.experiment.preflight.lengths import arm_lengths, require_data_fits
from polychromic.experiment.preflight.probe import CheckSkippedError, Finding, Probe
from polychromic.generations import scan_generations
from polychromic.models.loading import load_limits, load_tokenizer
from polychromic.records import Prompt
from polychromic.run_folder import RunFolder
from polychromic.tasks.base import build_task
from polychromic.tasks.equivalence import equivalence_of, second_equivalence_of
from polychromic.training.trackers import WANDB_ADDRESS, has_wandb_account

logger = logging.getLogger(__name__)

_LENGTHS_OF = 2000  # prompts whose tokens are counted; the rest is alike


def prompts_and_references(probe: Probe) -> Finding:
    """Checks that everything can be encoded and fits; counts prompts, lengths and repetitions."""
    train, test = probe.task.prompts("train"), probe.evaluation_prompts
    reads_references = probe.baseline.loss.reads_references
    without = sum(not prompt.references for prompt in train)
    if reads_references and without == len(train):
        return Finding(
            "failed",
            "no training prompt has a reference, which training.loss: sft learns from",
            "add references, or train with training.loss: rl",
        )
    warnings = _warnings(train, test, without if reads_references else 0)
    lengths, over = _shown_lengths(probe, train)
    result = f"{len(train)} training and {len(test)} {probe.experiment.evaluation.split} prompts; {lengths}"
    if over:
        warnings.append(f"{over} training pairs are longer than training.max_length and are left out")
    if warnings:
        return Finding("warned", f"{result}; {'; '.join(warnings)}", "clean the files; the run goes on as they are")
    return Finding("passed", result)


def _warnings(train: Sequence[Prompt], test: Sequence[Prompt], without_references: int) -> list[str]:
    warnings = []
    repeated = find_leakage(train, []).repeated
    if repeated:
        warnings.append(f"{len(repeated)} training prompts repeat another")
    leakage = find_leakage(test, train)
    warnings += leakage.sentences()
    if leakage.repeated:
        warnings.append(leakage.repetition())
    if without_references:
        warnings.append(f"{without_references} training prompts have no reference and are not learnt from")
    return warnings


def _shown_lengths(probe: Probe, train: Sequence[Prompt]) -> tuple[str, int]:
    """Tells lengths in tokens, for which the tokenizer is enough; the check of the model says why there is none."""
    try:
        load_tokenizer(probe.baseline.model)
        load_limits(probe.baseline.model)
    except ModelError:
        return "lengths unknown without the model", 0
    encoded = require_data_fits(probe.experiment, probe.task)
    report = arm_lengths(probe.baseline, train[:_LENGTHS_OF])
    references = f"; references {report.references}" if report.references else ""
    whole = f"{encoded} encoded, none with a token of structure in its text or a message lost in the template"
    return f"prompts {report.prompts}{references}; {whole}", report.pairs.n_over if report.pairs else 0


_AUDITED_PROMPTS = 100
_CHECKERS_PART = 0.15  # of the time that preflight has
_NEAR = 0.02


def measures_order_known_groups(probe: Probe) -> Finding:
    """Checks that every measure puts identical, mixed and different texts in order: none is silently 0."""
    embedder = load_embedder(probe.experiment.evaluation.embedder or "hash")
    checks = check_measures(embedder)
    wrong = [check.measure for check in checks if not check.passed]
    if wrong:
        return Finding(
            "failed",
            f"out of order on known groups: {', '.join(wrong)} (embedder: {embedder.name})",
            "choose another embedder, or report the measure as broken",
        )
    return Finding(
        "passed",
        f"{len(checks)} measures order identical < mixed < different groups, those of meaning by {embedder.name}",
    )


def checker_tells_good_from_bad(probe: Probe) -> Finding:
    """Checks that the checker answers at all, passes references, and refuses shuffled, empty, echoed and repeated
    text."""
    if not probe.experiment.task.has_checker:
        raise CheckSkippedError("no checker is named, so that no answer has a reward")
    everything = (probe.task.prompts("validation") or probe.evaluation_prompts)[:_AUDITED_PROMPTS]
    prompts, lowered = _audited(probe, everything)
    audit = audit_checker(probe.task.check, prompts, pass_threshold=probe.task.pass_threshold)
    figures = {name: control.pass_rate for name, control in audit.controls.items() if control.n}
    if audit.judged_none and figures.get(GOOD) is not None:
        fix = "mend the checker, or what it needs: without rewards training stops, and no quality can be compared"
        return Finding("failed", audit.sentence, fix, figures)
    rates = ", ".join(
        f"{name} {'not judged' if math.isnan(rate) else f'{100 * rate:.0f} %'}" for name, rate in figures.items()
    )
    fix = ""
    if audit.failing:
        fix = "see that the checker judges answers that are known to be good: what it does not judge has no reward"
    elif audit.lenient:
        fix = "make the checker stricter: what it passes is what training will produce"
    elif audit.harsh:
        fix = "check the references and the threshold"
    return Finding("warned" if fix else "passed", f"{audit.sentence} Passing: {rates}{lowered}.", fix, figures)


def _audited(probe: Probe, prompts: Sequence[Prompt]) -> tuple[Sequence[Prompt], str]:
    """Returns as many prompts as a slow checker has time for, and what was lowered."""
    first = prompts[:1]
    probe.task.check(first, [""] * len(first))  # starts its process
    started = time.perf_counter()
    probe.task.check(first, [prompt.text for prompt in first])
    texts = 3 + sum(2 * len(prompt.references) for prompt in prompts) / max(1, len(prompts))
    seconds_each = (time.perf_counter() - started) * texts
    n = probe.limit.most(len(prompts), seconds_each, _CHECKERS_PART)
    return prompts[:n], probe.limit.lowered(n, len(prompts), "prompts")


def feasibility(probe: Probe) -> Finding:
    """Tells what the untrained model reaches, where a metric cannot improve, and which criteria that rules out."""
    n = len(probe.generations.rows) // len({row.prompt_id for row in probe.generations.rows})
    keys = ("pass@1", f"pass@{n}", "distinct_2", "self_bleu")
    shown = {key: value for key in keys if not math.isnan(value := probe.metric(key))}
    result = "untrained: " + ", ".join(f"{key} {value:.3f}" for key, value in shown.items())
    kept = "; the run keeps these answers" if probe.generations.of_the_run else ""
    result += f" ({plural(probe.generations.n_prompts, 'prompt')} × {n} answers{kept}){probe.generations.lowered}"
    criteria = _criteria(probe.experiment)
    reached = {criterion.metric: probe.metric(criterion.metric) for criterion in criteria}
    impossible = impossible_criteria(criteria, reached)
    edges = _at_an_edge(shown, f"pass@{n}")
    if not impossible and not edges:
        return Finding("passed", result, figures=shown)
    return Finding(
        "warned",
        f"{result}. {'. '.join([*impossible, *edges])}",
        "a criterion that the untrained model already rules out is going to come out as impossible: state another "
        "one, or make the task harder",
        shown,
    )


def _at_an_edge(metrics: Mapping[str, float], last: str) -> list[str]:
    """Names pass@k that cannot rise, and pass@n so low that training would hardly ever see a reward."""
    full = [
        f"{key} is {metrics[key]:.3f}, which cannot rise"
        for key in ("pass@1", last)
        if metrics.get(key, math.nan) >= 1 - _NEAR
    ]
    if metrics.get(last, math.nan) <= _NEAR:
        return [*full, f"{last} is {metrics[last]:.3f}: hardly any reward to learn from"]
    return full


def _criteria(experiment: Experiment) -> list[Criterion]:
    return [criterion for level in experiment.comparison.levels().values() for criterion in level]


def refuse_impossible_criteria(experiment: Experiment, folder: RunFolder) -> None:
    """Raises ConfigError where the sampled baseline rules out a criterion that the file states and work is left to do.

    Default criteria that are ruled out are only warned about, since nobody asked for them, and all are with
    `comparison.if_impossible: report`. Metrics that need an embedder are left to the comparison.
    """
    comparison = experiment.comparison
    others = [arm for arm in experiment.arms if arm != comparison.baseline]
    places = [folder.arm(arm, seed) for arm in others for seed in experiment.seeds]
    if all(place.generations.exists() or place.is_trained for place in places):
        return
    sentences = impossible_criteria(_criteria(experiment), baseline_means(experiment, folder))
    if not sentences:
        return
    text = f"the baseline arm {comparison.baseline!r} rules out what comparison asks for: {'; '.join(sentences)}"
    if (comparison.minimum or comparison.strong) and comparison.if_impossible == "stop":
        raise ConfigError(
            f"{text}. State another criterion (or a harder task), or go on with comparison.if_impossible=report; "
            "what was done is kept"
        )
    logger.warning("%s; it is reported as impossible", text)


def baseline_means(experiment: Experiment, folder: RunFolder) -> dict[str, float]:
    """Averages the criteria's metrics at the primary sampling over the seeds sampled so far; empty without any."""
    primary_sampling = experiment.evaluation.sampling_parameters()[0].label
    task = build_task(experiment.task)
    same = SameAnswers.of(task, experiment.evaluation.split)
    tables = []
    for seed in experiment.seeds:
        # Damaged rows of seeds whose turn has not come yet are sampled again then.
        rows = scan_generations(folder.arm(experiment.comparison.baseline, seed).generations).rows
        rows = [row for row in rows if row.sampling.label == primary_sampling]
        if rows:
            tables.append(measure_sampled(experiment, task, rows, same))
    found = {}
    for key in {criterion.metric for criterion in _criteria(experiment)}:
        means = [mean_over_prompts(table, key) for table in tables]
        if not np.isnan(means).all():
            found[key] = float(np.nanmean(means))
    return found


def same_answers_are_found(probe: Probe) -> Finding:
    """Checks that the partition merges and keeps apart controls and first answers as it should, and that a classifier,
    judge or function answers at all."""
    task = probe.task
    equivalence = equivalence_of(task)
    stated = getattr(task, "same", None)
    prompts = probe.generations.prompts
    answers = answers_of(probe.generations.rows)
    audit = audit_partition(
        equivalence,
        [prompts[prompt_id] for prompt_id in answers],
        answers,
        second=second_equivalence_of(task, probe.experiment.evaluation.embedder),
        references_are_same=stated is not None and stated.references_are_same,
    )
    if audit is None:
        return Finding("passed", f"by {equivalence.name}")
    unlabelled = audit.unlabelled.failed / max(1, audit.unlabelled.n)
    figures = {"agreement": None if audit.agreement is None else audit.agreement.mean, "unlabelled": unlabelled}
    allowed = min((arm.training.max_unlabelled for arm in probe.trained_arms), default=0.5)
    if unlabelled > allowed:
        return Finding(
            "failed",
            f"{audit.sentence}. The first reason: {audit.first_reason}",
            "see that the function, classifier or judge of task.same_answer answers: training would stop at once",
            figures,
        )
    if audit.faults:
        fix = "state another task.same_answer (docs/same-answer.md says which suits what): every count rests on it"
        return Finding("warned", audit.sentence, fix, figures)
    return Finding("passed", audit.sentence, figures=figures)


_REACH_SECONDS = 5.0


def trackers(probe: Probe) -> Finding:
    """Checks that the wanted trackers are installed and their service answers; metrics.jsonl is always written."""
    names = probe.experiment.run.tracking
    if not names:
        return Finding("passed", "metrics.jsonl only; no tracker asked for")
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        return Finding(
            "failed",
            f"run.tracking: {', '.join(missing)} not installed",
            f"pip install 'polychromic[{','.join(missing)}]', or leave it out",
        )
    result = f"{', '.join(names)} installed"
    if "wandb" not in names:
        return Finding("passed", f"{result}; written on this machine")
    return _wandb(result)


def _wandb(result: str) -> Finding:
    """Tries to reach Weights & Biases, the one tracker that needs a service."""
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled") or (mode is None and not has_wandb_account()):
        why = f"WANDB_MODE={mode}" if mode else "no WANDB_API_KEY and no `wandb login`"
        return Finding("passed", f"{result}; wandb logs offline ({why})")
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return Finding("passed", f"{result}; wandb is behind a proxy and was not tried")
    address = os.environ.get("WANDB_BASE_URL", WANDB_ADDRESS)
    place = urlsplit(address)
    try:
        port = place.port or (80 if place.scheme == "http" else 443)
        socket.create_connection((place.hostname or "", port), timeout=_REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        return Finding(
            "warned",
            f"{result}; {address} cannot be reached ({error})",
            "set WANDB_MODE=offline and `wandb sync` later; metrics.jsonl is written either way",
        )
    return Finding("passed", f"{result}; {address} answers")
