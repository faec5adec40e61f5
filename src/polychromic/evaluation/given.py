"""Generations made anywhere, as JSON lines: read, checked with the task, and turned into rows.

A line is an object with
  `prompt_id`, `id` or `task_id`: a prompt of the task;
  `text`, `completion`, `generation` or `response`: one generation, which may be empty; or `texts`, `completions`,
  `generations` or `responses`: a list of them;
  optionally `temperature`, `top_p` and `min_p` (or an object `sampling` with these), `seed` (of training: lines of
  several seeds may share a file), `n_tokens`, and `finish` or `finish_reason` ("length" where the text was cut).
Other keys are left alone, so that the generations.jsonl of a run and HumanEval's samples can be read as they are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polychromic.errors import DataError
from polychromic.evaluation.checking import check_rows
from polychromic.records import Finish, GenerationRow, Prompt, SamplingParameters
from polychromic.tasks.base import Task
from polychromic.tasks.jsonl import filled_lines, listing
from polychromic.tasks.lines import (
    BadLineError,
    any_text,
    decode_object,
    hint,
    identifier,
    kind,
    one_key,
    shown,
)

RowsByArmSeed = dict[tuple[str, int], list[GenerationRow]]

_ID_KEYS = ("prompt_id", "id", "task_id")
_TEXT_KEYS = (
    "text",
    "completion",
    "generation",
    "response",
    "texts",
    "completions",
    "generations",
    "responses",
)
_FINISH_KEYS = ("finish", "finish_reason")
_OWN_SAMPLING_KEY = "sampling"
_IDS_NAMED = 3


@dataclass(frozen=True, slots=True)
class GivenText:
    """One generation of a file. `seed` and `sampling` are None where the line does not state them."""

    prompt_id: str
    text: str
    seed: int | None
    sampling: SamplingParameters | None
    n_tokens: int | None
    finish: Finish


@dataclass(frozen=True, slots=True)
class GivenGenerations:
    """Rows by arm and seed; `assumed` names the arms with lines that do not say how they were sampled, and
    `counted_in_words` says that lengths are words, because not every line has its number of tokens."""

    rows: RowsByArmSeed
    assumed: tuple[str, ...]
    counted_in_words: bool


def read_given(
    files: Mapping[str, Sequence[Path]], task: Task, prompts: Sequence[Prompt], default: SamplingParameters
) -> GivenGenerations:
    """Read and check the files of each arm; an arm's second file is its second seed unless the lines say otherwise.

    `default` is how lines that say nothing were sampled. Raises one DataError for the bad lines of all files, those
    with a prompt id that is not among `prompts` included.
    """
    known = {prompt.id: prompt for prompt in prompts}
    texts: dict[str, list[tuple[int, GivenText]]] = {}
    problems: list[str] = []
    for arm, paths in files.items():
        texts[arm] = []
        for number, path in enumerate(paths):
            found, bad = _read_file(path, known)
            problems += bad
            texts[arm] += [(number if one.seed is None else one.seed, one) for one in found]
    if problems:
        raise DataError(listing(", ".join(str(path) for paths in files.values() for path in paths), problems))
    everything = [one for members in texts.values() for _, one in members]
    in_words = any(one.n_tokens is None for one in everything)
    rows: RowsByArmSeed = {}
    for arm, members in texts.items():
        rows |= _rows_of_arm(arm, members, default, in_words)
    checked = {
        key: check_rows(task, [known[row.prompt_id] for row in members], members)
        for key, members in rows.items()
    }
    assumed = [arm for arm, members in texts.items() if any(one.sampling is None for _, one in members)]
    return GivenGenerations(checked, tuple(assumed), in_words)


def parse_given(line: bytes) -> list[GivenText]:
    """The generations of one line. Raises BadLineError that names the key and the mend."""
    row = decode_object(line)
    id_key = _required(row, _ID_KEYS, "the id of a prompt")
    text_key = _required(row, _TEXT_KEYS, "a generation, or a list of them")
    value = row[text_key]
    values = value if isinstance(value, list) else [value]
    names = [f"{text_key}[{i}]" for i in range(len(values))] if isinstance(value, list) else [text_key]
    if not values:
        raise BadLineError(
            f"{text_key}: is an empty list, expected at least one text; fill it in or remove the line"
        )
    n_tokens = _whole(row, "n_tokens")
    if n_tokens is not None and len(values) > 1:
        raise BadLineError(
            f"n_tokens: is one number for {len(values)} texts; write one text a line, or remove it"
        )
    shared = (_whole(row, "seed"), _sampling(row), n_tokens, _finish(row))
    prompt_id = identifier(row[id_key], id_key)
    return [
        GivenText(prompt_id, any_text(text, name), *shared) for text, name in zip(values, names, strict=True)
    ]


def _read_file(path: Path, known: Mapping[str, Prompt]) -> tuple[list[GivenText], list[str]]:
    """The generations of a file and what is wrong with its other lines."""
    found: list[GivenText] = []
    problems: list[str] = []
    empty = True
    for number, line in filled_lines(path):
        empty = False
        try:
            texts = parse_given(line)
            _require_known(texts[0].prompt_id, known)
        except BadLineError as error:
            problems.append(f"{path}:{number}: {error}")
        else:
            found += texts
    if empty:
        raise DataError(
            f'{path}: holds no generations; expected one JSON object a line, such as {{"id": "p1", "text": "Hi"}}'
        )
    return found, problems


def _required(row: Mapping[str, Any], keys: Sequence[str], meaning: str) -> str:
    key = one_key(row, keys)
    if key is None:
        raise BadLineError(f"{keys[0]}: is missing, expected {meaning} ({', '.join(keys)}){hint(row, keys)}")
    return key


def _require_known(prompt_id: str, known: Mapping[str, Prompt]) -> None:
    if prompt_id not in known:
        examples = ", ".join(shown(one) for one in list(known)[:_IDS_NAMED])
        raise BadLineError(
            f"prompt id {shown(prompt_id)} is not one of the {len(known)} prompts of the evaluated split "
            f"({examples}, ...); correct it, or name the split with evaluation.split"
        )


def _whole(row: Mapping[str, Any], key: str) -> int | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadLineError(
            f"{key}: {shown(value)}, expected a whole number of at least 0; correct or remove it"
        )
    return value


def _sampling(row: Mapping[str, Any]) -> SamplingParameters | None:
    stated = row.get(_OWN_SAMPLING_KEY)
    if stated is not None and not isinstance(stated, dict):
        raise BadLineError(
            f'{_OWN_SAMPLING_KEY}: {shown(stated)} is {kind(stated)}, expected an object such as {{"temperature": 1}}'
        )
    place = f"{_OWN_SAMPLING_KEY}." if stated else ""
    values = stated or row
    temperature = _number(values, "temperature", place, 0.0, float("inf"))
    top_p = _number(values, "top_p", place, 0.0, 1.0)
    min_p = _number(values, "min_p", place, 0.0, 1.0)
    if temperature is None and top_p is None and min_p is None:
        return None
    return SamplingParameters(
        1.0 if temperature is None else temperature, 1.0 if top_p is None else top_p, min_p or 0.0
    )


def _number(row: Mapping[str, Any], key: str, place: str, low: float, high: float) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        wanted = f"from {low:g} to {high:g}" if high < float("inf") else f"of at least {low:g}"
        raise BadLineError(f"{place}{key}: {shown(value)}, expected a number {wanted}; correct or remove it")
    return float(value)


def _finish(row: Mapping[str, Any]) -> Finish:
    key = one_key(row, _FINISH_KEYS)
    return "length" if key is not None and row[key] == "length" else "stop"


def _rows_of_arm(
    arm: str, members: Sequence[tuple[int, GivenText]], default: SamplingParameters, in_words: bool
) -> RowsByArmSeed:
    rows: defaultdict[tuple[str, int], list[GenerationRow]] = defaultdict(list)
    counts: Counter[tuple[int, str, SamplingParameters]] = Counter()
    for seed, one in members:
        # One limit for all: how long texts might have become is not known, and does not name a way of sampling.
        sampling = replace(one.sampling or default, max_new_tokens=default.max_new_tokens)
        place = (seed, one.prompt_id, sampling)
        n_tokens = len(one.text.split()) if in_words or one.n_tokens is None else one.n_tokens
        rows[arm, seed].append(
            GenerationRow(one.prompt_id, counts[place], one.text, n_tokens, one.finish, sampling, seed, None)
        )
        counts[place] += 1
    return dict(rows)
