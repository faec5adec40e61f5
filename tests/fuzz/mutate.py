"""Mutations of files that people and models write: cut, doubled, swapped and broken bytes, lines, values and types."""

from __future__ import annotations

import random

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


MUTATIONS = (_insert, _cut, _truncate, _flip, _lines, _value)
