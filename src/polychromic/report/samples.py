"""The answers that the page shows, prompt by prompt: near-duplicates grouped, the same group in every arm."""

from __future__ import annotations

import base64
import gzip
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polychromic.evaluation import Comparison, find_metric
from polychromic.evaluation.collect import read_generations
from polychromic.evaluation.study import Study
from polychromic.files import strict_json
from polychromic.records import GenerationRow

_ALIKE = 85.0
"""Two texts are near-duplicates from this share (in %) of equal characters on (rapidfuzz ratio), case aside."""

_SHOWN_METRICS = (
    "pass@1", "reward", "judge", "distinct_correct", "rarefied_distinct_2", "distinct_2", "self_bleu",
    "semantic_distance", "tokens",
)  # fmt: skip

Answers = Mapping[str, Sequence[GenerationRow]]
"""One prompt's rows by arm."""


def explorer_data(
    root: Path,
    comparison: Comparison,
    arms: Sequence[str],
    seed: int,
    *,
    prompt_texts: Mapping[str, str],
    study: Study | None,
) -> dict[str, Any]:
    """All that the sample explorer needs: metrics, and for every prompt its text, values by arm and answer groups."""
    by_prompt: dict[str, dict[str, list[GenerationRow]]] = {}
    for arm in arms:
        for row in read_generations(root / arm / f"seed-{seed}" / "generations.jsonl"):
            if row.sampling.label == comparison.headline:
                by_prompt.setdefault(row.prompt_id, {}).setdefault(arm, []).append(row)
    metrics, values = _values(comparison, study)
    return {
        "baseline": comparison.baseline,
        "metrics": metrics,
        "prompts": [
            {
                "prompt": prompt,
                "text": prompt_texts.get(prompt, ""),
                "values": values.get(prompt, {}),
                "arms": answer_groups(answers),
            }
            for prompt, answers in by_prompt.items()
        ],
    }


def answer_groups(answers: Answers) -> dict[str, list[dict[str, Any]]]:
    """Each arm's answers in groups of the same content: passing ones first, then the frequent ones.

    A group has its number, shared by all arms, and its wordings as [text, count, reward]. Answers are the same where
    the task's checker says so, otherwise where they are near-duplicates. Answers never given are left out.
    """
    given = {arm: [row for row in rows if row.finish != "missing"] for arm, rows in answers.items()}
    numbers = _group_numbers([row for rows in given.values() for row in rows])
    grouped = {}
    for arm, rows in given.items():
        wordings = Counter((numbers[_label(row)], row.text, row.reward) for row in rows)
        groups: dict[int, list[list[Any]]] = {}
        for (number, text, reward), count in wordings.most_common():
            groups.setdefault(number, []).append([text, count, reward])
        ordered = sorted(groups.items(), key=lambda item: (-_best(item[1]), -sum(one[1] for one in item[1])))
        grouped[arm] = [{"group": number, "wordings": wordings} for number, wordings in ordered]
    return grouped


def packed(value: Any) -> str:
    """JSON, compressed and in base64: the page unpacks it when it opens."""
    return base64.b64encode(gzip.compress(strict_json(value).encode(), compresslevel=9, mtime=0)).decode(
        "ascii"
    )


def _label(row: GenerationRow) -> tuple[str, str]:
    return ("cluster", row.cluster) if row.cluster else ("text", row.text)


def _group_numbers(rows: Sequence[GenerationRow]) -> dict[tuple[str, str], int]:
    """A number for every label; texts that no checker labelled join the first near-duplicate before them."""
    from rapidfuzz import fuzz, process

    numbers: dict[tuple[str, str], int] = {}
    n_groups = 0
    first_texts: list[str] = []
    first_numbers: list[int] = []
    for label in dict.fromkeys(_label(row) for row in rows):
        kind, content = label
        folded = " ".join(content.casefold().split())
        alike = None
        if kind == "text" and folded:
            alike = process.extractOne(folded, first_texts, scorer=fuzz.ratio, score_cutoff=_ALIKE)
        if alike:
            numbers[label] = first_numbers[alike[2]]
            continue
        numbers[label] = n_groups
        n_groups += 1
        if kind == "text":
            first_texts.append(folded)
            first_numbers.append(numbers[label])
    return numbers


def _best(wordings: Sequence[Sequence[Any]]) -> float:
    return max((reward for _, _, reward in wordings if reward is not None), default=0.0)


def _values(
    comparison: Comparison, study: Study | None
) -> tuple[list[dict[str, Any]], dict[str, dict[str, list[float | None]]]]:
    """The metrics shown with a prompt, and each prompt's values by arm (seeds averaged, None where undefined)."""
    if study is None:
        return [], {}
    stated = [one.metric for one in comparison.scrutiny]
    keys = [
        key
        for key in dict.fromkeys([*stated, *_SHOWN_METRICS])
        if all(study.cells(arm, comparison.headline, key) is not None for arm in comparison.arms)
    ]
    metrics = [
        {"key": key, "name": find_metric(key).name, "sign": find_metric(key).sign, "stated": key in stated}
        for key in keys
    ]
    values: dict[str, dict[str, list[float | None]]] = {prompt: {} for prompt in study.prompts}
    for arm in comparison.arms:
        cells = [study.cells(arm, comparison.headline, key) for key in keys]
        means = [one.mean(axis=0).tolist() for one in cells if one is not None]
        for index, prompt in enumerate(study.prompts):
            values[prompt][arm] = [_short(column[index]) for column in means]
    return metrics, values


def _short(value: float) -> float | None:
    """Four digits are all that is shown."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
