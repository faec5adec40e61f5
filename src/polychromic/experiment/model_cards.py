"""The README.md in every adapter's folder: what it is, what it was trained on, how it did and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polychromic.evaluation import Comparison, criteria_table, means_table, to_markdown
from polychromic.evaluation.rendering import Table, escape_markdown
from polychromic.experiment.config import Arm, Experiment
from polychromic.experiment.folder import RunFolder
from polychromic.files import read_json, write_text

_LOADING = """\
```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("FOLDER")  # the folder of this file
tokenizer = AutoTokenizer.from_pretrained(model.peft_config["default"].base_model_name_or_path)
```
"""


def write_model_cards(experiment: Experiment, folder: RunFolder, comparison: Comparison) -> None:
    """Write a card beside every trained adapter of the run."""
    made_of = read_json(folder.provenance) if folder.provenance.exists() else {}
    for name in experiment.arms:
        arm = experiment.arm(name)
        for seed in experiment.seeds:
            adapter = folder.job(name, seed) / "adapter"
            if not arm.untrained and adapter.is_dir():
                write_text(adapter / "README.md", model_card(experiment, arm, seed, comparison, made_of))


def model_card(
    experiment: Experiment, arm: Arm, seed: int, comparison: Comparison, made_of: Mapping[str, Any]
) -> str:
    """The card of one arm and seed as Markdown with the model hub's front matter."""
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
        f"{comparison.n_prompts} prompts of the {escape_markdown(experiment.evaluation.split)} split, "
        f"{experiment.evaluation.samples} answers each, sampled at {escape_markdown(comparison.headline)}; means over "
        f"{len(experiment.seeds)} training seeds with {100 * comparison.resampling.confidence:g} % intervals.",
        to_markdown(_own_means(comparison, arm.name)),
    ]
    if len(own) > 1:
        baseline = escape_markdown(comparison.baseline)
        parts += [f"Against the arm {baseline}, by the experiment's criteria:", to_markdown(own)]
    parts += [
        escape_markdown(f"{one.kind}: {one.text}") for one in comparison.cautions if one.arm == arm.name
    ]
    return "\n\n".join(part.rstrip("\n") for part in [*parts, "## Loading", _LOADING]) + "\n"


def _front_matter(arm: Arm) -> str:
    import yaml

    facts = {
        "base_model": arm.model.source,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "diversity", "polychromic"],
    }
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---"


def _training_facts(experiment: Experiment, arm: Arm, seed: int, made_of: Mapping[str, Any]) -> Table:
    training, diversity, adapter = arm.training, arm.diversity, arm.model.adapter
    length = f"{training.steps} steps" if training.steps else f"{training.epochs:g} epochs"
    facts = {
        "base model": arm.model.source,
        "task": experiment.task.name,
        **{f"data {name}": f"sha256 {digest}" for name, digest in made_of.get("data_sha256", {}).items()},
        **{f"weights {name}": f"sha256 {digest}" for name, digest in _weight_hashes(arm, made_of)},
        "signal": training.signal,
        "objective": f"{diversity.objective}, sets of {diversity.set_size}"
        if diversity.is_active
        else "quality alone",
        "λ": _weight(arm),
        "adapter": f"rank {adapter.rank}, alpha {adapter.alpha:g}, dropout {adapter.dropout:g}",
        "length": f"{length} of {training.prompts_per_step} prompts",
        "learning rate": f"{training.learning_rate:g}, {training.schedule}",
        "KL weight": f"{training.kl_weight:g}",
        "seed": str(seed),
        "code": _code(made_of),
    }
    return [[what, value] for what, value in facts.items()]


def _weight(arm: Arm) -> str:
    diversity = arm.diversity
    if diversity.weight != "auto":
        return f"{diversity.weight:g}"
    if diversity.mode == "share":
        return f"tuned to a gradient share of {diversity.target_share:g}"
    floor = diversity.quality_floor
    return (
        f"tuned to a quality of at least {floor:g}"
        if floor is not None
        else f"tuned to a quality within {diversity.floor_margin:g} of the baseline's"
    )


def _weight_hashes(arm: Arm, made_of: Mapping[str, Any]) -> list[tuple[str, str]]:
    return list(made_of.get("models", {}).get(arm.model.source, {}).get("sha256", {}).items())


def _code(made_of: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {found}" for name, found in made_of.get("packages", {}).items())
    commit = made_of.get("commit")
    return f"{packages}{f'; commit {commit}' if commit else ''}" or "unknown"


def _own_means(comparison: Comparison, arm: str) -> Table:
    """The columns of this arm and of the baseline."""
    table = means_table(comparison)
    wanted = [0, *(table[0].index(name) for name in dict.fromkeys([arm, comparison.baseline]))]
    return [[row[column] for column in wanted] for row in table]
