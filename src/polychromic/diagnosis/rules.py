"""Findings about a run, from the evidence of its arms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from polychromic.diagnosis.traces import ArmTrace, FloorRecord, TextFigures, switched
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
    loss: str
    weight: float
    temperature: float
    max_new_tokens: int
    distance: AdapterDistance | None
    texts: TextFigures | None = None
    """Of the evaluated generations, None where there are none yet."""
    baseline_texts: TextFigures | None = None
    floor: FloorRecord | None = None
    """What became of the floor that λ had to keep, None for an arm without one."""


_FEWEST_MEASUREMENTS = 5  # before which λ has had no time to answer

Rule = Callable[[ArmEvidence], Finding | None]


def find(evidence: ArmEvidence) -> list[Finding]:
    """All findings of an arm, in the order in which to act on them: faults first.

    A cause silences its own consequences: identical generations also close the gradient, and saying both would
    only hide the first.
    """
    found: list[Finding] = []
    for rule in CAUSES:
        cause = rule(evidence)
        if cause is not None:
            found.append(cause)
            break
    found += [finding for rule in SYMPTOMS if (finding := rule(evidence)) is not None]
    return sorted(found, key=lambda finding: finding.severity != "fault")


def never_ends(evidence: ArmEvidence) -> Finding | None:
    """Nearly every generation was cut, from the beginning on: one that forgot how to end is another matter.

    An arm that samples nothing while it trains is judged by what was evaluated.
    """
    truncated, where = evidence.trace.late("generation/truncated"), "the generations"
    if math.isnan(truncated) and evidence.texts is not None:
        truncated, where = evidence.texts.truncated, "the evaluated generations"
    elif not evidence.trace.early("generation/truncated") >= 0.5:
        return None
    if not truncated >= 0.9:
        return None
    return Finding(
        "never-ends",
        "fault",
        f"{_percent(truncated)} of {where} were cut at max_new_tokens = {evidence.max_new_tokens}: the model "
        "does not end its answers",
        "train on references that end with the turn end first (the loss mask covers it), or raise max_new_tokens",
    )


def gate_closed(evidence: ArmEvidence) -> Finding | None:
    """Nothing ever passed."""
    if evidence.trace.largest("train/passing") != 0.0:
        return None
    best = evidence.trace.largest("train/reward")
    if best > 0.0:
        return Finding(
            "gate-closed",
            "warning",
            f"no generation ever reached the pass threshold (mean reward of a step at most {best:.2f}), so that "
            "diversity among passing answers has nothing to follow",
            "lower the threshold, train for quality first, or weigh by the reward itself (gate: product)",
        )
    return Finding(
        "gate-closed",
        "fault",
        "no generation ever passed the checker, so that neither reward nor gated diversity has anything to follow",
        "look at generations beside the checker's verdict; train on references first, or use an easier checker",
    )


def identical_generations(evidence: ArmEvidence) -> Finding | None:
    """Every group was one answer from the first steps on: no set differs from another."""
    if not evidence.trace.early("groups/clusters") <= 1.05:
        return None
    return Finding(
        "identical-generations",
        "fault",
        f"all generations of a prompt were the same from the beginning (sampled at temperature "
        f"{evidence.temperature:g}): without differences there is nothing to learn from",
        "sample at training.temperature near 1, and start from a model that has not collapsed",
    )


def checker_passes_everything(evidence: ArmEvidence) -> Finding | None:
    """The reward was full from the first steps on."""
    if not evidence.trace.early("train/passing") >= 0.98 or evidence.trace.early("groups/clusters") <= 1.05:
        return None
    return Finding(
        "checker-passes-everything",
        "fault" if evidence.loss == "rl" else "warning",
        f"{_percent(evidence.trace.early('train/passing'))} of the generations passed from the first steps on: the "
        "checker accepts nearly anything, or the task is solved already",
        "audit the checker (`polychromic preflight`): it has to refuse shuffled, empty and repeated answers",
    )


def no_gradient_path(evidence: ArmEvidence) -> Finding | None:
    """Credit was there and moved the loss, but no gradient of it reached the weights: the origin's mistake."""
    trace = evidence.trace
    share, loss = trace.largest(GRADIENT_SHARE), trace.mean(LOSS_SHARE)
    if evidence.weight == 0 or share != 0.0 or not trace.mean("groups/diversity_signal") > 0:
        return None
    return Finding(
        "no-gradient-path",
        "fault",
        f"the diversity term is {_percent(loss)} of the loss and 0 % of the gradient at λ = {evidence.weight:g}: its "
        "score is detached, and training at any λ is training at λ = 0",
        "compute the term from log-probabilities of the sampled tokens (objective.losses), never from a number",
    )


