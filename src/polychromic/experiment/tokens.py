"""What the tokenizer tells before a model is loaded: how long prompts and references are, and whether it can chat."""

from __future__ import annotations

from polychromic.experiment.config import Experiment
from polychromic.models.loading import load_context_length, load_tokenizer
from polychromic.sampling.verbalised import require_chat_model
from polychromic.tasks.base import Task
from polychromic.tasks.lengths import length_report


def require_chat_for_verbalised(experiment: Experiment) -> None:
    """Raise ModelError where an arm is verbalised and its model cannot be asked for several answers."""
    for arm in map(experiment.arm, experiment.arms):
        if arm.verbalised is not None:
            require_chat_model(load_tokenizer(arm.model))


def length_lines(experiment: Experiment, task: Task) -> list[str]:
    """How many tokens the training prompts and references have, and what becomes of those over a limit."""
    arm = experiment.arm(experiment.comparison.baseline)
    context, new_tokens = load_context_length(arm.model), arm.training.max_new_tokens
    report = length_report(
        load_tokenizer(arm.model),
        task.prompts("train"),
        max_prompt=context - new_tokens,
        max_reference=new_tokens,
        max_length=arm.training.max_length,
        **arm.model.chat_template_options,
    )
    lines = [f"training prompts: {report.prompts}, what the context leaves beside {new_tokens} new tokens"]
    if report.references and report.pairs and arm.training.signal == "references":
        lines += [
            f"references: {report.references}, training.max_new_tokens: longer ones cannot be sampled",
            f"prompt and reference: {report.pairs}, training.max_length: longer ones are left out",
        ]
    return lines
