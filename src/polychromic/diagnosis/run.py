"""Diagnoses a run folder and shows what was found."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from polychromic.diagnosis.rules import GATE_SHARE, GRADIENT_SHARE, LOSS_SHARE, Finding, find
from polychromic.diagnosis.traces import ArmEvidence, ArmFacts, ArmTrace, TextFigures, floor_record, text_figures
from polychromic.diagnosis.weights import (
    Adapted,
    AdapterDistance,
    ModuleDistance,
    Update,
    adapter_distance,
    read_updates,
)
from polychromic.files import read_jsonl
from polychromic.generations import read_generations
from polychromic.plain_text import plain_text
from polychromic.run_folder import ArmFolder, RunFolder

SCHEMA_VERSION = 2
_LARGEST_MODULES = 5


UpdatesOf = Callable[[ArmFacts, int], Adapted | None]
"""The weights of an arm with a seed as far as they are on disk."""


@dataclass(frozen=True, slots=True)
class ArmDiagnosis:
    """The evidence of one arm, in plain sentences, and its findings in the order in which to act on them."""

    evidence: ArmEvidence
    summary: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def arm(self) -> str:
        """Returns the arm's name."""
        return self.evidence.facts.name

    def to_json(self) -> dict[str, Any]:
        """Returns a plain mapping. `courses`: each metric's mean over the first fifth of the steps (`early`), the last
        fifth (`late`) and all of them; `relative_distances`: by seed, the distance to the baseline's weights in units
        of how far that moved, nan without a baseline; `distance` and its modules are of the first of these seeds."""
        evidence, trace = self.evidence, self.evidence.trace
        return {
            "arm": self.arm,
            "steps": trace.steps,
            "summary": self.summary,
            "findings": [asdict(finding) for finding in self.findings],
            "distance": asdict(evidence.distance) if evidence.distance else None,
            "texts": asdict(evidence.texts) if evidence.texts else None,
            "courses": {
                key: {"early": trace.early(key), "late": trace.late(key), "mean": trace.mean(key)}
                for key in _LOGGED
                if not math.isnan(trace.mean(key))
            },
            "relative_distances": {distance.seed: distance.relative for distance in evidence.distances},
            "floor": asdict(evidence.floor) if evidence.floor else None,
        }


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All arms, the baseline first."""

    arms: tuple[ArmDiagnosis, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns a plain mapping for diagnosis.json (nan becomes null)."""
        return {"schema_version": SCHEMA_VERSION, "arms": [arm.to_json() for arm in self.arms]}


def diagnose(
    root: Path,
    arms: Sequence[ArmFacts],
    seeds: Sequence[int],
    *,
    primary_sampling: str = "",
    updates_of: UpdatesOf | None = None,
) -> Diagnosis:
    """Diagnoses the run below `root`; arms or seeds that have not begun are passed over.

    primary_sampling: the sampling label whose generations are looked at. updates_of: where to look for weights, by
    default finished adapters alone. Raises DataError on a damaged file.
    """
    baseline = arms[0]
    texts = {arm.name: _texts(root, arm.name, seeds, primary_sampling) for arm in arms}
    updates_of = updates_of or (lambda arm, seed: finished_updates(RunFolder(root).arm(arm.name, seed)))
    traces = {arm.name: _trace(root, arm.name, seeds) for arm in arms}
    diagnosed = []
    for arm in arms:
        trace = traces[arm.name]
        if not trace.seeds:
            continue
        evidence = ArmEvidence(
            facts=arm,
            trace=trace,
            is_baseline=arm.name == baseline.name,
            weight=_weight_in_effect(arm, trace),
            distances=_distances(arm, baseline, seeds, updates_of),
            texts=texts[arm.name],
            baseline_texts=texts[baseline.name],
            floor=floor_record(arm.floor, trace, traces[baseline.name]) if arm.floor else None,
        )
        diagnosed.append(ArmDiagnosis(evidence, tuple(_summary(evidence)), tuple(find(evidence))))
    return Diagnosis(tuple(diagnosed))


