"""Whether every measure puts known groups in the right order: all identical, half alike, all different."""

from __future__ import annotations

from dataclasses import dataclass

from polychromic.diversity.embedder import Embedder
from polychromic.diversity.measurement import DIRECTIONS, MeasureSettings, measure_group

_SENTENCES = (
    "Fresh bread from the bakery on our corner smells wonderful every morning",
    "Astronomers measured how quickly that distant galaxy moves away from ours",
    "My grandmother taught me to play chess when I turned six",
    "Heavy rain flooded two fields beside the river last night again",
    "Please restart your computer before installing any new printer software today",
    "Our team lost by three goals although we trained all winter",
    "Interest rates may rise because inflation stays well above its target",
    "She painted her kitchen bright yellow while listening to old records",
)
_GROUPS = {
    "identical": _SENTENCES[:1] * 8,
    "mixed": _SENTENCES[:1] * 4 + _SENTENCES[1:5],
    "different": _SENTENCES,
}


@dataclass(frozen=True, slots=True)
class MeasureCheck:
    """One measure's values on the three known groups; `passed` says that they come in the order of diversity."""

    measure: str
    identical: float
    mixed: float
    different: float
    passed: bool


def check_measures(embedder: Embedder | None = None) -> list[MeasureCheck]:
    """Run every measure on known groups; with an embedder the semantic ones too. A nan never passes."""
    settings = MeasureSettings(embedder=embedder.name if embedder else "none")
    values = {}
    for name, texts in _GROUPS.items():
        embeddings = embedder.encode(texts) if embedder else None
        values[name] = measure_group(texts, settings, embeddings=embeddings).values
    return [_check(measure, *(group[measure] for group in values.values())) for measure in values["mixed"]]


def _check(measure: str, identical: float, mixed: float, different: float) -> MeasureCheck:
    rising = identical < mixed < different
    falling = identical > mixed > different
    passed = rising if DIRECTIONS[measure] == "higher" else falling
    return MeasureCheck(measure, identical, mixed, different, passed)