def weight_too_small(evidence: ArmEvidence) -> Finding | None:
    """The diversity gradient is there but drowned."""
    share = evidence.trace.mean(GRADIENT_SHARE)
    if evidence.weight == 0 or not 0 < share < 0.01:
        return None
    needed = evidence.weight * 0.3 / 0.7 * (1 - share) / share
    return Finding(
        "weight-too-small",
        "warning",
        f"at λ = {evidence.weight:g} the diversity term is {_percent(share)} of the gradient: the arm can hardly "
        "differ from the baseline",
        f"raise diversity.weight; about {needed:.2g} would give it 30 %, or let it tune itself (weight: auto)",
    )


def no_diversity_signal(evidence: ArmEvidence) -> Finding | None:
    """Groups whose sets all score the same, for no cause above."""
    signal = evidence.trace.mean("groups/diversity_signal")
    if evidence.weight == 0 or not signal < 0.1:
        return None
    return Finding(
        "no-diversity-signal",
        "warning",
        f"only {_percent(signal)} of the groups gave the diversity term anything to prefer",
        "use more generations a prompt, another set size, or prompts of middling difficulty",
    )


def same_weights_as_baseline(evidence: ArmEvidence) -> Finding | None:
    """Two arms that ended in one place."""
    distance = evidence.distance
    if evidence.is_baseline or evidence.weight == 0 or distance is None or not distance.relative < 1e-6:
        return None
    return Finding(
        "same-weights-as-baseline",
        "fault",
        "the trained weights equal the baseline's: the diversity term changed nothing",
        "compare loss share and gradient share above; a term without a gradient trains nothing",
    )


def weights_did_not_move(evidence: ArmEvidence) -> Finding | None:
    """An adapter that is still where it began."""
    if evidence.distance is None or evidence.distance.norm != 0.0:
        return None
    return Finding(
        "weights-did-not-move",
        "fault",
        "the adapter's update is exactly zero: nothing was learnt",
        "raise training.learning_rate, and see whether any group had a signal (groups/no_signal)",
    )


def collapse(evidence: ArmEvidence) -> Finding | None:
    """Answers fewer and entropy lower at the end than at the beginning."""
    trace = evidence.trace
    before, after = trace.early("groups/clusters"), trace.late("groups/clusters")
    if not (after < 0.6 * before and before > 1.05):
        return None
    first, last = trace.early("generation/entropy"), trace.late("generation/entropy")
    entropy = "" if math.isnan(last) else f", entropy from {first:.2f} to {last:.2f} nats a token"
    return Finding(
        "collapse",
        "warning",
        f"distinct answers a group fell from {before:.1f} to {after:.1f}{entropy}",
        "expected of the baseline in reward training; in a diversity arm raise λ, add kl_weight or stop earlier",
    )


def entropy_explosion(evidence: ArmEvidence) -> Finding | None:
    """Sampling that grows towards noise."""
    before, after = evidence.trace.early("generation/entropy"), evidence.trace.late("generation/entropy")
    if not (after > 1.5 * before and after > before + 0.5):
        return None
    return Finding(
        "gibberish-growth",
        "warning",
        f"entropy a token grew from {before:.2f} to {after:.2f} nats: the answers drift towards noise",
        "lower λ, gate diversity by quality (gate: product or passing), or hold a floor (weight: auto, mode: floor)",
    )


def length_hacking(evidence: ArmEvidence) -> Finding | None:
    """Answers that grow while the score does, or that grow into the token limit."""
    trace = evidence.trace
    before, after = trace.early("generation/tokens"), trace.late("generation/tokens")
    cut_before, cut_after = trace.early("generation/truncated"), trace.late("generation/truncated")
    much_longer = after > 1.5 * before and after > before + 5
    if not (much_longer or cut_after > cut_before + 0.25):
        return None
    return Finding(
        "length-hacking",
        "warning",
        f"answers grew from {before:.0f} to {after:.0f} tokens while training, and {_percent(cut_after)} of them are "
        f"cut at max_new_tokens = {evidence.max_new_tokens} ({_percent(cut_before)} at the beginning)",
        "checker or diversity measure pays for length: set training.truncation_reward: zero, raise max_new_tokens, and "
        "compare at matched length (rarefied Distinct-n)",
    )


