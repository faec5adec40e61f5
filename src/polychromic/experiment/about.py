"""Says in words what a run is of: model, adapter, task and example, data, arms, training, seeds, commit, machine."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polychromic.evaluation.criteria import plural
from polychromic.experiment.config import Arm, Experiment
from polychromic.files import read_derived
from polychromic.models.settings import ModelSettings
from polychromic.models.sources import model_name
from polychromic.objective.registry import find_objective
from polychromic.report.about import About, Example, own_folders
from polychromic.run_folder import RunFolder
from polychromic.tasks.base import Split, Task, TaskKeys

_HASH_DIGITS = 10  # of a SHA-256 or a commit: enough to recognise it


def about_run(experiment: Experiment, folder: RunFolder, task: Task) -> About:
    """Returns the facts of a run folder. What the folder does not record is left out."""
    record = read_derived(folder.provenance) or {}
    base = experiment.arm(experiment.comparison.baseline)
    trained = [experiment.arm(name) for name in experiment.trained_arms]
    counted = _parameters(experiment, folder)
    facts = [
        ("model", "; ".join(dict.fromkeys(_model(arm, counted) for arm in map(experiment.arm, experiment.arms)))),
        ("adapter", "; ".join(dict.fromkeys(_adapter(arm) for arm in trained)) or "none: nothing is trained"),
        ("task", task_in_words(experiment.task, task.pass_threshold)),
        ("data", _data(experiment, record)),
        *((f"arm {name}", objective_in_words(experiment.arm(name))) for name in experiment.arms),
        ("training", "; ".join(dict.fromkeys(_training(arm, task) for arm in trained))),
        ("seeds", ", ".join(map(str, experiment.seeds))),
        ("sampling", _sampling(experiment)),
        ("date", str(record.get("date", "")).replace("T", " ")),
        ("code", _code(record)),
        ("machine", _machine(record)),
    ]
    return About(
        tuple((name, value) for name, value in facts if value),
        first_example(task, experiment.evaluation.split),
        own_folders(experiment.model_dump(mode="json")) | own_folders({"base": _base_folder(base)}),
    )


def objective_in_words(arm: Arm) -> str:
    """Says what an arm maximises, its λ as a number, such as "reward + 1.5 × coverage (…)"."""
    if arm.verbalized is not None:
        return f"not trained; asked for {arm.verbalized} answers at once (verbalized sampling)"
    if arm.untrained:
        return "not trained"
    quality = "likelihood of the references" if arm.loss.reads_references else "reward"
    diversity = arm.diversity
    if not diversity.is_active:
        return f"{quality} alone (λ = 0)"
    entry = find_objective(diversity.objective)
    gate = f", gate {diversity.gate}" if "gates" in entry.reads else ""
    name = Path(diversity.objective).name
    weight = f"{diversity.weight:g}" if diversity.weight != "auto" else "λ"
    tuned = f"; λ {weight_in_words(arm)}" if diversity.weight == "auto" else ""
    return (
        f"{quality} + {weight} × {name} ({entry.sentence}; sets of {diversity.set_size} among "
        f"{arm.loss.num_samples} answers{gate}){tuned}"
    )


def weight_in_words(arm: Arm) -> str:
    """Returns λ, or what it is tuned to."""
    diversity = arm.diversity
    if diversity.weight != "auto":
        return f"{diversity.weight:g}"
    if diversity.mode == "share":
        return f"tuned to a gradient share of {diversity.target_share:g}"
    if diversity.quality_floor is not None:
        return f"tuned to a quality of at least {diversity.quality_floor:g}"
    return f"tuned to a quality within {diversity.floor_margin:g} of the baseline's"


def _base_folder(arm: Arm) -> str:
    """Returns the folder of a packaged or fetched base model, which settings name without it."""
    from polychromic.errors import ModelError
    from polychromic.models.sources import resolve_source

    try:
        return str(resolve_source(arm.model.source))
    except ModelError:
        return ""


def _parameters(experiment: Experiment, folder: RunFolder) -> list[tuple[ModelSettings, int]]:
    """Returns the models that preflight has counted the parameters of, the adapters' among them."""
    figures = {check["name"]: check["figures"] for check in (read_derived(folder.preflight) or {}).get("checks", [])}
    by_arm = {experiment.comparison.baseline: figures.get("model", {}).get("parameters")}
    by_arm |= figures.get("other models", {}).get("by_arm", {})
    return [(experiment.arm(name).model, n) for name, n in by_arm.items() if name in experiment.sampled_arms and n]


