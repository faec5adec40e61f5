"""Checks which answers count as the same, before anything is paid for by it."""

from __future__ import annotations

from polychromic.evaluation.audits.partition import answers_of, audit_partition
from polychromic.experiment.preflight.probe import Finding, Probe
from polychromic.tasks.equivalence import equivalence_of, second_equivalence_of


def same_answers_are_found(probe: Probe) -> Finding:
    """Checks that the partition merges and keeps apart controls and first answers as it should, and that a classifier,
    judge or function answers at all."""
    task = probe.task
    equivalence = equivalence_of(task)
    stated = getattr(task, "same", None)
    prompts = {prompt.id: prompt for prompt in [*task.prompts("validation"), *probe.evaluation_prompts]}
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
    figures = {
        "agreement": None if audit.agreement is None else audit.agreement.mean,
        "unlabelled": unlabelled,
    }
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
