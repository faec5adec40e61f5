"""Replies that answer nothing, told by their words alone: the empty one, the echo, the endless repetition.

Similarity of meaning cannot refuse these: nothing is more similar to a post than the post itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np

Fault = Literal["empty", "echo", "repetition"]

ECHOED_SHARE = 0.75
"""An echo has at least this share of its words from the post, or of the post's words in it."""
FEWEST_ECHOED_WORDS = 4
"""Shorter texts share words by chance; they are echoes only when they are equal."""
REPEATED_SHARE = 0.5
"""A repetition has at least this share of its word pairs from earlier in the same reply."""
FEWEST_REPEATED_WORDS = 4

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def fault(post: str, reply: str) -> Fault | None:
    """What disqualifies a reply whatever it means, or None."""
    post_words, reply_words = words(post), words(reply)
    if not reply_words:
        return "empty"
    if _echoes(post_words, reply_words):
        return "echo"
    if _repeats(reply_words):
        return "repetition"
    return None


def words(text: str) -> list[str]:
    """Lower-cased words without punctuation."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def _echoes(post: Sequence[str], reply: Sequence[str]) -> bool:
    if post == reply:
        return True
    shared = (Counter(post) & Counter(reply)).total()
    return any(
        len(side) >= FEWEST_ECHOED_WORDS and shared >= ECHOED_SHARE * len(side) for side in (post, reply)
    )


def _repeats(reply: Sequence[str]) -> bool:
    pairs = list(pairwise(reply))
    repeated = len(pairs) - len(set(pairs))
    return len(reply) >= FEWEST_REPEATED_WORDS and repeated >= REPEATED_SHARE * len(pairs)


def echoes(posts: Sequence[str], generator: np.random.Generator) -> list[str]:
    """Each post said again in one of three ways: its words in another order, thinned, or cut in half."""
    ways = (_reordered, _thinned, _first_half)
    return [" ".join(ways[i % len(ways)](post.split(), generator)) for i, post in enumerate(posts)]


def _reordered(listed: list[str], generator: np.random.Generator) -> list[str]:
    return [listed[i] for i in generator.permutation(len(listed))]


def _thinned(listed: list[str], generator: np.random.Generator) -> list[str]:
    return [word for word in listed if generator.random() < 0.7] or listed


def _first_half(listed: list[str], _: np.random.Generator) -> list[str]:
    return listed[: len(listed) // 2 + 1]