def _model(arm: Arm, counted: Sequence[tuple[ModelSettings, int]]) -> str:
    model = arm.model
    n = next((n for other, n in counted if other == model), None)
    parts = [
        f"{n / 1e6:,.1f} M parameters with its adapter" if n else "",
        f"revision {model.revision}" if model.revision else "",
        model.dtype,
        model.quantization if model.quantization != "none" else "",
    ]
    return f"{model_name(model.source)} ({', '.join(filter(None, parts))})"


def _adapter(arm: Arm) -> str:
    adapter = arm.model.adapter
    start = f", continued from {Path(adapter.start_from).name}" if adapter.start_from else ""
    return f"LoRA, rank {adapter.rank}, alpha {adapter.alpha:g}, dropout {adapter.dropout:g}{start}"


def task_in_words(settings: TaskKeys, pass_threshold: float) -> str:
    """Says what is asked and what passes."""
    meaning = " ".join((inspect.getdoc(type(settings)) or "").split("\n\n")[0].split())
    code = [f"{role} {Path(name).name}" for role, name in settings.code.items()]
    passes = f"An answer passes from a reward of {pass_threshold:g} on." if settings.has_checker else "No checker."
    parts = [f"{Path(settings.name).name}: {meaning}", passes, f"Code: {', '.join(code)}." if code else ""]
    return " ".join(filter(None, parts))


def _data(experiment: Experiment, record: Mapping[str, Any]) -> str:
    """Names the sizes and files of the splits, or how prompts were made where there are no files."""
    settings = experiment.evaluation
    used = f"{settings.num_prompts:,} {settings.split} prompts are evaluated"
    hashes = record.get("data_sha256", {})
    if not hashes:
        return f"{experiment.task.data}; {used}"
    sizes = ", ".join(f"{n:,} {split}" for split, n in record.get("prompts", {}).items() if n)
    files = ", ".join(f"{Path(name).name} (sha256 {digest[:_HASH_DIGITS]}…)" for name, digest in hashes.items())
    return "; ".join(filter(None, (f"prompts: {sizes}" if sizes else "", used, files)))


def _training(arm: Arm, task: Task) -> str:
    from polychromic.training.trainer import total_steps

    training = arm.training
    steps = total_steps(training, len(task.prompts("train")))
    samples = f" × {arm.loss.num_samples} answers" if not arm.loss.reads_references else ""
    kl = f", KL weight {training.kl_weight:g}" if training.kl_weight else ""
    return (
        f"{steps:,} steps of {training.prompts_per_step} prompts{samples}, learning rate "
        f"{training.learning_rate:g} ({training.schedule}){kl}"
    )


def _sampling(experiment: Experiment) -> str:
    settings = experiment.evaluation
    labels = [parameters.label for parameters in settings.sampling_parameters()]
    more = f"; {', '.join(labels[1:])} besides" if labels[1:] else ""
    return (
        f"{settings.num_samples} answers a prompt of at most {settings.max_new_tokens} tokens, judged at "
        f"{labels[0]}{more}"
    )


def _code(record: Mapping[str, Any]) -> str:
    source = record.get("polychromic_source") or {}
    commit = source.get("commit") or record.get("commit")
    packages = record.get("packages", {})
    parts = [
        f"polychromic {packages['polychromic']}" if "polychromic" in packages else "",
        f"commit {commit[:_HASH_DIGITS]}" if commit else "",
        "with uncommitted changes" if source.get("uncommitted_changes") else "",
        *(f"{name} {packages[name]}" for name in ("torch", "transformers") if name in packages),
    ]
    return ", ".join(filter(None, parts))


def _machine(record: Mapping[str, Any]) -> str:
    machine = record.get("machine", {})
    device = machine.get("device", "")
    threads = record.get("determinism", {}).get("threads")
    parts = [
        "CPU" if device == "cpu" else device,
        f"{plural(threads, 'thread')} a job" if machine and threads else "",
        machine.get("platform", ""),
    ]
    return ", ".join(filter(None, parts))


def first_example(task: Task, split: Split) -> Example | None:
    """Returns the first prompt of a split with its first reference, where it has one."""
    for prompt in task.prompts(split)[:1]:
        return Example(prompt.text, *([prompt.references[0], "a reference"] if prompt.references else ["", ""]))
    return None
