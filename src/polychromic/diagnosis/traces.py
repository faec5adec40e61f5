"""Reads what training recorded: traces of metrics, floors and texts."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from polychromic.diagnosis.weights import AdapterDistance
from polychromic.records import GenerationRow

_EDGE = 0.2  # share of an arm's steps that counts as its beginning, and as its end


@dataclass(frozen=True, slots=True)
class ArmTrace:
    """Rows of metrics.jsonl by seed. Means are over the steps that hold the metric, then over seeds; nan without."""

    arm: str
    seeds: Mapping[int, Sequence[Mapping[str, Any]]]

    @property
    def steps(self) -> int:
        """Returns the most steps that any seed has done."""
        return max((rows[-1]["step"] for rows in self.seeds.values() if rows), default=0)

    def mean(self, key: str) -> float:
        """Averages over all steps."""
        return self._mean(key, 0.0, 1.0)

    def early(self, key: str) -> float:
        """Averages over the first fifth of the measured steps."""
        return self._mean(key, 0.0, _EDGE)

    def late(self, key: str) -> float:
        """Averages over the last fifth of the measured steps."""
        return self._mean(key, 1.0 - _EDGE, 1.0)

    def edges(self, key: str) -> tuple[float, float]:
        """Returns `early` and `late`."""
        return self.early(key), self.late(key)

    def largest(self, key: str) -> float:
        """Returns the largest value of any step and seed."""
        values = [value for rows in self.seeds.values() for value in measured(rows, key).values()]
        return max(values, default=math.nan)

    def _mean(self, key: str, start: float, end: float) -> float:
        means = []
        for rows in self.seeds.values():
            values = list(measured(rows, key).values())
            n = len(values)
            # At least one value at either edge, however short the run.
            first, last = (math.floor(start * n), max(math.floor(start * n) + 1, math.ceil(end * n)))
            if n:
                means.append(float(np.mean(values[min(first, n - 1) : last])))
        return float(np.mean(means)) if means else math.nan


def measured(rows: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    """Returns the metric by step, without the steps that did not measure it."""
    return {row["step"]: row[key] for row in rows if row.get(key) is not None and not math.isnan(row[key])}


_MOST_MEASUREMENTS = 100


@dataclass(frozen=True, slots=True)
class Floor:
    """The lowest quality that λ may lead to or, `of_baseline`, the lowest difference to the baseline's.

    key: the metric of a step whose negative is the quality.
    """

    lowest: float
    of_baseline: bool
    key: str


@dataclass(frozen=True, slots=True)
class EndQuality:
    """Mean quality (or difference) of a seed's last measurements, and its standard error: sd / √n."""

    mean: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class FloorRecord:
    """The end of each seed beside its floor, over the last third of the steps that measured it, 100 at most."""

    lowest: float
    of_baseline: bool
    measurements: int
    seeds: Mapping[int, EndQuality]
    """Without those that have no measurement to compare."""

    @property
    def broken(self) -> list[EndQuality]:
        """Lists the seeds that ended below the floor."""
        return [seed for seed in self.seeds.values() if seed.mean < self.lowest]

    @property
    def sentence(self) -> str:
        """States the quality that was held, and the floor."""
        floor = f"floor {self.lowest:+.3f}" if self.of_baseline else f"floor {self.lowest:.3f}"
        name = "quality beside the baseline's" if self.of_baseline else "quality"
        if not self.seeds:
            return f"{name}: not known, no step of both arms to compare ({floor})"
        form = "+.3f" if self.of_baseline else ".3f"
        means = ", ".join(format(seed.mean, form) for seed in self.seeds.values())
        error = max(seed.standard_error for seed in self.seeds.values())
        noise = "" if math.isnan(error) else f", standard error {error:.2g}"
        return f"{name} over the last {self.measurements} measurements {means} ({floor}{noise})"


def floor_record(floor: Floor, trace: ArmTrace, baseline: ArmTrace) -> FloorRecord:
    """Measures an arm's quality against its floor; steps of arm and baseline are paired by seed: they saw the same
    prompts."""
    seeds, longest = {}, 0
    for seed, rows in trace.seeds.items():
        losses = measured(rows, floor.key)
        if floor.of_baseline:
            other = measured(baseline.seeds.get(seed, ()), floor.key)
            losses = {step: loss - other[step] for step, loss in losses.items() if step in other}
        n = min(_MOST_MEASUREMENTS, math.ceil(len(losses) / 3))
        if n:
            last = -np.array(list(losses.values()))[-n:]
            error = float(last.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
            seeds[seed] = EndQuality(float(last.mean()), error)
            longest = max(longest, n)
    return FloorRecord(floor.lowest, floor.of_baseline, longest, seeds)


# Japanese writes one text in several.
_SCRIPTS = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK"}


@dataclass(frozen=True, slots=True)
class TextFigures:
    """Means over one arm's generations at the primary sampling. Shares are of the generations that have letters."""

    tokens: float
    truncated: float
    scripts: Mapping[str, float]
    """Share of each script, such as LATIN."""


def text_figures(rows: Sequence[GenerationRow]) -> TextFigures:
    """Averages over some generations. Raises ValueError without any."""
    if not rows:
        raise ValueError("rows: expected at least one generation")
    scripts = [script for row in rows if (script := main_script(row.text))]
    return TextFigures(
        tokens=sum(row.n_tokens for row in rows) / len(rows),
        truncated=sum(row.finish == "length" for row in rows) / len(rows),
        scripts={name: count / len(scripts) for name, count in Counter(scripts).most_common()},
    )


def switched(ours: TextFigures, baseline: TextFigures) -> tuple[float, str]:
    """Returns the share of generations in scripts beyond the baseline's, and the script that rose most.

    (0, "") where nothing rose. What the baseline does too, as on prompts in several scripts, is no switching.
    """
    risen = {name: share - baseline.scripts.get(name, 0.0) for name, share in ours.scripts.items()}
    risen = {name: rise for name, rise in risen.items() if rise > 0}
    return sum(risen.values()), max(risen, key=lambda name: risen[name], default="")


def main_script(text: str) -> str:
    """Returns the script of most letters of a text: the first word of their Unicode names; empty without letters."""
    counts = Counter(_script(letter) for letter in text if letter.isalpha())
    return max(counts, key=lambda name: counts[name], default="")


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "UNKNOWN").split()[0]
    return _SCRIPTS.get(name, name)


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """The settings of one arm that matter here. The baseline comes first among the arms of a diagnosis."""

    name: str
    loss: str
    weight: float | str
    """λ, or "auto"."""
    temperature: float
    max_new_tokens: int
    start: Path | None = None
    """The adapter that training continued from."""
    floor: Floor | None = None
    """The floor that λ has to keep."""
    learns_from_rewards: bool = True


@dataclass(frozen=True, slots=True)
class ArmEvidence:
    """The traces that an arm's run left on disk; rules and summary look at nothing else."""

    facts: ArmFacts
    trace: ArmTrace
    is_baseline: bool
    weight: float
    """The mean λ in effect."""
    distances: tuple[AdapterDistance, ...] = ()
    """Of every seed whose weights are on disk; those with a baseline of the same progress come first."""
    texts: TextFigures | None = None
    """Of the evaluated generations, None where there are none yet."""
    baseline_texts: TextFigures | None = None
    floor: FloorRecord | None = None
    """Tells how the arm ended against the floor that λ had to keep; None for an arm without one."""

    @property
    def distance(self) -> AdapterDistance | None:
        """Returns the first seed's distance, with its modules; None without weights on disk."""
        return self.distances[0] if self.distances else None
