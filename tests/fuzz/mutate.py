"""Mutations of files that people and models write: cut, doubled, swapped and broken bytes, lines, values and types."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

NASTY = (
    *rb"""
null ~ true -1 1e999 .nan 0x1f 1_000 [] {} [[[[[[[[[[[[[[[[[[[[ {a:{b:{c: *missing <<:*x ? - : # ' " %TAG 2026-11-23 NaN
!!python/object/apply:os.system ${name} ${oc.env:HOME} ${training.${x}} ../../../etc/passwd <script>alert(1)</script>
{"prompt":1} {"prompt":"a","id":[]} {"messages":[{}]} {"references":"x"}
""".split(),
    *(b"", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"&a [*a]", b"\t", b"\r", b"---\n", b"...\n", b"!!binary x"),
    *(b"\x1b[2J", "\u202eevil".encode(), b"9" * 400, b"x" * 5000),
)


def mutate(content: bytes, chance: random.Random) -> bytes:
    """One to four random mutations of a file."""
    for _ in range(chance.randint(1, 4)):
        content = chance.choice(MUTATIONS)(content, chance)
    return content


def _insert(content: bytes, chance: random.Random) -> bytes:
    at = chance.randint(0, len(content))
    return content[:at] + chance.choice(NASTY) + content[at:]


def _cut(content: bytes, chance: random.Random) -> bytes:
    start = chance.randint(0, len(content))
    return content[:start] + content[start + chance.randint(1, 40) :]


def _truncate(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randint(0, len(content))]


def _flip(content: bytes, chance: random.Random) -> bytes:
    if not content:
        return content
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def _lines(content: bytes, chance: random.Random) -> bytes:
    lines = content.split(b"\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    change = chance.choice(("swap", "double", "drop", "indent"))
    if change == "swap":
        lines[one], lines[other] = lines[other], lines[one]
    elif change == "double":
        lines.insert(other, lines[one])
    elif change == "drop":
        del lines[one]
    else:
        lines[one] = b" " * chance.randint(1, 6) + lines[one]
    return b"\n".join(lines)


def _value(content: bytes, chance: random.Random) -> bytes:
    """Replace what stands behind a colon."""
    lines = content.split(b"\n")
    at = chance.randrange(len(lines))
    key, colon, _ = lines[at].partition(b":")
    lines[at] = key + colon + b" " + chance.choice(NASTY) if colon else lines[at]
    return b"\n".join(lines)


ODD_VALUES = (
    *(None, True, False, 0, -1, 1, 2, 0.5, 1e308, 10**30, float("nan"), float("inf"), "", "a\0b", "x" * 5000),
    *(
        [],
        {},
        [[]],
        [None],
        {"a": {"b": {}}},
        ["x", "x"],
        {"name": "custom"},
        "custom",
        "replies",
        "${name}",
        "%s{0}",
    ),
    *(
        "../" * 50,
        "/",
        ".",
        "no/such/file",
        "a:b",
        "a.py:f",
        "<b>",
        "\x1b[2J",
        "\u202e",
        "auto",
        "none",
        "1e-5",
        "09",
    ),
)


def mutate_tree(tree: Any, chance: random.Random) -> Any:
    """A copy of plain nested data with one to three values replaced, removed, renamed or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.randint(1, 3)):
        places = list(_places(tree))
        if places:
            parent, key = chance.choice(places)
            _change(parent, key, chance, [holder[name] for holder, name in places])
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (parent, key) below a value."""
    for key, below in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(below, dict | list):
            yield from _places(below)


def _change(parent: Any, key: Any, chance: random.Random, values: list[Any]) -> None:
    change = chance.choice(("odd", "odd", "other", "remove", "rename", "wrap"))
    if change == "odd":
        parent[key] = copy.deepcopy(chance.choice(ODD_VALUES))
    elif change == "other":
        parent[key] = copy.deepcopy(chance.choice(values))
    elif change == "remove":
        del parent[key]
    elif change == "wrap":
        parent[key] = chance.choice(([parent[key]], {"name": parent[key]}))
    elif isinstance(parent, dict):
        parent[chance.choice(("", "name", str(key)[:-1], str(key).upper(), "a.b"))] = parent.pop(key)


MUTATIONS = (_insert, _cut, _truncate, _flip, _lines, _value)
