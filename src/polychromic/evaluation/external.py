"""Reads generations made anywhere, as JSON lines, checks them with the task and turns them into rows
(`external_lines.py` says what a line may hold)."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from polychromic.errors import DataError
from polychromic.evaluation.audits.checker import check_rows
from polychromic.evaluation.criteria import listed, plural
from polychromic.evaluation.external_lines import Ending, ExternalText, parse_line
from polychromic.models.chat import Thinking, ThinkingMode, thinking_of_files
from polychromic.records import Finish, GenerationRow, Prompt, SamplingParameters
from polychromic.tasks.base import Task
from polychromic.tasks.data.lines import BadLineError, filled_lines, listing, shown

RowsByArmSeed = dict[tuple[str, int], list[GenerationRow]]
OnChecked = Callable[[int, int], None]
"""Called now and then with the number of answers that are checked, and of all."""

_IDS_NAMED = 3
_CHECKED_AT_ONCE = 1024
_FINISHES: dict[Ending, Finish] = {"finished": "stop", "limit": "length", "interrupted": "length", "missing": "missing"}


@dataclass(frozen=True, slots=True)
class ExternalGenerations:
    """Holds rows by arm and seed, and what the files leave open.

    `assumed` names the arms with lines that do not say how they were sampled. `unnamed_seeds` names those with several
    files whose lines name no seed, so that the order of the files numbers them. `open_ends` counts the texts by arm
    of which no line says how they ended (taken for finished), `interrupted` those that a filter or an error stopped
    (taken for cut). `counted_in_words` says that lengths are words, because not every line has its number of tokens.
    """

    rows: RowsByArmSeed
    assumed: tuple[str, ...]
    unnamed_seeds: tuple[str, ...]
    open_ends: Mapping[str, int]
    interrupted: Mapping[str, int]
    counted_in_words: bool


def read_external(
    files: Mapping[str, Sequence[Path]],
    task: Task,
    prompts: Sequence[Prompt],
    default: SamplingParameters,
    thinking: ThinkingMode = "auto",
    on_checked: OnChecked = lambda done, total: None,
) -> ExternalGenerations:
    """Reads and checks the files of each arm; an arm's second file is its second seed unless the lines name seeds.

    `default` is how lines that say nothing were sampled, `thinking` what becomes of thinking
    text. Raises one DataError for the bad lines of all files, those
    with a prompt id that is not among `prompts` included, and DataError where only some lines of an arm name a seed.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    texts: dict[str, list[tuple[int, ExternalText]]] = {}
    problems: list[str] = []
    for arm, paths in files.items():
        texts[arm] = []
        for number, path in enumerate(paths):
            texts_of_file, bad = _read_file(path, by_id)
            problems += bad
            texts[arm] += [(number if text.seed is None else text.seed, text) for text in texts_of_file]
    if problems:
        raise DataError(listing(", ".join(str(path) for paths in files.values() for path in paths), problems))
    for arm, members in texts.items():
        _require_seeds_in_all_or_none(arm, files[arm], members)
    everything = [text for members in texts.values() for _, text in members]
    in_words = any(text.n_tokens is None for text in everything)
    rows: RowsByArmSeed = {}
    for arm, members in texts.items():
        rows |= _rows_of_arm(arm, members, default, thinking_of_files(thinking), in_words)
    checked: RowsByArmSeed = {}
    done, total = 0, sum(map(len, rows.values()))
    for key, unchecked in rows.items():
        # Prompt by prompt, whatever the file's order: tasks may check equal answers to one prompt once for a batch.
        order = sorted(range(len(unchecked)), key=lambda index: unchecked[index].prompt_id)
        by_index: dict[int, GenerationRow] = {}
        for start in range(0, len(order), _CHECKED_AT_ONCE):
            batch = order[start : start + _CHECKED_AT_ONCE]
            given = [unchecked[index] for index in batch]
            by_index |= zip(batch, check_rows(task, [by_id[row.prompt_id] for row in given], given), strict=True)
            done += len(batch)
            on_checked(done, total)
        checked[key] = [by_index[index] for index in range(len(unchecked))]
    named = {arm: members[0][1].seed is not None for arm, members in texts.items()}
    return ExternalGenerations(
        checked,
        assumed=tuple(arm for arm, members in texts.items() if any(text.sampling is None for _, text in members)),
        unnamed_seeds=tuple(arm for arm in texts if len(files[arm]) > 1 and not named[arm]),
        open_ends=_count_endings(texts, None),
        interrupted=_count_endings(texts, "interrupted"),
        counted_in_words=in_words,
    )


def pair_by_order(rows: RowsByArmSeed) -> RowsByArmSeed:
    """Returns the rows with each arm's seeds numbered 0, 1, … in the order in which they appear."""
    numbers: defaultdict[str, dict[int, int]] = defaultdict(dict)
    return {(arm, numbers[arm].setdefault(seed, len(numbers[arm]))): members for (arm, seed), members in rows.items()}