def gate_eats_diversity(evidence: ArmEvidence) -> Finding | None:
    """The gated score rose and the answers came closer together."""
    trace = evidence.trace
    before, after = trace.early("groups/distance"), trace.late("groups/distance")
    score = (trace.early("train/diversity_score"), trace.late("train/diversity_score"))
    if evidence.weight == 0 or not (after < 0.85 * before and score[1] > score[0]):
        return None
    gradient, credit = trace.mean(GATE_SHARE), trace.mean("train/diversity_gate_share")
    share, of_what = (credit, "credit") if math.isnan(gradient) else (gradient, "diversity gradient")
    return Finding(
        "gate-eats-diversity",
        "warning",
        f"the gated score rose from {score[0]:.2f} to {score[1]:.2f} while the raw distance between answers fell from "
        f"{before:.2f} to {after:.2f}; {_percent(share)} of the {of_what} came from the gate",
        "use gate: passing, or no gate under a quality floor (weight: auto, mode: floor); judge by the frontier",
    )


def reward_without_signal(evidence: ArmEvidence) -> Finding | None:
    """Most groups are all right or all wrong at the end: nothing left to learn from."""
    silent = evidence.trace.late("groups/no_signal")
    if evidence.loss != "rl" or not silent > 0.8:
        return None
    return Finding(
        "reward-without-signal",
        "warning",
        f"{_percent(silent)} of the last groups had no signal: all their generations get one and the same reward",
        "choose prompts of middling difficulty, more generations a prompt, or stop earlier",
    )


def overfitting(evidence: ArmEvidence) -> Finding | None:
    """References of validation that become less likely."""
    before, after = (edge("validation/cross_entropy") for edge in (evidence.trace.early, evidence.trace.late))
    if not after > 1.05 * before:
        return None
    said = f"cross-entropy of validation references rose from {before:.2f} to {after:.2f} nats a token"
    mend = "stop earlier, lower training.learning_rate or add references: these are being learnt by heart"
    return Finding("overfitting", "warning", said, mend)


def far_from_the_start(evidence: ArmEvidence) -> Finding | None:
    """A KL that ran away."""
    divergence = evidence.trace.late("train/kl")
    if not divergence > 10.0:
        return None
    return Finding(
        "far-from-the-start",
        "warning",
        f"the policy is {divergence:.1f} nats a generation away from where it started",
        "raise training.kl_weight or lower the learning rate",
    )


def below_floor(evidence: ArmEvidence) -> Finding | None:
    """λ was to keep a quality floor, and quality ended below it."""
    record = evidence.floor
    if record is None or not record.broken or record.measurements < _FEWEST_MEASUREMENTS:
        return None
    clear = any(seed.mean + 2 * seed.standard_error < record.lowest for seed in record.broken)
    return Finding(
        "below-floor",
        "warning",
        f"{record.sentence}: {len(record.broken)} of {len(record.seeds)} seeds ended below it"
        + ("" if clear else ", though not by more than two standard errors"),
        "train longer, since λ needs steps to come down, or ask for a floor that lies higher; see whether λ is at its "
        "lowest bound",
    )


def other_language(evidence: ArmEvidence) -> Finding | None:
    """Answers in scripts or languages that the baseline uses less."""
    if evidence.texts is None or evidence.baseline_texts is None:
        return None
    share, risen = switched(evidence.texts, evidence.baseline_texts)
    if not share > 0.1:
        return None
    return Finding(
        "language-switching",
        "warning",
        f"{_percent(share)} of the evaluated answers are in another language or script than the baseline's, most "
        f"of all {risen.capitalize()}",
        "let the checker refuse answers in another language: switching is the cheapest diversity",
    )


# In the order in which one explains the next; the first that holds is the cause.
CAUSES: tuple[Rule, ...] = (
    never_ends,
    gate_closed,
    identical_generations,
    checker_passes_everything,
    no_gradient_path,
    weight_too_small,
    no_diversity_signal,
)
SYMPTOMS: tuple[Rule, ...] = (
    same_weights_as_baseline,
    weights_did_not_move,
    collapse,
    entropy_explosion,
    length_hacking,
    gate_eats_diversity,
    reward_without_signal,
    overfitting,
    below_floor,
    far_from_the_start,
    other_language,
)


def _percent(share: float) -> str:
    if math.isnan(share):
        return "an unknown share"
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.2g} %"
