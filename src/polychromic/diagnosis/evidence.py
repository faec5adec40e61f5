"""What the rules of a diagnosis look at, and what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from polychromic.diagnosis.floors import FloorRecord
from polychromic.diagnosis.texts import TextFigures
from polychromic.diagnosis.traces import ArmTrace
from polychromic.diagnosis.weights import AdapterDistance

Severity = Literal["fault", "warning"]

GRADIENT_SHARE = "train/diversity_gradient_share"
LOSS_SHARE = "train/diversity_loss_share"
GATE_SHARE = "train/diversity_gate_gradient_share"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that looks wrong: a stable `kind` for programs, a sentence and the mend for people."""

    kind: str
    severity: Severity
    sentence: str
    mend: str


@dataclass(frozen=True, slots=True)
class ArmEvidence:
    """What the rules look at. `weight` is the mean λ in effect, `distance` None without two adapters to compare."""

    trace: ArmTrace
    is_baseline: bool
    signal: str
    weight: float
    temperature: float
    max_new_tokens: int
    distance: AdapterDistance | None
    texts: TextFigures | None = None
    """Of the evaluated generations, None where there are none yet."""
    baseline_texts: TextFigures | None = None
    floor: FloorRecord | None = None
    """What became of the floor that λ had to keep, None for an arm without one."""
