"""Checks training: the gradient probe, and the time and money that the run takes.

The probe asks whether each arm's diversity term pulls at all, and how hard beside the quality term.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from polychromic.experiment.config import Arm
from polychromic.experiment.jobs import arm_run
from polychromic.experiment.preflight.probe import Finding, Probe
from polychromic.ledger import duration
from polychromic.objective import gradient_share
from polychromic.run_folder import RunFolder
from polychromic.training.base import ArmRun
from polychromic.training.gradients import StepOutcome
from polychromic.training.schedule import total_steps
from polychromic.training.steps import Step, build_step
from polychromic.training.watches import zero_gradient_cause

_MOST_MEASURED_STEPS = 4  # where rewards are rare, one batch without any says nothing of the next
_WANTED_SHARE = 0.3
_FAINT_SHARE = 0.01
_FEWEST_MOVES = 5  # of a λ that tunes itself: from 1 to anywhere within a factor of thirty
_PART_OF_THE_TIME = 0.3  # that all arms together may take of the time that preflight has
_STEP_OF_SAMPLING = 4.0
_QUICK_SECONDS = 2.0  # while steps took less than this together, more are timed


@dataclass(frozen=True, slots=True)
class ProbedArm:
    """The first steps of an arm without an update; gradient norms are those at λ = 1."""

    first: StepOutcome
    """The measured step: the first one with a diversity signal, if one of the first few has any."""
    sampling_seconds: float
    """A step that samples: every one in reward training, every m-th where the loss is sft."""
    plain_seconds: float
    tokens_per_sampling_step: float
    held_out_seconds: float
    """A measurement of validation cross-entropy; 0 where no quality floor asks for it."""
    lowered: str = ""
    """The counts that were lowered for lack of time, in words."""
    stands_in: bool = False
    """True where these are another arm's numbers, since there was no time for this one's."""

    @property
    def norms(self) -> tuple[float, float]:
        """Returns the norms of the quality and the diversity gradient; nan without a diversity term."""
        measured = self.first.measurement
        return (measured.quality_norm, measured.diversity_norm) if measured else (math.nan, math.nan)


def probe_arms(probe: Probe) -> dict[str, ProbedArm]:
    """Probes every trained arm; arms that differ only in λ are probed once.

    Where the time is over, an arm takes the place of one that was probed and differs in more than λ: `stands_in`.
    """
    probed: dict[str, ProbedArm] = {}
    by_settings: dict[str, ProbedArm] = {}
    runs = {
        arm.name: arm_run(probe.experiment, arm, probe.experiment.seeds[0], RunFolder(probe.folder), probe.task)
        for arm in probe.trained_arms
    }
    keys = {arm.name: _settings_but_weight(arm, runs[arm.name]) for arm in probe.trained_arms}
    share = probe.limit.share(_PART_OF_THE_TIME) / max(1, len(set(keys.values())))
    # Those with a diversity term first: it is theirs that is asked for.
    for arm in sorted(probe.trained_arms, key=lambda arm: not arm.diversity.is_active):
        key = keys[arm.name]
        if key not in by_settings:
            if by_settings and not probe.limit.left:
                slowest = max(by_settings.values(), key=lambda arm: arm.sampling_seconds)
                probed[arm.name] = replace(slowest, stands_in=True)
                continue
            by_settings[key] = _probe_arm(probe, arm, runs[arm.name], share)
        probed[arm.name] = by_settings[key]
    return probed


def _settings_but_weight(arm: Arm, run: ArmRun) -> str:
    excluded = {"name": True, "diversity": {"weight", "mode", "target_share", "quality_floor", "floor_margin"}}
    return f"{arm.diversity.is_active} {run.measures_held_out} {arm.model_dump_json(exclude=excluded)}"


def _probe_arm(probe: Probe, arm: Arm, run: ArmRun, share: float) -> ProbedArm:
    """Computes some first steps of an arm within `share` seconds and throws the gradients away."""
    language_model = probe.language_model
    maker = build_step(run, language_model if arm.model == probe.baseline.model else probe.load(arm))
    started = time.perf_counter()
    held_out_seconds = _held_out_seconds(maker)
    every = arm.loss.sample_every
    size, scale, lowered = _size(probe, arm, maker, share)
    first, warm_up = _measured(maker, every, size, share)
    sampling, plain, tokens = [], [], [first.metrics.get("generation/total_tokens", 0.0)]
    # A step that samples and one that does not (where there are such), by turns.
    for number, step in enumerate((every, 1, 2 * every, 2, 3 * every, every + 1, 4 * every, every + 2)):
        quick = number >= 4 and sum(sampling) + sum(plain) > _QUICK_SECONDS
        if quick or time.perf_counter() - started + warm_up > share:
            break
        outcome, seconds = _timed(maker, step, size)
        sampled = "generation/total_tokens" in outcome.metrics
        (sampling if sampled else plain).append(seconds)
        if sampled:
            tokens.append(outcome.metrics["generation/total_tokens"])
    return ProbedArm(
        first,
        sampling_seconds=scale * min(sampling, default=warm_up),
        plain_seconds=scale * min(plain, default=0.0),
        tokens_per_sampling_step=scale * sum(tokens) / len(tokens),
        held_out_seconds=held_out_seconds,
        lowered=lowered,
    )


def _size(probe: Probe, arm: Arm, maker: Step, share: float) -> tuple[int, float, str]:
    """Returns how many prompts a probed step takes, by what share of a whole step that is less, and that in words.

    A measured step takes about `_STEP_OF_SAMPLING` times the sampling of its answers, as long as a generation of the
    untrained model is known to take.
    """
    wanted = min(maker.run.training.prompts_per_step, len(maker.prompts))
    sampled = probe.sampled
    if sampled is None or not arm.loss.samples:
        return wanted, 1.0, ""
    seconds = sampled.seconds_each * arm.loss.num_samples * _STEP_OF_SAMPLING
    size = wanted if seconds <= 0.0 else max(1, min(wanted, int(share / 2 / seconds)))
    return size, wanted / size, probe.limit.lowered(size, wanted, "prompts of a step")


def _held_out_seconds(maker: Step) -> float:
    """Times one measurement of validation references, which the timed steps leave out."""
    if maker.held_out is None:
        return 0.0
    started = time.perf_counter()
    maker.held_out.cross_entropy()
    return time.perf_counter() - started


def _measured(maker: Step, every: int, size: int, share: float) -> tuple[StepOutcome, float]:
    """Makes a step that measures its gradients, the first of a few that has a signal, and times it."""
    outcome, seconds = _timed(maker, 0, size, measures=True)
    for number in range(1, _MOST_MEASURED_STEPS):
        is_enough = outcome.diversity_has_signal or not maker.run.diversity.is_active
        # Without any signal one step more is worth its time: one batch alone decides nothing.
        if is_enough or (number > 1 and (number + 1) * seconds > share):
            break
        outcome, seconds = _timed(maker, number * every, size, measures=True)
    return outcome, seconds


def _timed(maker: Step, step: int, size: int, *, measures: bool = False) -> tuple[StepOutcome, float]:
    start = step * size % max(1, len(maker.prompts) - size + 1)
    plan = maker.plan(step)
    plan = replace(plan, measures=measures and plan.diversity, held_out=False)
    started = time.perf_counter()
    outcome = maker.make(step, maker.prompts[start : start + size], 1.0, plan)
    return outcome, time.perf_counter() - started


def diversity_gradient_reaches_the_weights(probe: Probe) -> Finding:
    """Tells each arm's gradient share at its λ, and the λ that would give 30 %."""
    active = [arm for arm in probe.trained_arms if arm.diversity.is_active]
    if not active:
        return Finding("passed", "no arm has a diversity term")
    lines, silent, faint, still, figures = [], [], [], [], {}
    lowered = next((arm.lowered for arm in probe.arms.values() if arm.lowered), "")
    for arm in active:
        probed = probe.arms[arm.name]
        if probed.stands_in:
            lines.append(f"{arm.name}: not probed, preflight.minutes are over")
            continue
        quality, diversity = probed.norms
        figures[arm.name] = share = _shares(arm, quality, diversity)
        if not diversity > 0 or not math.isfinite(diversity):
            silent.append(f"{arm.name}: {zero_gradient_cause(probed.first, arm.diversity)}")
            continue
        lines.append(f"{arm.name} {_at_weight(arm, share)}; λ = {share['weight_for_30_percent']:.2g} gives 30 %")
        if share["share"] is not None and share["share"] < _FAINT_SHARE:
            faint.append(arm.name)
        moves = _moves(probe, arm)
        if moves < _FEWEST_MOVES:
            still.append(f"{arm.name} has {moves} of its steps to tune λ at")
    result = ". ".join(lines) + lowered
    with_silent = ". ".join(["; ".join(silent), *lines]) + lowered
    if silent and lowered:  # fewer prompts than a step has may all be without a signal by chance
        return Finding(
            "warned",
            f"no diversity gradient in what there was time for: {with_silent}",
            "raise preflight.minutes to be sure; training stops where the gradient stays at 0",
            figures,
        )
    if silent:
        return Finding(
            "failed",
            f"the diversity term has no gradient at the start: {with_silent}",
            "training at this λ would be training at λ = 0: fix the cause first",
            figures,
        )
    if faint:
        return Finding(
            "warned",
            result,
            f"{', '.join(faint)}: under 1 % of the gradient will hardly differ from λ = 0; raise λ or use weight: auto",
            figures,
        )
    if still:
        return Finding(
            "warned",
            f"{result}. {'; '.join(still)}",
            "lower training.gradient_share_every, or train longer: λ moves at steps that measure both gradients alone",
            figures,
        )
    return Finding("passed", result, figures=figures)


