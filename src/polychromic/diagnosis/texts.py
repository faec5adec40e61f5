"""What generated texts look like from afar: how long, how often cut, how often in another script than asked."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from polychromic.records import GenerationRow


@dataclass(frozen=True, slots=True)
class TextFigures:
    """Means over one arm's generations at the headline."""

    tokens: float
    truncated: float
    other_script: float
    """Share of generations whose letters are mostly of another script than the arm's most frequent one."""
    script: str
    """The most frequent script, such as LATIN; empty where no generation has letters."""


def text_figures(rows: Sequence[GenerationRow]) -> TextFigures:
    """Figures of some generations. Raises ValueError without any."""
    if not rows:
        raise ValueError("rows: expected at least one generation")
    scripts = [script for row in rows if (script := main_script(row.text))]
    counts: Mapping[str, int] = Counter(scripts)
    script = max(counts, key=lambda name: counts[name], default="")
    return TextFigures(
        tokens=sum(row.n_tokens for row in rows) / len(rows),
        truncated=sum(row.finish == "length" for row in rows) / len(rows),
        other_script=1.0 - counts[script] / len(scripts) if scripts else 0.0,
        script=script,
    )


def main_script(text: str) -> str:
    """The script of most letters of a text: the first word of their Unicode names; empty without letters."""
    counts = Counter(_script(letter) for letter in text if letter.isalpha())
    return max(counts, key=lambda name: counts[name], default="")


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split()[0]