def _trace(root: Path, arm: str, seeds: Sequence[int]) -> ArmTrace:
    rows = {seed: read_jsonl(RunFolder(root).arm(arm, seed).metrics) for seed in seeds}
    return ArmTrace(arm, {seed: some for seed, some in rows.items() if some})


def finished_updates(arm: ArmFolder) -> Adapted | None:
    """Reads the updates of a finished adapter; None where there is none."""
    return Adapted(read_updates(arm.adapter)) if arm.adapter.is_dir() else None


def _weight_in_effect(arm: ArmFacts, trace: ArmTrace) -> float:
    weight = trace.mean("train/diversity_weight")
    return weight if not math.isnan(weight) else float(arm.weight) if arm.weight != "auto" else math.nan


def _distances(
    arm: ArmFacts, baseline: ArmFacts, seeds: Sequence[int], updates_of: UpdatesOf
) -> tuple[AdapterDistance, ...]:
    start = read_updates(arm.start) if arm.start else None
    distances = []
    for seed in seeds:
        ours, theirs = updates_of(arm, seed), updates_of(baseline, seed)
        if ours is None:
            continue
        # Arms may adapt different modules; then no distance between them is defined.
        other = _if_alike(theirs.updates if theirs and theirs.step == ours.step else None, ours.updates)
        distance = adapter_distance(ours.updates, other, _if_alike(start, ours.updates))
        distances.append(replace(distance, seed=seed, step=ours.step))
    return tuple(sorted(distances, key=lambda distance: math.isnan(distance.distance)))


def _if_alike(other: Mapping[str, Update] | None, ours: Mapping[str, Update]) -> Mapping[str, Update] | None:
    return other if other is not None and other.keys() == ours.keys() else None


def _texts(root: Path, arm: str, seeds: Sequence[int], primary_sampling: str) -> TextFigures | None:
    rows = [row for seed in seeds for row in read_generations(RunFolder(root).arm(arm, seed).generations)]
    chosen = [row for row in rows if not primary_sampling or row.sampling.label == primary_sampling]
    return text_figures(chosen) if chosen else None


_COURSES: Mapping[str, tuple[str, str]] = {
    "train/reward": ("reward", ".3f"),
    "train/quality_loss": ("quality loss", ".3f"),
    "groups/clusters": ("distinct answers per group", ".2f"),
    "train/diversity_score": ("diversity score", ".3f"),
    "groups/distance": ("raw distance", ".2f"),
    GATE_SHARE: ("gate's share of the diversity gradient (the rest is the distance's)", ".0%"),
    "generation/entropy": ("entropy (nats per token)", ".2f"),
    "generation/tokens": ("tokens per answer", ".1f"),
    "generation/truncated": ("cut answers", ".1%"),
    "train/kl": ("KL to the start (nats)", ".2f"),
    "validation/cross_entropy": ("validation cross-entropy (nats per token)", ".3f"),
}
_LOGGED = (
    *_COURSES, LOSS_SHARE, GRADIENT_SHARE, "train/diversity_weight", "train/gradient_cosine",
    "train/diversity_signal_to_noise", "train/passing", "groups/no_signal", "groups/diversity_signal",
)  # fmt: skip


def _summary(evidence: ArmEvidence) -> list[str]:
    trace = evidence.trace
    n = len(trace.seeds)
    sentences = [f"{n} seed{'s' * (n != 1)}, {trace.steps} steps, loss: {evidence.facts.loss}"]
    if evidence.weight > 0:
        sentences.append(_pull(trace))
    courses = [
        f"{words} {_course(trace.early(key), trace.late(key), form)}"
        for key, (words, form) in _COURSES.items()
        if not math.isnan(trace.early(key))
    ]
    sentences.append("; ".join(courses))
    if evidence.floor is not None:
        sentences.append(evidence.floor.sentence)
    if evidence.texts is not None:
        texts = evidence.texts
        cut = f"{texts.truncated:.1%} of them cut"
        sentences.append(f"evaluated answers: {texts.tokens:.1f} tokens, {cut}{_tongues(texts)}")
    if evidence.distances:
        sentences.append(_moved(evidence.distances, evidence.is_baseline))
    return [sentence for sentence in sentences if sentence]


