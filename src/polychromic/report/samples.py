"""Groups the answers that the page shows, prompt by prompt: near-duplicates form a group, the same in every arm."""

from __future__ import annotations

import base64
import gzip
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polychromic.evaluation import Comparison, find_metric
from polychromic.evaluation.criteria import signed
from polychromic.evaluation.tables import Study
from polychromic.files import strict_json
from polychromic.generations import read_generations
from polychromic.records import GenerationRow
from polychromic.run_folder import RunFolder

_ALIKE = 85.0
"""Two texts are near-duplicates from this share (in %) of equal characters on (rapidfuzz ratio), case aside."""

_LONG = 2_000
"""Texts of more characters are the same where they are equal, case and spaces aside: comparing two takes the product of
their lengths."""

_MOST_SHOWN = 20_000
"""Characters of a text that the page shows; a browser lays out megabytes for minutes."""

_PROMPTS_A_PART = 50
_SAME_TEXT = "same text"
"""Names the partition of rows without a form where nothing else divides them."""

_SHOWN_METRICS = (
    "pass@1", "reward", "judge", "distinct_correct", "rarefied_distinct_2", "distinct_2", "self_bleu",
    "semantic_distance", "tokens",
)  # fmt: skip

Answers = Mapping[str, Sequence[GenerationRow]]
"""One prompt's rows by arm."""


def explorer_data(
    root: Path, comparison: Comparison, *, prompt_texts: Mapping[str, str], study: Study | None
) -> dict[str, Any]:
    """Returns all that the sample explorer needs: metrics, and for every prompt its text, values by arm and answer
    groups.

    Answers are those of each arm's first seed, values those of all its seeds.
    """
    shown_seeds = {arm: comparison.seeds[arm][0] for arm in comparison.arms}
    by_prompt: dict[str, dict[str, list[GenerationRow]]] = {}
    for arm, seed in shown_seeds.items():
        for row in read_generations(RunFolder(root).arm(arm, seed).generations):
            if row.sampling.label == comparison.primary_sampling:
                by_prompt.setdefault(row.prompt_id, {}).setdefault(arm, []).append(row)
    metrics, values = _values(comparison, study)
    shown = [row for answers in by_prompt.values() for rows in answers.values() for row in rows]
    return {
        "by_spelling": all(row.cluster is None for row in shown) and comparison.clusters != _SAME_TEXT,
        "baseline": comparison.baseline,
        "untrained": comparison.untrained,
        "openings": openings(comparison, metrics, {prompt: values.get(prompt, {}) for prompt in by_prompt}),
        "seeds": comparison.seeds,
        "metrics": metrics,
        "prompts": [
            {
                "prompt": prompt,
                "text": shortened(prompt_texts.get(prompt, "")),
                "values": values.get(prompt, {}),
                "arms": answer_groups(answers),
            }
            for prompt, answers in by_prompt.items()
        ],
    }