def without_copies(rows: RowsByArmSeed) -> tuple[RowsByArmSeed, dict[str, list[tuple[int, int]]]]:
    """Returns the rows without seeds whose answers are those of an earlier seed of the arm to the letter, and by arm
    what was left out: (the copy, the seed it is a copy of). A model that was trained anew answers otherwise."""
    kept: RowsByArmSeed = {}
    first: dict[tuple[str, bytes], int] = {}
    copies: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for (arm, seed), members in rows.items():
        original = first.setdefault((arm, _digest(members)), seed)
        if original == seed:
            kept[arm, seed] = members
        else:
            copies[arm].append((seed, original))
    return kept, dict(copies)


def _digest(rows: Sequence[GenerationRow]) -> bytes:
    """Returns a hash of the answers to each prompt, whatever the order of the prompts."""
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda row: (row.prompt_id, row.sampling.label, row.index)):
        digest.update(repr((row.prompt_id, row.sampling.label, row.text, row.thinking)).encode())
    return digest.digest()


def require_common_seeds(rows: RowsByArmSeed, baseline: str) -> None:
    """Raises DataError where an arm and the baseline both have several seeds and none of them is the same."""
    seeds: defaultdict[str, list[int]] = defaultdict(list)
    for arm, seed in rows:
        seeds[arm].append(seed)
    for arm, own in seeds.items():
        theirs = seeds[baseline]
        if min(len(own), len(theirs)) > 1 and not set(own) & set(theirs):
            raise DataError(
                f"{arm} (seeds {listed(list(map(str, own)))}) and {baseline} (seeds {listed(list(map(str, theirs)))}) "
                "have no seed in common, so that none can be paired; give them the same names in `seed`, or pair them "
                "in their order with comparison.match_seeds=order"
            )


def _read_file(path: Path, by_id: Mapping[str, Prompt]) -> tuple[list[ExternalText], list[str]]:
    """Returns the generations of a file and what is wrong with its other lines."""
    read: list[ExternalText] = []
    problems: list[str] = []
    empty = True
    for number, line in filled_lines(path):
        empty = False
        try:
            texts = parse_line(line)
            prompt_id = _known_id(texts[0].prompt_id, by_id)
        except BadLineError as error:
            problems.append(f"{path}:{number}: {error}")
        else:
            read += [replace(text, prompt_id=prompt_id) for text in texts]
    if empty:
        raise DataError(
            f'{path}: holds no generations; expected one JSON object a line, such as {{"id": "p1", "text": "Hi"}}'
        )
    return read, problems


def _known_id(prompt_id: str, by_id: Mapping[str, Prompt]) -> str:
    """Returns the id of a prompt of the task; EvalPlus writes `Mbpp/2` of problem 2."""
    head, _, number = prompt_id.partition("/")
    if head.lower() == "mbpp" and number in by_id:
        return number
    if prompt_id not in by_id:
        examples = ", ".join(shown(example) for example in list(by_id)[:_IDS_NAMED])
        raise BadLineError(
            f"prompt id {shown(prompt_id)} is not one of the {len(by_id)} prompts of the evaluated split "
            f"({examples}, ...); correct it, or name the split with evaluation.split"
        )
    return prompt_id


def _require_seeds_in_all_or_none(arm: str, paths: Sequence[Path], members: Sequence[tuple[int, ExternalText]]) -> None:
    named = sum(text.seed is not None for _, text in members)
    if 0 < named < len(members):
        raise DataError(
            f"{arm} ({', '.join(map(str, paths))}): {named} of {plural(len(members), 'text')} name a seed; expected "
            "`seed` in every line of an arm or in none"
        )


def _count_endings(texts: Mapping[str, Sequence[tuple[int, ExternalText]]], ending: Ending | None) -> dict[str, int]:
    counts = {arm: sum(text.ending == ending for _, text in members) for arm, members in texts.items()}
    return {arm: count for arm, count in counts.items() if count}


def _rows_of_arm(
    arm: str,
    members: Sequence[tuple[int, ExternalText]],
    default: SamplingParameters,
    thinking: Thinking,
    in_words: bool,
) -> RowsByArmSeed:
    rows: defaultdict[tuple[str, int], list[GenerationRow]] = defaultdict(list)
    counts: Counter[tuple[int, str, SamplingParameters]] = Counter()
    for seed, text in members:
        # One limit for all: how long texts might have become is not known, and does not name a sampling setting.
        sampling = replace(text.sampling or default, max_new_tokens=default.max_new_tokens)
        place = (seed, text.prompt_id, sampling)
        n_tokens = len(text.text.split()) if in_words or text.n_tokens is None else text.n_tokens
        answer = thinking.read(text.text, _FINISHES[text.ending or "finished"])
        rows[arm, seed].append(
            GenerationRow(
                text.prompt_id, counts[place], answer.text, n_tokens, answer.finish, sampling, seed, reward=None,
                thinking=answer.thinking if text.thinking is None else text.thinking,
            )
        )  # fmt: skip
        counts[place] += 1
    return dict(rows)
