"""What generated texts look like from afar: how long, how often cut, in which scripts and languages."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from polychromic.records import GenerationRow

# Words that hardly any sentence of the language does without, and that the others lack.
_COMMON = """
English: the and is of to that with for this you are was have not
German: der und ist das nicht ich ein eine mit auf für sich den auch
French: le et est les des une dans pour vous pas sur avec nous qui
Spanish: el y los las una por con para es pero como muy más está
Italian: il di che è per non sono della gli anche questo più
Portuguese: o não uma os em você são isso mas muito também ele
Dutch: het een van niet dat zijn ik voor met maar ook wij
"""
_FUNCTION_WORDS: Mapping[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in (line.split(":") for line in _COMMON.strip().splitlines())
}
_WORD = re.compile(r"[^\W\d_]+")
_LEAST_WORDS = 2
# Japanese writes one text in several.
_SCRIPTS = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK"}


@dataclass(frozen=True, slots=True)
class TextFigures:
    """Means over one arm's generations at the headline. Shares are of the generations that have letters."""

    tokens: float
    truncated: float
    scripts: Mapping[str, float]
    """Share of each script, such as LATIN."""
    languages: Mapping[str, float]
    """Share of each language that a few common words tell, such as English."""


def text_figures(rows: Sequence[GenerationRow]) -> TextFigures:
    """Figures of some generations. Raises ValueError without any."""
    if not rows:
        raise ValueError("rows: expected at least one generation")
    scripts = [script for row in rows if (script := main_script(row.text))]
    languages = [language for row in rows if (language := main_language(row.text))]
    return TextFigures(
        tokens=sum(row.n_tokens for row in rows) / len(rows),
        truncated=sum(row.finish == "length" for row in rows) / len(rows),
        scripts={name: count / len(scripts) for name, count in Counter(scripts).most_common()},
        languages={name: count / len(scripts) for name, count in Counter(languages).most_common()},
    )


def switched(ours: TextFigures, baseline: TextFigures) -> tuple[float, str]:
    """Share of generations in scripts or languages beyond the baseline's share of these, and the most risen one.

    (0, "") where nothing rose. What the baseline does too, as on prompts in several languages, is no switching.
    """
    risen = [
        {name: share - theirs.get(name, 0.0) for name, share in own.items() if share > theirs.get(name, 0.0)}
        for own, theirs in ((ours.scripts, baseline.scripts), (ours.languages, baseline.languages))
    ]
    most = max(risen, key=lambda one: sum(one.values()))
    return (sum(most.values()), max(most, key=lambda name: most[name])) if most else (0.0, "")


def main_script(text: str) -> str:
    """The script of most letters of a text: the first word of their Unicode names; empty without letters."""
    counts = Counter(_script(letter) for letter in text if letter.isalpha())
    return max(counts, key=lambda name: counts[name], default="")


def main_language(text: str) -> str:
    """The language with most of its common words in a text, at least two; empty where none leads."""
    words = set(_WORD.findall(text.lower()))
    hits = {name: len(common & words) for name, common in _FUNCTION_WORDS.items()}
    first, second = sorted(hits, key=lambda name: -hits[name])[:2]
    return first if hits[first] >= _LEAST_WORDS and hits[first] > hits[second] else ""


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return _SCRIPTS.get(name, name)
