"""Thinking text in an evaluation: what is said of it, and what it is like where it is measured for itself."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from polychromic.diversity import MeasureSettings, measure_group
from polychromic.diversity.tokens import Tokenizer
from polychromic.evaluation.wording import Caution
from polychromic.records import GenerationRow

Rows = Mapping[tuple[str, int], Sequence[GenerationRow]]
ByPrompt = Mapping[str, float]

_MEASURED = ("distinct_2", "self_bleu", "compression_ratio")


def thinking_cautions(rows: Rows, *, measured_apart: bool) -> Iterator[Caution]:
    """For each arm how many texts began with thinking that is left out of what is checked and measured, and how many
    of them never came to an answer."""
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for (arm, _), members in rows.items():
        for row in members:
            began = row.thinking is not None
            counts[arm][0] += 1
            counts[arm][1] += began
            counts[arm][2] += began and not row.text and row.finish == "length"
    for arm, (n, began, unclosed) in counts.items():
        if began:
            place = "and is measured apart" if measured_apart else "and is left out of checks and measures"
            ending = (
                f"; {unclosed:,} never came to an answer, which is empty and counts as truncated"
                if unclosed
                else ""
            )
            text = (
                f"{arm}: thinking stands before {began:,} of {n:,} answers {place}{ending}; lengths count it"
            )
            yield Caution("thinking", arm, text)


def thinking_measures(
    rows: Rows, headline: str, tokens: str | Tokenizer
) -> dict[tuple[str, int], dict[str, ByPrompt]]:
    """Measures of the thinking alone at the headline, by arm and seed: metric → prompt → value.

    Of every prompt as many thinking texts are measured as each arm and seed has.
    """
    texts = {key: _thinking_texts(members, headline) for key, members in rows.items()}
    prompts = set.intersection(*(set(found) for found in texts.values()))
    least = {prompt: min(len(found[prompt]) for found in texts.values()) for prompt in prompts}
    settings = MeasureSettings(tokens=tokens)
    measured: dict[tuple[str, int], dict[str, ByPrompt]] = {}
    for key, found in texts.items():
        values = {
            prompt: measure_group(found[prompt][: least[prompt]], settings).values
            for prompt in sorted(prompts)
        }
        columns = {f"thinking_{name}": {p: one[name] for p, one in values.items()} for name in _MEASURED}
        columns["thinking_words"] = {p: _mean_words(found[p]) for p in sorted(prompts)}
        measured[key] = {
            name: column for name, column in columns.items() if not all(map(math.isnan, column.values()))
        }
    return measured


def _thinking_texts(rows: Sequence[GenerationRow], headline: str) -> dict[str, list[str]]:
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.thinking is not None and row.sampling.label == headline:
            texts[row.prompt_id].append(row.thinking)
    return texts


def _mean_words(texts: Sequence[str]) -> float:
    return sum(len(text.split()) for text in texts) / len(texts)
