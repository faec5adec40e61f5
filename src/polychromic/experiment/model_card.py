"""Writes the README.md in every adapter's folder: what it is, what it was trained on, how it did and how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polychromic.evaluation import Comparison
from polychromic.evaluation.criteria import plural
from polychromic.experiment.about import objective_in_words, weight_in_words
from polychromic.experiment.config import Arm, Experiment
from polychromic.files import read_json, write_text
from polychromic.models.sources import HUB_IDS, known_sources, model_name
from polychromic.report.about import About
from polychromic.report.tables import Table, criteria_table, means_table
from polychromic.report.text import escape_markdown, to_markdown
from polychromic.run_folder import RunFolder

_LOADING = """\
```python
{imports}
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base}
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base{options}), ".")  # "." is this folder
tokenizer = AutoTokenizer.from_pretrained(base{options})
```
"""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def write_model_cards(experiment: Experiment, folder: RunFolder, comparison: Comparison, about: About) -> None:
    """Writes a card beside every trained adapter of the run."""
    made_of = read_json(folder.provenance) if folder.provenance.exists() else {}
    for name in experiment.arms:
        arm = experiment.arm(name)
        for seed in experiment.seeds:
            place = folder.arm(name, seed)
            if not arm.untrained and place.is_trained:
                card = model_card(experiment, arm, seed, comparison, made_of)
                write_text(place.adapter / "README.md", about.short(card))


def model_card(experiment: Experiment, arm: Arm, seed: int, comparison: Comparison, made_of: Mapping[str, Any]) -> str:
    """Writes the card of one arm and seed as Markdown with the model hub's front matter."""
    criteria = criteria_table(comparison)
    own = [criteria[0], *(row for row in criteria[1:] if row[1] == arm.name)]
    parts = [
        _front_matter(arm),
        f"# {escape_markdown(f'{experiment.name}: {arm.name}, seed {seed}')}",
        "A LoRA adapter trained with Polychromic to answer well and, where its λ is above 0, to give many different "
        "good answers.",
        "## Training",
        to_markdown([["what", "value"], *_training_facts(experiment, arm, seed, made_of)]),
        "## Evaluation",
        f"{plural(comparison.n_prompts, 'prompt')} of the {escape_markdown(experiment.evaluation.split)} split, "
        f"{experiment.evaluation.num_samples} answers each, sampled at {escape_markdown(comparison.primary_sampling)}; "
        f"means over {plural(len(experiment.seeds), 'training seed')} with "
        f"{100 * comparison.resampling.confidence:g} % intervals.",
        to_markdown(_own_means(comparison, arm.name)),
    ]
    if len(own) > 1:
        baseline = escape_markdown(comparison.baseline)
        parts += [f"Against the arm {baseline}, by the experiment's criteria:", to_markdown(own)]
    # Those of all arms too, such as a lenient checker or leakage: they hold for this one.
    warnings = [warning for warning in comparison.warnings if warning.arm in ("", arm.name)]
    if warnings:
        lines = (f"- {escape_markdown(f'{warning.kind}: {warning.text}')}" for warning in warnings)
        parts += ["Before you believe it:", "\n".join(lines)]
    parts += ["## Loading", _loading(arm), _sampling(experiment, arm, comparison)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _front_matter(arm: Arm) -> str:
    """Writes what a model hub reads."""
    import yaml

    facts = {
        "base_model": base_model(arm.model.source),
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "diversity", "polychromic"],
    }
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---"


def base_model(source: str) -> str:
    """Returns the base model's name in the form that a model hub takes (it refuses a card without one).

    A hub id is itself, a model that ships here its origin's id; of a folder it is the id that its configuration was
    read from, or else the folder's own name.
    """
    if source in HUB_IDS:
        return HUB_IDS[source]
    folder = Path(source).expanduser()
    if _HUB_ID.fullmatch(source) and not folder.exists():
        return source
    config = folder / "config.json"
    named = read_json(config).get("_name_or_path", "") if config.is_file() else ""
    if _HUB_ID.fullmatch(str(named)) and not str(named).startswith("."):
        return str(named)
    return re.sub(r"[^\w.-]+", "-", source.rpartition(":")[2].rstrip("/").rpartition("/")[2], flags=re.ASCII)


def _loading(arm: Arm) -> str:
    """Writes code that loads the adapter wherever its base model can be had, whatever folder that lay in while
    training."""
    model = arm.model
    is_own = model.source in known_sources()
    options = {"revision": model.revision, "trust_remote_code": model.trust_remote_code or None}
    return _LOADING.format(
        imports="from polychromic.models.sources import resolve_source" if is_own else "",
        base=f"resolve_source({model.source!r})" if is_own else repr(model_name(model.source)),
        options="".join(f", {name}={value!r}" for name, value in options.items() if value is not None),
    ).replace("```python\n\n", "```python\n")


def _sampling(experiment: Experiment, arm: Arm, comparison: Comparison) -> str:
    quantized = ""
    if arm.model.quantization != "none":
        quantized = f" The base was held in {arm.model.quantization} while training: load it so for the same answers."
    options = arm.model.chat_template_options
    template = f" (with {options})" if options else ""
    return escape_markdown(
        f"Prompts were put into the tokenizer's chat template{template} where it has one, and as they are where it has "
        f"none; answers were sampled at {comparison.primary_sampling}, at most "
        f"{experiment.evaluation.max_new_tokens} tokens." + quantized
    )


def _training_facts(experiment: Experiment, arm: Arm, seed: int, made_of: Mapping[str, Any]) -> Table:
    training, adapter = arm.training, arm.model.adapter
    weights = made_of.get("models", {}).get(arm.model.source, {}).get("sha256", {})
    length = f"{training.steps} steps" if training.steps else f"{training.epochs:g} epochs"
    facts = {
        "base model": model_name(arm.model.source),
        "task": experiment.task.name,
        "data": experiment.task.data,
        **{f"data {name}": f"sha256 {digest}" for name, digest in made_of.get("data_sha256", {}).items()},
        **{f"weights {name}": f"sha256 {digest}" for name, digest in weights.items()},
        "loss": training.loss,
        "objective": objective_in_words(arm),
        "λ": weight_in_words(arm),
        "adapter": f"rank {adapter.rank}, alpha {adapter.alpha:g}, dropout {adapter.dropout:g}",
        "length": f"{length} of {training.prompts_per_step} prompts",
        "learning rate": f"{training.learning_rate:g}, {training.schedule}",
        "KL weight": f"{training.kl_weight:g}",
        "seed": str(seed),
        "code": _code(made_of),
    }
    return [[name, value] for name, value in facts.items()]


def _code(made_of: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in made_of.get("packages", {}).items())
    commit = made_of.get("commit")
    return f"{packages}{f'; commit {commit}' if commit else ''}" or "unknown"


def _own_means(comparison: Comparison, arm: str) -> Table:
    """Returns the columns of this arm and of the baseline."""
    table = means_table(comparison)
    wanted = [0, *(table[0].index(name) for name in dict.fromkeys([arm, comparison.baseline]))]
    return [[row[column] for column in wanted] for row in table]
