"""Compares arms at equal length, and counts thoughts apart from answers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from itertools import chain, repeat

import numpy as np

from polychromic.diversity import MeasureSettings, measure_group
from polychromic.diversity.tokens import Tokenizer, TokenOptions, cut_text
from polychromic.evaluation.criteria import ResultWarning
from polychromic.evaluation.group_metrics import group_rows
from polychromic.evaluation.measure import open_pool
from polychromic.evaluation.metrics import METRICS
from polychromic.evaluation.warnings import LENGTH_CHANGE
from polychromic.numerics import FloatArray
from polychromic.records import GenerationRow

Rows = Mapping[tuple[str, int], Sequence[GenerationRow]]
Values = Mapping[str, float]
"""Values by prompt id, or by metric key."""

_MEASURED = ("distinct_2", "self_bleu", "compression_ratio")


def thinking_warnings(rows: Rows, *, measured_apart: bool) -> Iterator[ResultWarning]:
    """Yields for each arm how many texts began with thinking that is left out of what is checked and measured, and how
    many of them never came to an answer."""
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
                f"; {unclosed:,} never came to an answer, which is empty and counts as truncated" if unclosed else ""
            )
            text = f"{arm}: thinking stands before {began:,} of {n:,} answers {place}{ending}; lengths count it"
            yield ResultWarning("thinking", arm, text)


def thinking_measures(
    rows: Rows, primary_sampling: str, tokens: str | Tokenizer
) -> dict[tuple[str, int], dict[str, Values]]:
    """Measures of the thinking alone at the primary sampling, by arm and seed: metric → prompt → value.

    Of every prompt as many thinking texts are measured as each arm and seed has.
    """
    texts = {key: _thinking_texts(members, primary_sampling) for key, members in rows.items()}
    prompts = set.intersection(*(set(by_prompt) for by_prompt in texts.values()))
    least = {prompt: min(len(by_prompt[prompt]) for by_prompt in texts.values()) for prompt in prompts}
    settings = MeasureSettings(tokens=tokens)
    measured: dict[tuple[str, int], dict[str, Values]] = {}
    for key, by_prompt in texts.items():
        values = {
            prompt: measure_group(by_prompt[prompt][: least[prompt]], settings).values for prompt in sorted(prompts)
        }
        columns = {f"thinking_{name}": {p: of_prompt[name] for p, of_prompt in values.items()} for name in _MEASURED}
        columns["thinking_words"] = {
            p: sum(len(text.split()) for text in by_prompt[p]) / len(by_prompt[p]) for p in sorted(prompts)
        }
        measured[key] = {name: column for name, column in columns.items() if not all(map(math.isnan, column.values()))}
    return measured


def _thinking_texts(rows: Sequence[GenerationRow], primary_sampling: str) -> dict[str, list[str]]:
    texts: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.thinking is not None and row.sampling.label == primary_sampling:
            texts[row.prompt_id].append(row.thinking)
    return texts


EqualLength = Mapping[tuple[str, str], tuple[FloatArray, FloatArray]]
"""Cells [seeds, prompts] of an arm and of the baseline at equal lengths, by (arm, metric key)."""

_MOST_ANSWERS = 16
"""Enough to see whether a difference stays; all of 64 would double the time that an evaluation takes."""
_AT_ONCE = 64

Texts = Mapping[str, list[str]]
"""One arm's and seed's texts by prompt id."""


def at_equal_length(
    rows_by_arm_seed: Rows,
    *,
    baseline: str,
    primary_sampling: str,
    tokens: str | Tokenizer = "words",
    workers: int = 1,
) -> EqualLength:
    """Measures of texts at `primary_sampling` for every arm whose texts are 10 % longer or shorter than the baseline's.

    For each prompt and pair of seeds the arms' texts are cut to the very same lengths in `tokens`
    (`cut_to_equal_lengths`), and as many texts of each, 16 at most, are measured in `workers` processes. Seeds are
    paired as in a comparison. Measures of embeddings, and prompts that an arm lacks, are left out.
    """
    texts = {key: _texts(rows, primary_sampling) for key, rows in rows_by_arm_seed.items()}
    of_baseline = {seed: by_prompt for (arm, seed), by_prompt in texts.items() if arm == baseline}
    length = _mean_length(of_baseline.values(), tokens)
    longer_or_shorter: dict[str, list[tuple[Texts, Texts]]] = {}
    for arm in dict.fromkeys(arm for arm, _ in rows_by_arm_seed if arm != baseline):
        own = {seed: by_prompt for (name, seed), by_prompt in texts.items() if name == arm}
        if abs(_mean_length(own.values(), tokens) - length) > LENGTH_CHANGE * length:
            longer_or_shorter[arm] = _paired_seeds(own, of_baseline)
    if not longer_or_shorter:
        return {}
    with open_pool(workers) as pool:
        return {
            (arm, key): cells
            for arm, pairs in longer_or_shorter.items()
            for key, cells in _measure_pairs(pairs, tokens, pool).items()
        }


def cut_to_equal_lengths(
    a: Sequence[str], b: Sequence[str], tokens: str | Tokenizer = "words"
) -> tuple[list[str], list[str]]:
    """Returns as many texts of both, cut so that both have the same lengths in tokens.

    The first texts of each are taken. The shortest of a and the shortest of b are cut to the shorter of the two, and
    so on up to the longest, so that no text loses more than it must.
    """
    n = min(len(a), len(b))
    cut_a, cut_b = list(a[:n]), list(b[:n])
    lengths_a, lengths_b = (_lengths(texts, tokens) for texts in (cut_a, cut_b))
    order_a, order_b = (sorted(range(n), key=lengths.__getitem__) for lengths in (lengths_a, lengths_b))
    for i, j in zip(order_a, order_b, strict=True):
        length = min(lengths_a[i], lengths_b[j])
        cut_a[i], cut_b[j] = cut_text(cut_a[i], length, tokens), cut_text(cut_b[j], length, tokens)
    return cut_a, cut_b


def _lengths(texts: Sequence[str], tokens: str | Tokenizer) -> list[int]:
    return [len(words) for words in TokenOptions(tokens).split(texts)]


def _texts(rows: Sequence[GenerationRow], primary_sampling: str) -> Texts:
    return {group.prompt_id: group.texts for group in group_rows(rows).get(primary_sampling, [])}


def _mean_length(arm: Iterable[Texts], tokens: str | Tokenizer) -> float:
    lengths = [n for texts in arm for group in texts.values() for n in _lengths(group, tokens)]
    return float(np.mean(lengths)) if lengths else 0.0


def _paired_seeds(own: Mapping[int, Texts], of_baseline: Mapping[int, Texts]) -> list[tuple[Texts, Texts]]:
    if len(own) == 1 or len(of_baseline) == 1:
        return [(a, b) for a in own.values() for b in of_baseline.values()]
    return [(own[seed], of_baseline[seed]) for seed in own if seed in of_baseline]


def _measure_pairs(
    pairs: Sequence[tuple[Texts, Texts]], tokens: str | Tokenizer, pool: Executor | None
) -> dict[str, tuple[FloatArray, FloatArray]]:
    prompts = sorted(set.intersection(*(set(texts) for pair in pairs for texts in pair))) if pairs else []
    if not prompts:
        return {}
    both = [(a[prompt][:_MOST_ANSWERS], b[prompt][:_MOST_ANSWERS]) for a, b in pairs for prompt in prompts]
    chunks = [both[start : start + _AT_ONCE] for start in range(0, len(both), _AT_ONCE)]
    spread = pool.map if pool else map
    values = list(chain.from_iterable(spread(_measure_chunk, chunks, repeat(tokens))))
    # Texts of equal lengths have equally many bigrams, and cutting makes texts the same that were not.
    keys = [key for key in values[0][0] if METRICS[key].cut]
    shape = (len(pairs), len(prompts), 2)
    cells = {key: np.array([[side[key] for side in pair] for pair in values]).reshape(shape) for key in keys}
    return {key: (cell[..., 0], cell[..., 1]) for key, cell in cells.items()}


def _measure_chunk(
    chunk: Sequence[tuple[list[str], list[str]]], tokens: str | Tokenizer
) -> list[tuple[Values, Values]]:
    settings = MeasureSettings(tokens=tokens)
    cut = [cut_to_equal_lengths(a, b, tokens) for a, b in chunk]
    return [(measure_group(a, settings).values, measure_group(b, settings).values) for a, b in cut]
