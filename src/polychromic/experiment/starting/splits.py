"""Divides prompts into training, validation and test so that no prompt is on two sides, also not in other words."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from polychromic.errors import DataError
from polychromic.evaluation.audits.checker import find_leakage, plain_content
from polychromic.evaluation.criteria import plural
from polychromic.records import Message, Prompt
from polychromic.tasks.base import Split
from polychromic.tasks.data.formats import ANSWER_KEYS, answers_of
from polychromic.tasks.data.lines import BadLineError

MOST_TEST = 200
_NAMES: Mapping[str, Split] = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_CONVERSATION_KEYS = ("conversation_id", "conversation", "group")
_SHARES: Mapping[Split, tuple[float, int]] = {"test": (0.3, MOST_TEST), "validation": (0.1, 100)}
"""The share of all prompts that a split takes, and the most."""
_HELD_OUT: tuple[Split, ...] = ("validation", "test")
_MOST_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Divided:
    """The three splits, and a line for each thing that was done beyond dividing."""

    splits: Mapping[Split, list[Prompt]]
    lines: tuple[str, ...]


def divide(by_name: Mapping[str, Sequence[Prompt]]) -> Divided:
    """Divides prompts, whose splits by name are kept where the data has a test split.

    Prompts that repeat one another (apart from case, white space and accents) or are parts of one conversation stay on
    one side, and so do nearly equal ones. Which side is decided by their content: more data moves nothing that was
    there. Raises DataError where there are fewer than three different prompts.
    """
    lines: list[str] = []
    merged = {name: _merged(prompts, lines) for name, prompts in by_name.items()}
    named: dict[Split, list[Prompt]] = defaultdict(list)
    for name, prompts in merged.items():
        named[_NAMES.get(name.lower(), "train")] += prompts
    if "test" not in named:
        named = {"train": named["train"] + named.pop("validation", [])}
    _require_unique_ids(named)
    left = _groups(named["train"] if "train" in named else named.pop("test"))
    n_prompts = sum(map(len, left))
    taken: dict[Split, list[Prompt]] = {}
    for split, (share, most) in _SHARES.items():
        taken[split] = named.get(split) or _take(left, min(most, round(share * n_prompts)), leave=1 + (split == "test"))
    splits: dict[Split, list[Prompt]] = {"train": [prompt for group in left for prompt in group], **taken}
    if not all(splits.values()):
        raise DataError(
            f"{plural(n_prompts, 'prompt')} of which too few differ: at least three different ones are needed, to "
            "train, to validate and to test; add some"
        )
    return Divided(_without_leakage(splits, given="test" in named, lines=lines), tuple(lines))


def _merged(prompts: Sequence[Prompt], lines: list[str]) -> list[Prompt]:
    """Makes one prompt of those with the same turns and meta, with the references of all; a meta that holds an answer
    under its own name stays the first one's."""
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        key = repr((prompt.messages, sorted(_meta_of_question(prompt), key=str)))
        earlier = first.get(key)
        references = (*(earlier.references if earlier else ()), *prompt.references)
        first[key] = replace(earlier or prompt, references=tuple(dict.fromkeys(references)))
    if len(first) < len(prompts):
        lines.append(
            f"{plural(len(prompts) - len(first), 'row')} with a prompt that stood before: merged, with all references"
        )
    return list(first.values())


def _meta_of_question(prompt: Prompt) -> Iterator[tuple[str, Any]]:
    """Yields the keys of the meta without copies of the answers, which forms of other projects leave there, and without
    the answer that a pair of preference turns down."""
    for key, value in prompt.meta.items():
        if key != "rejected" and not (key in ANSWER_KEYS and _is_reference(key, value, prompt.references)):
            yield key, value


def _is_reference(key: str, value: Any, references: Sequence[str]) -> bool:
    try:
        return answers_of(key, value) == tuple(references)
    except BadLineError:
        return False


def _require_unique_ids(named: Mapping[Split, Sequence[Prompt]]) -> None:
    """Refuses an id that stands in two splits: rows of one name are one prompt."""
    seen: set[str] = set()
    for prompts in named.values():
        ids = {prompt.id for prompt in prompts}
        if both := ids & seen:
            raise DataError(
                f"the id {min(both)!r} stands in two splits of the data; make ids unique, or leave them out"
            )
        seen |= ids


def _groups(prompts: Sequence[Prompt]) -> list[list[Prompt]]:
    """Gathers prompts that may not be parted, in an order that their content decides."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    owner: dict[str, int] = {}
    pairs = [(number, owner.setdefault(key, number)) for number, member in enumerate(prompts) for key in _keys(member)]
    rows, columns = zip(*pairs, strict=True) if pairs else ((), ())
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), shape=(len(prompts),) * 2)
    _, labels = connected_components(graph, directed=False)
    groups: dict[int, list[Prompt]] = defaultdict(list)
    for prompt, label in zip(prompts, labels, strict=True):
        groups[int(label)].append(prompt)
    return sorted(groups.values(), key=lambda group: min(_digest(member) for member in group))


def _keys(prompt: Prompt) -> Iterator[str]:
    """Yields what prompts of one side share: the same content, the beginning of a conversation, its stated id."""
    yield plain_content(prompt)
    turns = [message for message in prompt.messages if message.role not in ("system", "developer")]
    answers = [Message("assistant", reference) for reference in prompt.references]
    # A question with its answer, in one row as its beginning and in another as its end, is one conversation.
    for conversation in [turns[:end] for end in range(2, len(turns), 2)] + [[*turns, answer] for answer in answers]:
        yield plain_content(replace(prompt, messages=tuple(conversation)))
    for key in _CONVERSATION_KEYS:
        if isinstance(value := prompt.meta.get(key), str | int) and not isinstance(value, bool):
            yield f"{key} {value}"


def _digest(prompt: Prompt) -> str:
    return hashlib.sha256(plain_content(prompt).encode()).hexdigest()


def _take(groups: list[list[Prompt]], wanted: int, leave: int) -> list[Prompt]:
    """Takes groups off until `wanted` prompts are taken, one group at least; leaves `leave` groups for other splits."""
    taken: list[Prompt] = []
    for group in list(groups):
        if len(groups) > leave and len(taken) + len(group) <= max(1, wanted):
            taken += group
            groups.remove(group)
    if not taken and len(groups) > leave:
        taken = groups.pop(min(range(len(groups)), key=lambda number: len(groups[number])))
    return taken


def _without_leakage(
    splits: dict[Split, list[Prompt]], *, given: bool, lines: list[str]
) -> Mapping[Split, list[Prompt]]:
    """Takes what training has nearly too off the other splits: it joins training, or, where the data came with its
    splits, is left out."""
    moved = 0
    for _ in range(_MOST_ROUNDS):
        seen = {key for split in _HELD_OUT for key in find_leakage(splits[split], splits["train"]).seen}
        kept: dict[Split, list[Prompt]] = {}
        for split in _HELD_OUT:
            kept[split] = [prompt for prompt in splits[split] if prompt.id not in seen]
        if not seen or not all(kept.values()):
            break
        moved += len(seen)
        if not given:
            splits["train"] += [prompt for split in _HELD_OUT for prompt in splits[split] if prompt.id in seen]
        splits |= kept
    if moved:
        where = "left out" if given else "moved to training"
        lines.append(f"{plural(moved, 'prompt')} nearly equal to one of training: {where}")
    return splits
