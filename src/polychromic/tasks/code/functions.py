"""Makes problems for short Python functions from a seed: what to take, keep, change and return, with tests.

A problem is small enough for a model that was trained from scratch on a CPU, and has many right programs:

    Write a Python function f(xs): take the numbers in the list xs, keep the even ones, square each, return the sum.

`styles` writes its solutions. Expected values come from the meaning of the parts, never from a written solution.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from polychromic.errors import ConfigError
from polychromic.seeding import child_seed
from polychromic.tasks.base import Split, distinct, split_of
from polychromic.tasks.code.problems import Problem

_SMALL = range(2, 10)
_FEWEST_VALUES = 3


@dataclass(frozen=True)
class Part:
    """A condition or a change: its words, the ways to write it in Python with `{x}` for the item, and its meaning."""

    words: str
    writings: tuple[str, ...]
    meaning: Callable[[Any], Any]


@dataclass(frozen=True)
class Gather:
    """A change of the items, in words, in meaning, and in the pieces that each style of program needs."""

    words: str
    meaning: Callable[[list[Any]], Any]
    inline: tuple[str, ...]
    """Around the inside of a comprehension, `{}`."""
    outer: str
    """Around an expression that gives the items, `{}`."""
    start: str
    """The accumulator before a loop."""
    update: str
    """Of the accumulator `{t}` by the value `{v}`; lines after the first are indented further."""
    finish: str = "{t}"
    recursion: tuple[str, str] | None = None
    """The value of nothing, and that of a first value `{v}` before the `{rest}`; None where it is not so simple."""


@dataclass(frozen=True)
class Source:
    """A source of the items: the function's argument, words, ways to loop over them, and their meaning."""

    argument: str
    words: str
    loops: tuple[str, ...]
    items: Callable[[Any], list[Any]]
    keeps: tuple[Part | None, ...]
    changes: tuple[Part | None, ...]
    gathers: tuple[Gather, ...]
    inputs: Callable[[random.Random], list[Any]]
    is_sequence: bool
    """True where the argument can be indexed and cut."""


def _with_number(words: str, writings: tuple[str, ...], meaning: Callable[[int, int], Any]) -> list[Part]:
    return [
        Part(
            words.format(k=k),
            tuple(writing.replace("{k}", str(k)) for writing in writings),
            lambda x, k=k: meaning(x, k),
        )
        for k in _SMALL
    ]


_EVEN = Part("keep the even ones", ("{x} % 2 == 0", "not {x} % 2"), lambda x: x % 2 == 0)
_ODD = Part("keep the odd ones", ("{x} % 2 == 1", "{x} % 2 != 0"), lambda x: x % 2 == 1)
_KEEPS: tuple[Part | None, ...] = (
    None,
    _EVEN,
    _ODD,
    *_with_number("keep those above {k}", ("{x} > {k}",), lambda x, k: x > k),
    *_with_number("keep those below {k}", ("{x} < {k}",), lambda x, k: x < k),
    *_with_number("keep the multiples of {k}", ("{x} % {k} == 0", "not {x} % {k}"), lambda x, k: x % k == 0)[1:],
)
_SIGNS = (
    Part("keep the positive ones", ("{x} > 0",), lambda x: x > 0),
    Part("keep the negative ones", ("{x} < 0",), lambda x: x < 0),
)
_CHANGES: tuple[Part | None, ...] = (
    None,
    Part("square each", ("{x} * {x}", "{x} ** 2"), lambda x: x * x),
    Part("cube each", ("{x} * {x} * {x}", "{x} ** 3"), lambda x: x**3),
    Part("double each", ("{x} * 2", "{x} + {x}"), lambda x: 2 * x),
    Part("negate each", ("-{x}", "0 - {x}"), lambda x: -x),
    *_with_number("add {k} to each", ("{x} + {k}",), lambda x, k: x + k),
    *_with_number("multiply each by {k}", ("{x} * {k}",), lambda x, k: x * k)[1:],
    *_with_number("subtract {k} from each", ("{x} - {k}",), lambda x, k: x - k),
    *_with_number("take each modulo {k}", ("{x} % {k}",), lambda x, k: x % k),
)
_ABSOLUTE = Part("take the absolute value of each", ("abs({x})", "max({x}, -{x})"), abs)