def _moves(probe: Probe, arm: Arm) -> float:
    """Counts the steps at which an arm's λ moves to hold its share of the gradient; infinite where it follows
    another rule."""
    if arm.diversity.weight != "auto" or arm.diversity.mode != "share":
        return math.inf
    every = max(1, arm.training.gradient_share_every // arm.loss.sample_every)
    return -(-_steps(probe, arm)[1] // every)


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


_START_SECONDS = 10.0  # imports and loading in each worker
_COMPARE_SECONDS_PER_ROW = 1e-4  # measuring, bootstrap and page, as seen on the quickstart


def time_and_money(probe: Probe) -> Finding:
    """Projects hours, tokens and dollars of the whole run from the steps and generations that were timed here."""
    experiment, settings = probe.experiment, probe.experiment.evaluation
    arms = [experiment.arm(name) for name, _ in experiment.jobs]
    training = [_training_seconds(probe, arm) for arm in arms]
    n_generations = len(probe.evaluation_prompts) * settings.num_samples * len(settings.sampling)
    jobs = [trained + n_generations * probe.generations.seconds_each for trained in training]
    comparison = len(jobs) * n_generations * _COMPARE_SECONDS_PER_ROW
    seconds = _makespan(jobs, probe.workers) + _START_SECONDS + comparison
    tokens_each = probe.generations.tokens / len(probe.generations.rows)
    tokens = sum(_training_tokens(probe, arm) + n_generations * tokens_each for arm in arms)
    dollars = experiment.budget.dollars(seconds)
    text = f"about {duration(seconds)}" + ("" if dollars is None else f", ${dollars:.2f}")
    figures = {"seconds": seconds, "tokens": tokens, "dollars": dollars, "text": text}
    exceeded = experiment.budget.exceeded(seconds)
    if exceeded:
        return Finding("warned", f"{text}: more than the budget allows", f"{exceeded}: raise it or do less", figures)
    return Finding("passed", f"{text}, {tokens / 1e6:.1f} M sampled tokens", figures=figures)


def _training_seconds(probe: Probe, arm: Arm) -> float:
    if arm.untrained:
        return 0.0
    probed = probe.arms[arm.name]
    steps, sampling = _steps(probe, arm)
    seconds = sampling * probed.sampling_seconds + (steps - sampling) * probed.plain_seconds
    seconds += -(-steps // arm.training.validation_every) * probed.held_out_seconds
    early = arm.training.early_stopping
    if early is not None:
        checks = steps // early.check_every
        seconds += checks * early.num_prompts * early.num_samples * probe.generations.seconds_each
    return seconds


def _steps(probe: Probe, arm: Arm) -> tuple[int, int]:
    """Counts the updates of an arm, and those that sample."""
    steps = total_steps(arm.training, len(probe.task.prompts("train")))
    return steps, -(-steps // arm.loss.sample_every) if arm.loss.samples else 0


def _training_tokens(probe: Probe, arm: Arm) -> float:
    return 0.0 if arm.untrained else _steps(probe, arm)[1] * probe.arms[arm.name].tokens_per_sampling_step


def _makespan(jobs: Sequence[float], workers: int) -> float:
    """Returns when the last of the jobs ends if each worker takes the next one as it becomes free."""
    free = [0.0] * min(workers, len(jobs))
    for job in jobs:
        heapq.heappush(free, heapq.heappop(free) + job)
    return max(free)