def openings(
    comparison: Comparison, metrics: Sequence[Mapping[str, Any]], values: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Returns the prompts that the explorer opens on, chosen by rule and not by hand: the largest gain and the largest
    loss of any judged arm in the first criterion's metric, and one at random (the smallest hash of its id)."""
    if not values:
        return []
    chosen = []
    judged = [arm for arm in comparison.arms if arm not in (comparison.baseline, comparison.untrained)]
    if metrics:
        sign = metrics[0]["sign"]
        gains = [
            (sign * (of_arm[arm][0][0] - of_arm[comparison.baseline][0][0]), arm, prompt)
            for prompt, of_arm in values.items()
            for arm in judged
            if of_arm and None not in (of_arm[arm][0][0], of_arm[comparison.baseline][0][0])
        ]
        for word, most, way in (("gain", max, 1), ("loss", min, -1)):
            gain, arm, prompt = most(gains, key=lambda candidate: candidate[0], default=(0.0, "", ""))
            if way * gain > 0:
                why = f"largest {word} in {metrics[0]['name']} ({signed(sign * gain)}, {arm})"
                chosen.append({"why": why, "prompt": prompt})
    drawn = min(values, key=lambda prompt: hashlib.sha256(prompt.encode("utf-8", "replace")).hexdigest())
    return [*chosen, {"why": "one at random", "prompt": drawn}]


def answers_a_prompt(samples: Mapping[str, Any]) -> str:
    """Returns how many answers a prompt has in an arm, such as "64", or "60 to 64" where they differ."""
    counts = {
        sum(count for group in groups for _, count, _ in group["wordings"])
        for prompt in samples["prompts"]
        for groups in prompt["arms"].values()
    }
    if not counts:
        return ""
    return f"{min(counts):,}" if len(counts) == 1 else f"{min(counts):,} to {max(counts):,}"


def grouped_by_spelling(samples: Mapping[str, Any]) -> bool:
    """Tells whether answers without a form of their own stand in groups of like spelling, which no number counts."""
    return bool(samples["by_spelling"])


def has_rewards(samples: Mapping[str, Any]) -> bool:
    """Tells whether a checker has judged any answer."""
    return any(
        reward is not None
        for prompt in samples["prompts"]
        for groups in prompt["arms"].values()
        for group in groups
        for _, _, reward in group["wordings"]
    )


def answer_groups(answers: Answers) -> dict[str, list[dict[str, Any]]]:
    """Returns each arm's answers in groups of the same content: passing ones first, then the frequent ones.

    A group has its number, shared by all arms, and its wordings as [text, count, reward]. Answers are the same where
    the task's checker says so, otherwise where they are near-duplicates. Answers never given are left out.
    """
    answered = {arm: [row for row in rows if row.finish != "missing"] for arm, rows in answers.items()}
    numbers = _group_numbers([row for rows in answered.values() for row in rows])
    grouped = {}
    for arm, rows in answered.items():
        wordings = Counter((numbers[_label(row)], row.text, row.reward) for row in rows)
        groups: dict[int, list[list[Any]]] = {}
        for (number, text, reward), count in wordings.most_common():
            groups.setdefault(number, []).append([shortened(text), count, reward])
        ordered = sorted(groups.items(), key=lambda item: (-_best(item[1]), -sum(answer[1] for answer in item[1])))
        grouped[arm] = [{"group": number, "wordings": wordings} for number, wordings in ordered]
    return grouped


def shortened(text: str) -> str:
    """Returns the text, or its start and how much more there is."""
    more = len(text) - _MOST_SHOWN
    return text if more <= 0 else f"{text[:_MOST_SHOWN]} … [{more:,} more characters are not shown]"


def packed_parts(data: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Returns the explorer's data as the page holds it: all but the answers, and the answers in parts of some prompts
    each.

    A page that opens unpacks the first and one of the parts; a search unpacks them all.
    """
    prompts = data["prompts"]
    bare = [{key: value for key, value in prompt.items() if key != "arms"} for prompt in prompts]
    arms = [prompt["arms"] for prompt in prompts]
    parts = [arms[start : start + _PROMPTS_A_PART] for start in range(0, len(arms), _PROMPTS_A_PART)]
    return packed({**data, "prompts": bare, "per_part": _PROMPTS_A_PART}), [packed(part) for part in parts]


def packed(value: Any) -> str:
    """Returns JSON, compressed and in base64: the page's script unpacks it."""
    return base64.b64encode(gzip.compress(strict_json(value).encode(), compresslevel=9, mtime=0)).decode("ascii")


def _label(row: GenerationRow) -> tuple[str, str]:
    return ("text", row.text) if row.cluster is None else ("cluster", row.cluster)


def _group_numbers(rows: Sequence[GenerationRow]) -> dict[tuple[str, str], int]:
    """Returns a number for every label; texts that no checker labelled join the first near-duplicate before them, long
    ones an equal one."""
    from rapidfuzz import fuzz, process

    numbers: dict[tuple[str, str], int] = {}
    n_groups = 0
    number_of: dict[str, int] = {}  # by folded text
    short_texts: list[str] = []
    for label in dict.fromkeys(_label(row) for row in rows):
        kind, content = label
        folded = " ".join(content.casefold().split())
        number = number_of.get(folded) if kind == "text" and folded else None
        if number is None and kind == "text" and 0 < len(folded) <= _LONG:
            alike = process.extractOne(folded, short_texts, scorer=fuzz.ratio, score_cutoff=_ALIKE)
            number = number_of[alike[0]] if alike else None
            if alike is None:
                short_texts.append(folded)
        if number is None:
            number, n_groups = n_groups, n_groups + 1
        numbers[label] = number
        if kind == "text":
            number_of.setdefault(folded, number)
    return numbers


def _best(wordings: Sequence[Sequence[Any]]) -> float:
    return max((reward for _, _, reward in wordings if reward is not None), default=0.0)


def _values(
    comparison: Comparison, study: Study | None
) -> tuple[list[dict[str, Any]], dict[str, dict[str, list[list[float | None]]]]]:
    """Returns the metrics shown with a prompt, and each prompt's values by arm: for every metric the mean, then each
    seed's where there are several (None where undefined)."""
    if study is None:
        return [], {}
    stated = [sensitivity.metric for sensitivity in comparison.sensitivity]
    names: dict[str, str] = {}
    by_arm: dict[str, list[np.ndarray]] = {}
    for key in dict.fromkeys([*stated, *_SHOWN_METRICS]):
        cells = [study.cells(arm, comparison.primary_sampling, key) for arm in comparison.arms]
        columns = [column for column in cells if column is not None]
        if len(columns) < len(cells):
            continue
        same = next((name for name, others in by_arm.items() if _are_equal(columns, others)), None)
        if same:  # one number, not two: the reward of a checker that says 0 or 1 is Pass@1
            names[same] += f" = {find_metric(key).name}"
        else:
            names[key] = find_metric(key).name
            by_arm[key] = columns
    metrics = [
        {"key": key, "name": name, "sign": find_metric(key).sign, "stated": key in stated}
        for key, name in names.items()
    ]
    values: dict[str, dict[str, list[list[float | None]]]] = {prompt: {} for prompt in study.prompts}
    for number, arm in enumerate(comparison.arms):
        columns = [_with_mean(of_arms[number]) for of_arms in by_arm.values()]
        for index, prompt in enumerate(study.prompts):
            values[prompt][arm] = [[_short(value) for value in column[:, index]] for column in columns]
    return metrics, values


def _are_equal(columns: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(column, other, equal_nan=True) for column, other in zip(columns, others, strict=True))


def _with_mean(cells_SP: np.ndarray) -> np.ndarray:
    """Returns [1 + S, P] the mean above the seeds, [1, P] for one seed."""
    return np.vstack([cells_SP.mean(axis=0), cells_SP]) if len(cells_SP) > 1 else cells_SP


def _short(value: float) -> float | None:
    """Returns a value with four digits: more are not shown."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
