"""What was measured of one arm and seed: an array over prompts for every metric and way of sampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polychromic.evaluation.metrics import split_at_k

Floats = NDArray[np.float64]

SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class SampledTable:
    """Metrics of one way of sampling. Arrays follow the table's prompts; nan where a metric is undefined.

    `values` holds [P] arrays by metric key. `curves` holds "pass" and "distinct_correct" [P, n]: the unbiased
    value among k generations in column k − 1. A metric that no prompt has is absent.
    """

    values: Mapping[str, Floats]
    curves: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """Keys of the plain metrics, then those of the curves at k = 1, 2, 4, … and their last k."""
        at_k = [f"{name}@{k}" for name, curve in self.curves.items() for k in _shown_ks(curve.shape[1])]
        return [*self.values, *at_k]

    def metric(self, key: str) -> Floats | None:
        """[P] values of a metric such as `distinct_2` or `pass@10`; None where it was not measured."""
        at_k = split_at_k(key)
        if at_k is None:
            return self.values.get(key)
        name, k = at_k
        curve = self.curves.get(name)
        return curve[:, k - 1] if curve is not None and k <= curve.shape[1] else None


@dataclass(frozen=True, slots=True)
class PromptTable:
    """One arm's and seed's measurements: `sampled` by label (`T=1`), the headline first; prompts sorted by id.

    `clusters` says how equal answers were found, `signatures` how each diversity measure was made, and
    `missing` why rewards are missing: reasons with their counts. `answers` is the number of answers that the measures
    of texts saw of every prompt (0: not known), and `most_answers` by label the most that a prompt has. `undefined`
    counts the prompts where a measure is nan: label → metric → reason → prompts.
    """

    prompts: tuple[str, ...]
    sampled: Mapping[str, SampledTable]
    clusters: str = "text"
    signatures: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    answers: int = 0
    most_answers: Mapping[str, int] = field(default_factory=dict)
    undefined: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain mapping for `write_json` (nan becomes null); `from_json` is its inverse."""
        return {
            "schema_version": SCHEMA_VERSION,
            "prompts": list(self.prompts),
            "sampled": {
                label: {"values": dict(sampled.values), "curves": dict(sampled.curves)}
                for label, sampled in self.sampled.items()
            },
            "clusters": self.clusters,
            "signatures": dict(self.signatures),
            "missing": dict(self.missing),
            "answers": self.answers,
            "most_answers": dict(self.most_answers),
            "undefined": {label: dict(metrics) for label, metrics in self.undefined.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PromptTable:
        """Rebuild a table from what `to_json` gave, also after a trip through a strict JSON file.

        Raises ValueError on another schema version.
        """
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version is {data['schema_version']}, expected {SCHEMA_VERSION}; measure the generations again"
            )
        sampled = {
            label: SampledTable(_arrays(parts["values"]), _arrays(parts["curves"]))
            for label, parts in data["sampled"].items()
        }
        return cls(
            tuple(data["prompts"]),
            sampled,
            data["clusters"],
            data["signatures"],
            data["missing"],
            data["answers"],
            data["most_answers"],
            data["undefined"],
        )


def _arrays(columns: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    # Strict JSON has no nan: null comes back as None, which a float array reads as nan.
    return {key: np.array(column, dtype=np.float64) for key, column in columns.items()}


def _shown_ks(n: int) -> list[int]:
    return sorted({*(2**power for power in range(n.bit_length())), n})