def _tongues(texts: TextFigures) -> str:
    """Names the scripts of a twentieth or more of the answers, where there is more than one."""
    shown = [f"{name.capitalize()} {share:.0%}" for name, share in texts.scripts.items() if share >= 0.05]
    return f"; {', '.join(shown)}" if len(texts.scripts) > 1 else ""


def _pull(trace: ArmTrace) -> str:
    """Says how hard the diversity term pulled, without what no step could measure. Its share of the gradient is what
    trains, not that of the loss."""
    courses = {
        words: _course(trace.early(key), trace.late(key), form)
        for words, key, form in (
            ("λ", "train/diversity_weight", ".3g"),
            ("share of the loss", LOSS_SHARE, ".0%"),
            ("share of the gradient", GRADIENT_SHARE, ".0%"),
        )
        if not math.isnan(trace.mean(key))
    }
    means = {
        words: format(trace.mean(key), form)
        for words, key, form in (
            ("cosine to the quality gradient", "train/gradient_cosine", ".2f"),
            ("signal-to-noise per step", "train/diversity_signal_to_noise", ".2g"),
        )
        if not math.isnan(trace.mean(key))
    }
    return ", ".join(f"{words} {value}" for words, value in (courses | means).items())


def _course(first: float, last: float, form: str) -> str:
    start, end = format(first, form), format(last, form)
    return start if start == end else f"{start} → {end}"


def _moved(distances: Sequence[AdapterDistance], is_baseline: bool) -> str:
    """Says how far the weights moved, with the modules that moved furthest (or furthest apart) in the first seed."""
    first = distances[0]
    when = "" if first.step is None else f" by the checkpoint of step {first.step}"
    moved = f"the weights moved by ‖ΔW‖ = {', '.join(f'{distance.norm:.3g}' for distance in distances)}{when}"
    if is_baseline or math.isnan(first.distance):
        without = "" if is_baseline else "; the baseline's are not on disk at the same progress to compare with"
        return f"{moved}{without}, most in {_furthest(first, lambda module: module.norm)}"
    compared = [distance for distance in distances if not math.isnan(distance.distance)]
    apart = ", ".join(f"{distance.distance:.3g}" for distance in compared)
    share = ", ".join(f"{distance.relative:.0%}" for distance in compared)
    return (
        f"{moved} and ended {apart} from the baseline's ({share} of how far that moved), furthest in "
        f"{_furthest(first, lambda module: module.distance)}"
    )


def _furthest(distance: AdapterDistance, by: Callable[[ModuleDistance], float]) -> str:
    modules = sorted(distance.modules, key=by, reverse=True)[:_LARGEST_MODULES]
    return ", ".join(f"{module.module} {by(module):.2g}" for module in modules)


_STYLES = {"fault": "bold red", "warning": "yellow"}


def show_diagnosis(name: str, diagnosis: Diagnosis, console: Console | None = None) -> None:
    """Prints each arm's summary, then its findings with their fixes. Text from data is no markup and no control
    code."""
    console = console or Console()
    console.print(Text(plain_text(name), style="bold underline"))
    for arm in diagnosis.arms:
        console.print(Text(plain_text(f"\n{arm.arm}"), style="bold"))
        for sentence in arm.summary:
            console.print(Text(plain_text(f"  {sentence}")), soft_wrap=True)
        if not arm.findings:
            console.print(Text("  nothing looks wrong", style="green"))
        for number, finding in enumerate(arm.findings, start=1):
            style = _STYLES[finding.severity]
            console.print(Text(plain_text(f"  {number}. {finding.kind}: {finding.sentence}"), style), soft_wrap=True)
            console.print(Text(plain_text(f"     → {finding.fix}")), soft_wrap=True)