_COUNT = Gather(
    "return how many there are", len, ("len([{}])",), "len(list({}))", "0", "{t} += 1", recursion=("0", "1 + {rest}")
)
_LIST = Gather(
    "return them as a list",
    list,
    ("[{}]", "list({})"),
    "list({})",
    "[]",
    "{t}.append({v})",
    recursion=("[]", "[{v}] + {rest}"),
)
_DISTINCT = Gather(
    "return the different ones, sorted",
    lambda items: sorted(set(items)),
    ("sorted(set({}))", "sorted({{{}}})"),
    "sorted(set({}))",
    "set()",
    "{t}.add({v})",
    "sorted({t})",
)
_NUMBER_GATHERS = (
    Gather("return the sum", sum, ("sum({})",), "sum({})", "0", "{t} += {v}", recursion=("0", "{v} + {rest}")),
    _COUNT,
    _LIST,
    Gather(
        "return them as a list in reverse",
        lambda items: items[::-1],
        ("[{}][::-1]", "list(reversed([{}]))"),
        "list({})[::-1]",
        "[]",
        "{t}.insert(0, {v})",
        recursion=("[]", "{rest} + [{v}]"),
    ),
    Gather(
        "return the largest, or 0 if there is none",
        lambda items: max(items, default=0),
        ("max([{}], default=0)",),
        "max({}, default=0)",
        "None",
        "y = {v}\nif {t} is None or y > {t}:\n    {t} = y",
        "0 if {t} is None else {t}",
    ),
    Gather("return them sorted", sorted, ("sorted({})",), "sorted({})", "[]", "{t}.append({v})", "sorted({t})"),
    _DISTINCT,
)
_TEXT_GATHERS = (
    Gather(
        "return them joined",
        "".join,
        ('"".join({})', '"".join([{}])'),
        '"".join({})',
        '""',
        "{t} += {v}",
        recursion=('""', "{v} + {rest}"),
    ),
    Gather(
        "return them joined in reverse",
        lambda items: "".join(items[::-1]),
        ('"".join([{}][::-1])', '"".join(reversed([{}]))'),
        '"".join(list({})[::-1])',
        '""',
        "{t} = {v} + {t}",
        recursion=('""', "{rest} + {v}"),
    ),
    Gather(
        "return them joined by dashes",
        "-".join,
        ('"-".join({})', '"-".join([{}])'),
        '"-".join({})',
        "[]",
        "{t}.append({v})",
        '"-".join({t})',
    ),
    _COUNT,
    _LIST,
    _DISTINCT,
)
_TEXT_KEEPS: tuple[Part | None, ...] = (
    None,
    Part("keep the vowels", ('{x} in "aeiou"', '"aeiou".count({x}) > 0'), lambda c: c in "aeiou"),
    Part("drop the vowels", ('{x} not in "aeiou"', '"aeiou".count({x}) == 0'), lambda c: c not in "aeiou"),
    Part("keep the digits", ("{x}.isdigit()", '{x} in "0123456789"'), str.isdigit),
    Part("keep the letters", ("{x}.isalpha()",), str.isalpha),
    Part("keep the upper-case letters", ("{x}.isupper()",), str.isupper),
    Part("keep the lower-case letters", ("{x}.islower()",), str.islower),
    Part("drop the spaces", ('{x} != " "', "not {x}.isspace()"), lambda c: c != " "),
    *(Part(f'keep those before "{k}"', (f'{{x}} < "{k}"',), lambda c, k=k: c < k) for k in "cefhkmprt"),
    *(Part(f'drop every "{k}"', (f'{{x}} != "{k}"',), lambda c, k=k: c != k) for k in "aeilnorst"),
)
_TEXT_CHANGES: tuple[Part | None, ...] = (
    None,
    Part("make each upper case", ("{x}.upper()",), str.upper),
    Part("make each lower case", ("{x}.lower()",), str.lower),
    Part("swap the case of each", ("{x}.swapcase()",), str.swapcase),
    Part("double each", ("{x} * 2", "{x} + {x}"), lambda c: c + c),
    *(Part(f'put "{k}" after each', (f'{{x}} + "{k}"',), lambda c, k=k: c + k) for k in "!*+abxyz"),
)


def _lists(draw: random.Random) -> list[Any]:
    whole = [*range(-12, 21)]
    draw.shuffle(whole)
    return [[], whole[:3], whole[:12], whole[3:], [*whole[:6], *whole[2:8]]]


