"""What a task says of generation rows: the checker's word, the judge's, and the canonical form of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polychromic.records import Check, GenerationRow, Prompt
from polychromic.tasks.base import Task

_NOT_GIVEN = "the model gave fewer answers than it was asked for"


def check_rows(task: Task, prompts: Sequence[Prompt], rows: Sequence[GenerationRow]) -> list[GenerationRow]:
    """The rows, each an answer to prompts[i], with what the task says of them.

    An answer that was never given (`finish` "missing") is not shown to a checker: there is nothing to judge.
    """
    given = [index for index, row in enumerate(rows) if row.finish != "missing"]
    asked, texts = [prompts[index] for index in given], [rows[index].text for index in given]
    checks = task.check(asked, texts)
    judged = task.judge(asked, texts) or [Check(None)] * len(given)
    checked = [replace(row, error=_NOT_GIVEN) for row in rows]
    for index, prompt, text, check, judgement in zip(given, asked, texts, checks, judged, strict=True):
        checked[index] = replace(
            rows[index],
            reward=check.reward,
            error=check.error,
            judge=judgement.reward,
            judge_error=judgement.error,
            cluster=task.cluster(prompt, text),
        )
    return checked
