"""The gradient probe: does each arm's diversity term pull at all, and how hard beside the quality term?"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

from polychromic.experiment.config import Arm
from polychromic.experiment.executors import is_measured_from
from polychromic.experiment.preflight.checks import Finding, Probe
from polychromic.objective import gradient_share
from polychromic.training.base import ArmRun
from polychromic.training.gradients import StepOutcome
from polychromic.training.steps import Step, build_step
from polychromic.training.watches import zero_gradient_cause

_MOST_MEASURED_STEPS = 4  # where rewards are rare, one batch without any says nothing of the next
_WANTED_SHARE = 0.3
_FAINT_SHARE = 0.01
_ENOUGH_SECONDS = 40.0  # an arm is not probed any longer than this once it has been timed at all
_QUICK_SECONDS = 2.0  # while steps took less than this together, more are timed


@dataclass(frozen=True, slots=True)
class ProbedArm:
    """First steps of an arm without an update; gradient norms are those at λ = 1."""

    first: StepOutcome
    """The measured step: the first one with a diversity signal, if one of the first few has any."""
    sampling_seconds: float
    """A step that samples: every one in reward training, every m-th where the loss is sft."""
    plain_seconds: float
    tokens_a_sampling_step: float
    held_out_seconds: float
    """A measurement of validation cross-entropy; 0 where no quality floor asks for it."""

    @property
    def norms(self) -> tuple[float, float]:
        """Norms of the quality and the diversity gradient; nan without a diversity term."""
        measured = self.first.measurement
        return (measured.quality_norm, measured.diversity_norm) if measured else (math.nan, math.nan)


def probe_arms(probe: Probe) -> dict[str, ProbedArm]:
    """Every trained arm probed; arms that differ only in λ are probed once."""
    found: dict[str, ProbedArm] = {}
    by_settings: dict[str, ProbedArm] = {}
    for arm in probe.trained_arms:
        run = _arm_run(probe, arm)
        key = _settings_but_weight(arm, run)
        if key not in by_settings:
            by_settings[key] = _probe_arm(probe, arm, run)
        found[arm.name] = by_settings[key]
    return found


def _arm_run(probe: Probe, arm: Arm) -> ArmRun:
    return ArmRun(
        experiment=probe.experiment.name,
        arm=arm.name,
        seed=probe.experiment.seeds[0],
        folder=Path("never-written"),
        task=probe.task,
        model=arm.model,
        training=arm.training,
        diversity=arm.diversity,
        thinking=probe.experiment.task.thinking,
        is_measured_from=is_measured_from(probe.experiment, arm.name),
    )


def _settings_but_weight(arm: Arm, run: ArmRun) -> str:
    excluded = {
        "name": True,
        "diversity": {"weight", "mode", "target_share", "quality_floor", "floor_margin"},
    }
    return f"{arm.diversity.is_active} {run.measures_held_out} {arm.model_dump_json(exclude=excluded)}"


def _probe_arm(probe: Probe, arm: Arm, run: ArmRun) -> ProbedArm:
    """Compute some first steps of an arm and throw the gradients away."""
    language_model = probe.language_model
    if arm.model != probe.baseline.model:
        language_model = probe.load(arm)
    maker = build_step(run, language_model)
    held_out_seconds = _held_out_seconds(maker)
    every = arm.loss.sample_every
    first, warm_up = _measured(maker, every)
    sampling, plain, tokens = [], [], [first.metrics.get("generation/total_tokens", 0.0)]
    # A step that samples and one that does not (where there are such), by turns.
    for number, step in enumerate((every, 1, 2 * every, 2, 3 * every, every + 1, 4 * every, every + 2)):
        if sum(sampling) + sum(plain) > (_ENOUGH_SECONDS if number < 4 else _QUICK_SECONDS):
            break
        outcome, seconds = _timed(maker, step)
        sampled = "generation/total_tokens" in outcome.metrics
        (sampling if sampled else plain).append(seconds)
        if sampled:
            tokens.append(outcome.metrics["generation/total_tokens"])
    return ProbedArm(
        first,
        sampling_seconds=min(sampling, default=warm_up),
        plain_seconds=min(plain, default=0.0),
        tokens_a_sampling_step=sum(tokens) / len(tokens),
        held_out_seconds=held_out_seconds,
    )


def _held_out_seconds(maker: Step) -> float:
    """Time of one look at validation references, which the timed steps are spared."""
    started = time.perf_counter()
    if maker.held_out is not None:
        maker.held_out.cross_entropy()
    return 0.0 if maker.held_out is None else time.perf_counter() - started


def _measured(maker: Step, every: int) -> tuple[StepOutcome, float]:
    """A step that measures its gradients, the first one with a signal of the first few, and its seconds."""
    outcome, seconds = _timed(maker, 0, measures=True)
    for number in range(1, _MOST_MEASURED_STEPS):
        if outcome.diversity_has_signal or not maker.run.diversity.is_active:
            break
        outcome, seconds = _timed(maker, number * every, measures=True)
    return outcome, seconds


def _timed(maker: Step, step: int, *, measures: bool = False) -> tuple[StepOutcome, float]:
    size = min(maker.run.training.prompts_per_step, len(maker.prompts))
    start = step * size % max(1, len(maker.prompts) - size + 1)
    plan = maker.plan(step)
    plan = replace(plan, measures=measures and plan.diversity, held_out=False)
    started = time.perf_counter()
    outcome = maker.make(step, maker.prompts[start : start + size], 1.0, plan)
    return outcome, time.perf_counter() - started


def diversity_gradient_reaches_the_weights(probe: Probe) -> Finding:
    """Each arm's gradient share at its λ, and the λ that would give 30 %."""
    active = [arm for arm in probe.trained_arms if arm.diversity.is_active]
    if not active:
        return Finding("passed", "no arm has a diversity term")
    lines, silent, faint, figures = [], [], [], {}
    for arm in active:
        probed = probe.arms[arm.name]
        quality, diversity = probed.norms
        figures[arm.name] = share = _shares(arm, quality, diversity)
        if not diversity > 0 or not math.isfinite(diversity):
            silent.append(f"{arm.name}: {zero_gradient_cause(probed.first, arm.diversity)}")
            continue
        lines.append(
            f"{arm.name} {_at_weight(arm, share)}; λ = {share['weight_for_30_percent']:.2g} gives 30 %"
        )
        if share["share"] is not None and share["share"] < _FAINT_SHARE:
            faint.append(arm.name)
    result = ". ".join(lines)
    if silent:
        return Finding(
            "failed",
            f"the diversity term has no gradient at the start: {'; '.join(silent)}. {result}".rstrip(),
            "training at this λ would be training at λ = 0: mend the cause first",
            figures,
        )
    if faint:
        return Finding(
            "warned",
            result,
            f"{', '.join(faint)}: under 1 % of the gradient will hardly differ from λ = 0; raise λ or use weight: auto",
            figures,
        )
    return Finding("passed", result, figures=figures)


def _shares(arm: Arm, quality: float, diversity: float) -> dict[str, float | None]:
    weight = arm.diversity.weight
    usable = diversity > 0 and math.isfinite(diversity)
    share = gradient_share(quality, float(weight) * diversity) if usable and weight != "auto" else None
    wanted = _WANTED_SHARE / (1 - _WANTED_SHARE) * quality / diversity if usable else None
    return {"share": share, "weight_for_30_percent": wanted}


def _at_weight(arm: Arm, share: dict[str, float | None]) -> str:
    if share["share"] is None:
        return "tunes its λ"
    return f"at λ = {arm.diversity.weight:g}: {100 * share['share']:.0f} % of the gradient"