def _counts(draw: random.Random) -> list[Any]:
    return [0, draw.randint(1, 4), draw.randint(5, 9), draw.randint(10, 19), draw.randint(20, 30)]


def _long_numbers(draw: random.Random) -> list[Any]:
    digits = [*"123456789" * 2]
    draw.shuffle(digits)
    return [0, int(digits[0]), int("".join(digits[:4])), int("".join([*digits[4:7], "0", digits[0]])),
            int("".join(digits))]  # fmt: skip


def _texts(draw: random.Random) -> list[Any]:
    characters = [*"abcdefghijklmnopqrstuvwxyz", *"AEIOUKLMNRST", *"0123456789", *"    "]
    draw.shuffle(characters)
    return ["", "Hello World", "".join(characters[:9]), "".join(characters), "".join(characters[:5] * 2)]


SOURCES: tuple[Source, ...] = (
    Source("xs", "the numbers in the list xs", ("xs",), list, (*_KEEPS, *_SIGNS), (*_CHANGES, _ABSOLUTE),
           _NUMBER_GATHERS, _lists, True),
    Source("n", "the numbers from 1 to n", ("range(1, n + 1)",), lambda n: [*range(1, n + 1)], _KEEPS, _CHANGES,
           _NUMBER_GATHERS, _counts, False),
    Source("n", "the digits of n", ("map(int, str(n))", "[int(d) for d in str(n)]"),
           lambda n: [int(digit) for digit in str(n)], _KEEPS, _CHANGES, _NUMBER_GATHERS, _long_numbers, False),
    Source("s", "the characters of the text s", ("s",), list, _TEXT_KEEPS, _TEXT_CHANGES, _TEXT_GATHERS, _texts,
           True),
)  # fmt: skip


@dataclass(frozen=True)
class Function:
    """One problem before it is written out."""

    source: Source
    keep: Part | None
    change: Part | None
    gather: Gather

    @property
    def text(self) -> str:
        """Returns the prompt that the model sees."""
        steps = [f"take {self.source.words}", *(part.words for part in (self.keep, self.change) if part)]
        return f"Write a Python function f({self.source.argument}): {', '.join(steps)}, {self.gather.words}.\n"

    def value(self, argument: Any) -> Any:
        """Returns what a right program returns."""
        kept = [item for item in self.source.items(argument) if self.keep is None or self.keep.meaning(item)]
        return self.gather.meaning(kept if self.change is None else [self.change.meaning(item) for item in kept])

    @property
    def is_telling(self) -> bool:
        """Returns True where the values that tests expect differ: no constant passes most of them."""
        return len({repr(self.value(argument)) for argument in self._inputs()}) >= _FEWEST_VALUES

    def tests(self) -> list[str]:
        """Returns five assertions; their inputs are the same whatever seed drew the problem."""
        return [f"assert f({argument!r}) == {self.value(argument)!r}" for argument in self._inputs()]

    def _inputs(self) -> list[Any]:
        return self.source.inputs(random.Random(child_seed("functions-tests", self.text)))


def random_functions(split: Split, *names: str | int) -> Iterator[tuple[Function, random.Random]]:
    """Yields problems without end of a split, drawn by the child seed of `names`, each with the generator in use."""
    draw = random.Random(child_seed("functions", split, *names))
    while True:
        source = draw.choice(SOURCES)
        keep, change, gather = (draw.choice(source.keeps), draw.choice(source.changes), draw.choice(source.gathers))
        # How many there are does not depend on a change.
        function = Function(source, keep, None if gather is _COUNT else change, gather)
        if split_of("functions", function.text) == split and function.is_telling:
            yield function, draw


@lru_cache(maxsize=16)
def make_problems(split: Split, wanted: int, seed: int) -> Sequence[Problem]:
    """Returns distinct problems of a split with a solution of each style.

    Raises ConfigError where there are not that many.
    """
    from polychromic.tasks.code.styles import solutions

    functions = distinct(((function.text, function) for function, _ in random_functions(split, seed)), wanted)
    if len(functions) < wanted:
        raise ConfigError(f"task: {wanted} {split} problems asked for, {len(functions)} were found; ask for fewer")
    return tuple(
        Problem(
            id=f"{split}-{index:05d}",
            prompt=function.text,
            tests=tuple(function.tests()),
            entry_point="f",
            solutions=tuple(solutions(function)),
        )
        for index, function in enumerate(functions)
    )
