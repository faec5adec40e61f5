"""Reads a run folder, finished or not, and says of every arm what happened and what looks wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polychromic.diagnosis.findings import GRADIENT_SHARE, LOSS_SHARE, ArmEvidence, Finding, find
from polychromic.diagnosis.texts import TextFigures, text_figures
from polychromic.diagnosis.traces import ArmTrace
from polychromic.diagnosis.weights import AdapterDistance, adapter_distance, read_updates
from polychromic.files import read_jsonl
from polychromic.records import GenerationRow

SCHEMA_VERSION = 1
_LARGEST_MODULES = 5


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """What an experiment says of one arm. The baseline comes first among the arms of a diagnosis."""

    name: str
    signal: str
    weight: float | str
    temperature: float
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class ArmDiagnosis:
    """One arm in plain sentences, its findings in the order in which to act, and how far its weights moved."""

    arm: str
    steps: int
    summary: tuple[str, ...]
    findings: tuple[Finding, ...]
    distance: AdapterDistance | None
    texts: TextFigures | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All arms, the baseline first."""

    arms: tuple[ArmDiagnosis, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain mapping for diagnosis.json (nan becomes null)."""
        return {"schema_version": SCHEMA_VERSION, "arms": [asdict(arm) for arm in self.arms]}


def diagnose(root: Path, arms: Sequence[ArmFacts], seeds: Sequence[int], *, headline: str = "") -> Diagnosis:
    """Diagnose the run below `root`; arms or seeds that have not begun are passed over.

    `headline` is the sampling label whose generations are looked at. Raises DataError on a damaged file.
    """
    baseline = arms[0].name
    texts = {arm.name: _texts(root / arm.name, seeds, headline) for arm in arms}
    found = []
    for arm in arms:
        rows = {seed: read_jsonl(root / arm.name / f"seed-{seed}" / "metrics.jsonl") for seed in seeds}
        trace = ArmTrace(arm.name, {seed: some for seed, some in rows.items() if some})
        if not trace.seeds:
            continue
        evidence = ArmEvidence(
            trace=trace,
            is_baseline=arm.name == baseline,
            signal=arm.signal,
            weight=_weight_in_effect(arm, trace),
            temperature=arm.temperature,
            max_new_tokens=arm.max_new_tokens,
            distance=_distance(root, arm.name, baseline, seeds),
            other_script=_other_script(texts[arm.name], texts[baseline]),
        )
        summary = tuple(_summary(evidence))
        findings = tuple(find(evidence))
        found.append(
            ArmDiagnosis(arm.name, trace.steps, summary, findings, evidence.distance, texts[arm.name])
        )
    return Diagnosis(tuple(found))


def _weight_in_effect(arm: ArmFacts, trace: ArmTrace) -> float:
    weight = trace.mean("train/diversity_weight")
    return weight if not math.isnan(weight) else float(arm.weight) if arm.weight != "auto" else math.nan


def _distance(root: Path, arm: str, baseline: str, seeds: Sequence[int]) -> AdapterDistance | None:
    """Of the first seed that both arms have finished; the baseline's to itself says how far it moved."""
    for seed in seeds:
        ours, theirs = (root / name / f"seed-{seed}" / "adapter" for name in (arm, baseline))
        if ours.is_dir() and theirs.is_dir():
            one, other = read_updates(ours), read_updates(theirs)
            # Arms may adapt different modules; then no distance between them is defined.
            return adapter_distance(one, other) if one.keys() == other.keys() else None
    return None


def _texts(arm_root: Path, seeds: Sequence[int], headline: str) -> TextFigures | None:
    rows = [
        GenerationRow.from_json(row)
        for seed in seeds
        for row in read_jsonl(arm_root / f"seed-{seed}" / "generations.jsonl")
    ]
    chosen = [row for row in rows if not headline or row.sampling.label == headline]
    return text_figures(chosen) if chosen else None


def _other_script(ours: TextFigures | None, baseline: TextFigures | None) -> float:
    if ours is None or baseline is None or not baseline.script:
        return math.nan
    return ours.other_script if ours.script == baseline.script else 1.0 - ours.other_script


_COURSES: Mapping[str, tuple[str, str]] = {
    "train/reward": ("reward", ".3f"),
    "train/quality_loss": ("quality loss", ".3f"),
    "groups/clusters": ("distinct answers a group", ".2f"),
    "train/diversity_score": ("diversity score", ".3f"),
    "groups/distance": ("raw distance", ".2f"),
    "train/diversity_gate_share": ("gate's share of the credit", ".0%"),
    "generation/entropy": ("entropy (nats a token)", ".2f"),
    "generation/tokens": ("tokens an answer", ".1f"),
    "generation/truncated": ("cut answers", ".1%"),
    "train/kl": ("KL to the start (nats)", ".2f"),
}


def _summary(evidence: ArmEvidence) -> list[str]:
    trace = evidence.trace
    sentences = [f"{len(trace.seeds)} seeds, {trace.steps} steps, signal: {evidence.signal}"]
    if evidence.weight > 0:
        sentences.append(_pull(trace))
    courses = [
        f"{words} {_course(trace.early(key), trace.late(key), form)}"
        for key, (words, form) in _COURSES.items()
        if not math.isnan(trace.early(key))
    ]
    sentences.append("; ".join(courses))
    if evidence.distance is not None:
        sentences.append(_moved(evidence.distance, evidence.is_baseline))
    return sentences


def _pull(trace: ArmTrace) -> str:
    """How hard the diversity term pulled: its share of the loss says nothing, that of the gradient everything."""
    weight, loss, gradient = (
        _course(trace.early(key), trace.late(key), form)
        for key, form in (("train/diversity_weight", ".3g"), (LOSS_SHARE, ".0%"), (GRADIENT_SHARE, ".0%"))
    )
    noise = trace.mean("train/diversity_signal_to_noise")
    return (
        f"λ {weight}; share of the loss {loss}, of the gradient {gradient}; cosine to the quality gradient "
        f"{trace.mean('train/gradient_cosine'):.2f}"
        + ("" if math.isnan(noise) else f", signal-to-noise a step {noise:.2g}")
    )


def _course(first: float, last: float, form: str) -> str:
    start, end = format(first, form), format(last, form)
    return start if start == end else f"{start} → {end}"


def _moved(distance: AdapterDistance, is_baseline: bool) -> str:
    """Where the weights went, with the modules that moved furthest."""
    if is_baseline:
        return f"the weights moved by ‖ΔW‖ = {distance.norm:.3g}"
    furthest = sorted(distance.modules, key=lambda module: -module.distance)[:_LARGEST_MODULES]
    named = ", ".join(f"{module.module} {module.distance:.2g}" for module in furthest)
    return (
        f"the weights moved by ‖ΔW‖ = {distance.norm:.3g} and ended {distance.distance:.3g} from the baseline's "
        f"({distance.relative:.0%} of how far that moved), furthest in {named}"
    )
